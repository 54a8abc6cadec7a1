"""`verify` compares provenance with rows, and names the first place where they differ."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.cli.command import main
from mixstream.corpus import verify_provenance
from mixstream.corpus.convert import convert
from mixstream.corpus.provenance import PROVENANCE
from mixstream.corpus.verify import corpus_faults
from mixstream.corpus.verify_provenance import ProvenanceCheck, segments_of
from tests.corpus.conftest import make_raw, write_texts

SMALL = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 512, "unit_bytes": 1500}


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


rows_of_pieces = st.tuples(st.booleans(), st.lists(st.integers(2, 9), min_size=1, max_size=4))


@given(st.lists(rows_of_pieces, min_size=1, max_size=6), st.integers(37, 40))
def test_segments_are_the_pieces_that_were_laid_out(laid, seq_len):
    rows, expected = np.zeros((len(laid), seq_len), np.uint16), []
    for row, (begins_with_an_end, lengths) in enumerate(laid):
        at = 0
        for length in [1] * begins_with_an_end + lengths:
            rows[row, at : at + length - 1] = 7
            expected.append([row, at, length])
            at += length
    np.testing.assert_array_equal(segments_of(rows, 0), expected)


@pytest.mark.parametrize("packing", ["concat", "best_fit", "pad"])
@pytest.mark.parametrize("block_ids", [16, 48, 2**20])
def test_every_packer_s_provenance_tells_of_each_token_once(
    tmp_path, packing, block_ids, monkeypatch
):
    monkeypatch.setattr(verify_provenance, "_BLOCK_IDS", block_ids)
    monkeypatch.setattr("mixstream.corpus.provenance._GROUP_PIECES", 7)
    raw, out = make_raw(tmp_path / "raw", domains=2), tmp_path / "out"
    write_texts(raw / "empty" / "a.jsonl", [""])
    options = {**SMALL, "provenance": True, "packing": packing}
    convert(raw, out, **options)
    assert list(corpus_faults(out)) == []
    write_texts(raw / "domain0" / "zz.jsonl", ["more", "x" * 99])
    convert(raw, out, append=True, **options)
    assert list(corpus_faults(out)) == []


def changed(path, **columns):
    table = pq.read_table(path)
    for name, change in columns.items():
        values = change(table[name].to_numpy().copy())
        number = table.column_names.index(name)
        table = table.set_column(number, name, pa.array(values, table[name].type))
    pq.write_table(table, path, row_group_size=50)


def plus_one(place):
    def change(values):
        values[place] += 1
        return values

    return change


WRONG = {
    "a length": ({"length": plus_one(60)}, r"it tells of \d+ ids from column \d+ of row \d+ on wh"),
    "a row": ({"row": plus_one(60)}, r"it tells of .* where the rows hold \d+ ids from column"),
    "the last row": ({"row": plus_one(-1)}, r"it tells of nothing more where|of row \d+ on where"),
    "a beginning": ({"offset": plus_one(0)}, r"\d+ documents begin in it, but corpus.json says 24"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_provenance_that_does_not_fit_the_rows_is_named(tmp_path, kind, capsys):
    raw, out = make_raw(tmp_path / "raw", domains=2), tmp_path / "out"
    convert(raw, out, provenance=True, **SMALL)
    path = out / "domain0" / PROVENANCE
    changes, message = WRONG[kind]
    changed(path, **changes)
    (fault,) = corpus_faults(out)
    assert fault.startswith(f"{path}: ")
    assert re.search(message, fault)
    assert main(["verify", str(out)]) == 1
    assert str(path) in capsys.readouterr().out


def test_pieces_of_rows_that_are_not_there_and_missing_ones_are_named(tmp_path):
    raw, out = make_raw(tmp_path / "raw", domains=2), tmp_path / "out"
    convert(raw, out, provenance=True, **SMALL)
    path = out / "domain1" / PROVENANCE
    whole = pq.read_table(path)
    pq.write_table(pa.concat_tables([whole, whole.slice(len(whole) - 1)]), path)
    assert "where the rows hold nothing more" in next(corpus_faults(out))
    last = whole.slice(len(whole) - 1)
    last = last.set_column(0, "row", pa.array([10**6], whole["row"].type))
    pq.write_table(pa.concat_tables([whole, last]), path)
    assert [*corpus_faults(out)] == [f"{path}: 1 pieces stand in rows that the domain has not"]
    pq.write_table(whole.slice(0, len(whole) - 1), path)
    assert "it tells of nothing more where the rows hold" in next(corpus_faults(out))
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path} cannot be read" in next(corpus_faults(out))
    pq.write_table(whole.drop_columns(["offset"]), path)
    assert f"{path} cannot be read" in next(corpus_faults(out))
    path.unlink()
    assert f"{path} is missing: the corpus was converted without" in next(corpus_faults(out))


def test_one_row_group_is_held_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("mixstream.corpus.provenance._GROUP_PIECES", 64)
    monkeypatch.setattr(verify_provenance, "_BLOCK_IDS", 16 * 8)
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_texts(raw / "web" / "a.jsonl", [f"text {n}" for n in range(3000)])
    convert(raw, out, provenance=True, **{**SMALL, "unit_bytes": 10**6, "shard_bytes": 10**6})
    held, take = [], ProvenanceCheck._take

    def watched(self, end_row):
        found = take(self, end_row)
        held.append(len(self._held) + len(found))
        return found

    monkeypatch.setattr(ProvenanceCheck, "_take", watched)
    assert list(corpus_faults(out)) == []
    assert len(held) > 20
    assert max(held) <= 64 + 8 * 16
