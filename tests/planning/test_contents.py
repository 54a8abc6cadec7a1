import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.corpus.corpus import open_corpus
from mixstream.errors import RecipeError
from mixstream.planning import contents_of, described_contents
from tests.corpus.shards import make_rows, write_domain


def test_a_description_by_hand():
    found = described_contents("web=1e3:4,a=b=10:1", seq_len=8)
    assert {name: rows.tolist() for name, rows in found.layout.items()} == {
        "web": [250, 250, 250, 250],
        "a=b": [10],
    }
    # a row is 8 ids of 4 bytes, and 4 bytes that say where it starts
    assert found.stored_bytes.tolist() == found.raw_bytes.tolist() == [9000] * 4 + [360]
    assert (found.seq_len, found.is_described, found.first_shard.tolist()) == (8, True, [0, 4, 5])


@given(rows=st.integers(1, 10**6), shards=st.integers(1, 200))
def test_described_shards_are_as_many_as_asked_and_hold_all_rows(rows, shards):
    shards = min(rows, shards)
    sizes = described_contents(f"d={rows}:{shards}", seq_len=4).layout["d"]
    assert (len(sizes), sizes.sum()) == (shards, rows)
    assert sizes.min() >= 1


def test_a_description_in_toml(tmp_path):
    path = tmp_path / "corpus.toml"
    path.write_text(
        'seq_len = 16\ndtype = "uint16"\n[domains]\nweb = { rows = 1_000, shards = 3 }\n'
    )
    found = described_contents(str(path))
    assert found.layout["web"].tolist() == [334, 334, 332]
    assert found.raw_bytes.tolist() == [334 * 36, 334 * 36, 332 * 36]
    assert described_contents(str(path), seq_len=4).raw_bytes[0] == 334 * 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web", "'web' is not NAME=ROWS:SHARDS, as in web=1e12:1000000"),
        ("web=10", "'web=10' is not NAME=ROWS:SHARDS"),
        ("web=10:2,web=5:1", "domain 'web' is described twice"),
        ("web=10.5:2", r"domain 'web': 'rows' is '10.5'; give a whole number of at least 1"),
        ("web=x:2", "'rows' is 'x'; give a whole number"),
        ("web=10:0", "'shards' is '0'; give a whole number"),
        ("web=10:11", "11 shards of 10 rows; give no more shards than rows"),
        ("web=1e12:1000", "shards of 1000000000 rows of 8196 bytes; .* Give at least 1908"),
        ("none.toml", "cannot read none.toml: No such file"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        described_contents(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [", "is no TOML"),
        ("rows = 3", "unknown key 'rows'; it knows seq_len, dtype, domains"),
        ('dtype = "int8"', "'dtype' is 'int8'; give one of uint16, uint32"),
        ("seq_len = 0", "'seq_len' is 0; give a whole number"),
        ("seq_len = true", "'seq_len' is True; give a whole number"),
        ("seq_len = 4", "no domains; give NAME=ROWS:SHARDS, or a table"),
        ("[domains]\nweb = 3", "domain 'web' is 3; give { rows = N, shards = N }"),
        ("[domains]\nweb = { rows = [], shards = 2 }", r"'rows' is \[\]; give a whole number"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, message):
    (tmp_path / "corpus.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        described_contents(str(tmp_path / "corpus.toml"))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_real_corpus_is_what_its_index_says(tmp_path, compression):
    entries = write_domain(tmp_path / "web", make_rows(20, 16), compression=compression)
    found = contents_of(open_corpus({"web": tmp_path / "web"}))
    raw = np.array([entry.raw.num_bytes for entry in entries])
    packed = np.array([entry.zip.num_bytes if entry.zip else 0 for entry in entries])
    assert found.raw_bytes.tolist() == raw.tolist()
    assert found.stored_bytes.tolist() == np.where(packed, packed, raw).tolist()
    assert found.made_bytes.tolist() == (raw + packed).tolist()
    assert (found.seq_len, found.num_rows.tolist()) == (16, [20])
