"""Every id of every row is told where it comes from, whatever packs it, converts it or kills it."""

import gzip
import itertools
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import RecipeError, ShardError, convert, open_corpus
from mixstream.cli.command import main
from mixstream.corpus.packing import RowForm, open_packer
from mixstream.corpus.provenance import PROVENANCE, pieces_of_row
from mixstream.corpus.segments import padding_mask
from tests.corpus.conftest import all_rows, assert_counts_are_exact, make_raw, tree, write_texts

SMALL = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 512, "unit_bytes": 1500}
PACKINGS = ("concat", "best_fit", "pad")


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


def texts_of_raw(raw, domain):
    """(file, record) -> text, for every document of a domain, by readers of their own."""
    found = {}
    for path in sorted((raw / domain).rglob("*.*")):
        name = path.relative_to(raw / domain).as_posix()
        if name.endswith(".parquet"):
            texts = pq.read_table(path)["text"].to_pylist()
        elif name.endswith(".txt"):
            texts = [path.read_text()]
        else:
            content = path.read_bytes()
            if name.endswith(".gz"):
                content = gzip.decompress(content)
            elif name.endswith(".zst"):
                content = zstandard.ZstdDecompressor().decompress(content)
            texts = [json.loads(line)["text"] for line in content.splitlines()]
        found |= {(name, number): text for number, text in enumerate(texts, 1) if text}
    return found


def assert_every_id_is_told(corpus, folder, raw, domain):
    """Pieces and padding fill every row, and each piece is what its document says there."""
    rows = all_rows(corpus, domain)
    told = pq.read_table(folder / domain / PROVENANCE).to_pylist()
    texts = texts_of_raw(raw, domain)
    assert [(each["row"], each["start"]) for each in told] == sorted(
        (each["row"], each["start"]) for each in told
    )
    is_told = np.zeros(rows.shape, np.int64)
    ids_of = Counter()
    for each in told:
        span = slice(each["start"], each["start"] + each["length"])
        key = each["file"], each["record"]
        ids = [*texts[key].encode(), corpus.end_id]
        assert rows[each["row"], span].tolist() == ids[each["offset"] :][: each["length"]]
        is_told[each["row"], span] += 1
        ids_of[key] += each["length"]
    np.testing.assert_array_equal(is_told, ~padding_mask(rows, corpus.end_id))
    assert ids_of == {key: len(text.encode()) + 1 for key, text in texts.items()}
    assert sum(ids_of.values()) == corpus.manifest.domains[domain].tokens


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_id_of_every_row_is_told_and_workers_change_no_byte(tmp_path, packing):
    raw = make_raw(tmp_path / "raw", files=5)
    write_texts(raw / "domain0" / "deep" / "a.txt", ["a text file äöü " * 9])
    window = {"packing_window": 100} if packing == "best_fit" else {}
    for name, workers in (("a", 1), ("b", 2)):
        convert(
            raw, tmp_path / name, packing=packing, provenance=True, workers=workers,
            **window, **SMALL
        )  # fmt: skip
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    corpus = open_corpus(tmp_path / "a")
    assert_counts_are_exact(corpus)
    for domain in corpus.domains:
        assert_every_id_is_told(corpus, tmp_path / "a", raw, domain)


def test_lines_of_a_file_that_is_cut_into_parts_count_from_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr("mixstream.corpus.plan.MIN_PART_BYTES", 64)
    raw = tmp_path / "raw"
    texts = [f"{n} " * (n % 7) for n in range(200)]  # some are empty
    write_texts(raw / "web" / "a.jsonl", texts)
    report = convert(raw, tmp_path / "out", provenance=True, **{**SMALL, "unit_bytes": 300})
    assert report.domains["web"].dropped == {"empty": 29}
    corpus = open_corpus(tmp_path / "out")
    assert_every_id_is_told(corpus, tmp_path / "out", raw, "web")


def test_documents_are_called_as_their_records_say(tmp_path):
    folder = tmp_path / "raw" / "web"
    folder.mkdir(parents=True)
    lines = ['{"text": "a", "url": "http://a"}', '{"text": "b", "url": 7}', '{"text": "c"}',
             '{"text": "d", "url": [1]}', '{"text": "e", "url": 1.5, "x": NaN}',
             '{"text": ""}', '{"text": "f", "url": 123456789012345678901234567890}']  # fmt: skip
    (folder / "a.jsonl").write_text("\n".join(lines[:4]) + "\n")
    (folder / "b.jsonl").write_text("\n".join(lines))
    write_texts(folder / "c.txt", ["c"])
    write_texts(folder / "d.parquet", ["p", "q"])
    convert(tmp_path / "raw", tmp_path / "out", provenance=True, id_field="url", **SMALL)
    told = pq.read_table(tmp_path / "out" / "web" / PROVENANCE)
    columns = [told[name].to_pylist() for name in ("file", "record", "document_id")]
    found = list(zip(*columns, strict=True))
    first = [("http://a", 1), ("7", 2), (None, 3), (None, 4)]
    assert [each for each in found if each[0] == "a.jsonl"] == [
        ("a.jsonl", record, name) for name, record in first
    ]
    assert {each for each in found if each[0] == "b.jsonl"} == {
        ("b.jsonl", record, name) for name, record in [*first, (None, 5), (None, 7)]
    }
    assert ("c.txt", 1, None) in found
    assert ("d.parquet", 2, None) in found


def test_a_column_of_ids_names_the_values_of_parquet(tmp_path):
    import pyarrow as pa

    path = tmp_path / "raw" / "web" / "a.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": ["x", "y", None, "z"], "text": ["a", None, "c", "d"]}), path)
    convert(tmp_path / "raw", tmp_path / "out", provenance=True, **SMALL)
    told = pq.read_table(tmp_path / "out" / "web" / PROVENANCE)
    assert told["document_id"].to_pylist() == ["x", None, "z"]
    assert told["record"].to_pylist() == [1, 3, 4]


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 20), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    seq_len=st.integers(1, 9),
    packing=st.sampled_from(PACKINGS),
    window=st.integers(1, 60),
)
def test_a_packer_tells_of_each_id_once_and_where_it_is(lengths, cuts, seq_len, packing, window):
    ids = np.arange(1, sum(lengths) + 1, dtype=np.uint32)
    ends = np.cumsum(lengths, dtype=np.int64)
    documents = np.split(ids, ends[:-1]) if lengths else []
    ids[ends - 1] = 0
    told, rows = [], []
    form = RowForm(seq_len, 0, on_places=told.append)
    packer = open_packer(packing, form, window_tokens=window if packing == "best_fit" else None)
    edges = [0, *sorted(min(cut, len(lengths)) for cut in cuts), len(lengths)]
    for a, b in itertools.pairwise(edges):
        part = np.concatenate([np.empty(0, np.uint32), *documents[a:b]])
        rows += [some.copy() for some in packer.pack(part, np.array(lengths[a:b], np.int64))]
    rows = np.concatenate([np.empty((0, seq_len), np.uint32), *rows, *packer.flush()])
    covered, first = np.zeros(rows.shape, np.int64), 0
    for places in told:
        for document, offset, row, start, length in zip(
            places.document, places.offset, places.row, places.start, places.length, strict=False
        ):
            whole = documents[first + document]
            np.testing.assert_array_equal(
                rows[row, start : start + length], whole[offset : offset + length]
            )
            covered[row, start : start + length] += 1
        first += places.num_documents
    assert first == len(lengths)
    assert covered.sum() == sum(lengths)
    assert covered.max(initial=0) <= 1


def test_inspect_tells_which_documents_are_in_a_row(tmp_path, capsys):
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", ["one", "two is cut here", "three"])
    convert(tmp_path / "raw", tmp_path / "out", provenance=True, **SMALL)
    assert main(["inspect", str(tmp_path / "out"), "--row", "web:1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["column", "ids", "file", "record", "id", "document"]
    assert lines[1].split(maxsplit=5) == ["0", "4", "a.jsonl", "2", "1", "from its id 12 on"]
    assert lines[2].split(maxsplit=5) == ["4", "6", "a.jsonl", "3", "2", "begins here"]
    assert [piece.length for piece in pieces_of_row(tmp_path / "out/web" / PROVENANCE, 1)] == [4, 6]


def test_questions_that_have_no_answer_say_why(tmp_path):
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", ["one"])
    convert(tmp_path / "raw", tmp_path / "out", **SMALL)
    with pytest.raises(ShardError, match=r"provenance\.parquet is missing: .* without --prov"):
        pieces_of_row(tmp_path / "out" / "web" / PROVENANCE, 0)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ShardError, match=r"bad\.parquet cannot be read .*; copy it again"):
        pieces_of_row(tmp_path / "bad.parquet", 0)
    with pytest.raises(RecipeError, match=r"id_field is 'x', but nothing notes .* without prov"):
        convert(tmp_path / "raw", tmp_path / "new", id_field="x", **SMALL)
    from mixstream.cli.inspect import print_row

    with pytest.raises(RecipeError, match="'web' is not DOMAIN:ROW, as in web:123456"):
        print_row(open_corpus(tmp_path / "out"), "web", None)
    several = open_corpus({"web": tmp_path / "out" / "web"})
    with pytest.raises(ShardError, match="from a converted corpus in a local folder, not from"):
        print_row(several, "web:0", None)


@pytest.mark.slow  # the import of streaming takes seconds
@pytest.mark.filterwarnings("ignore")  # stock readers leave files open
def test_stock_readers_read_a_corpus_with_provenance(tmp_path):
    from streaming import LocalDataset

    raw = make_raw(tmp_path / "raw", domains=1)
    convert(raw, tmp_path / "out", provenance=True, **SMALL)
    rows = all_rows(open_corpus(tmp_path / "out"), "domain0")
    stock = LocalDataset(str(tmp_path / "out" / "domain0"))
    np.testing.assert_array_equal(np.stack([stock[i]["tokens"] for i in range(len(stock))]), rows)


@pytest.mark.parametrize("options", [["--provenance"], ["--dedup", "exact", "--provenance"]])
def test_killed_again_and_again_it_gets_to_the_same_bytes(tmp_path, options):
    raw = make_raw(tmp_path / "raw", files=6, documents=30)
    command = [sys.executable, "-m", "mixstream", "convert", str(raw)]
    rest = ["--tokenizer=bytes", "--seq-len=64", "--unit-bytes=3000", "--workers=1", "--quiet"]
    subprocess.run([*command, str(tmp_path / "whole"), *rest, *options], check=True, timeout=60)
    out, kills = tmp_path / "out", 0
    script = (
        "import os, sys, mixstream.cli.command as command\n"
        "left = int(sys.argv.pop(1)); real = os.replace\n"
        "def replace(*paths):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left < 0: os.kill(os.getpid(), 9)\n"
        "    real(*paths)\n"
        "os.replace = replace\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    while kills < 8:
        done = subprocess.run(
            [sys.executable, "-c", script, str(5 + 9 * kills), "convert", str(raw), str(out),
             *rest, *options],
            timeout=60,
        )  # fmt: skip
        if done.returncode == 0:
            break
        assert done.returncode == -9
        kills += 1
        if (out / "corpus.json").exists():
            assert_every_id_is_told(open_corpus(out), out, raw, "domain0")
    subprocess.run([*command, str(out), *rest, *options], check=True, timeout=60)
    assert kills >= 2
    assert tree(out) == tree(tmp_path / "whole")
