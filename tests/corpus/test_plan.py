"""A large raw jsonl file is cut into parts by its size alone, and every line falls into one."""

import itertools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixstream import SourceError, convert, open_corpus
from mixstream.corpus import file_bytes, plan
from mixstream.corpus.file_bytes import read_lines_within
from mixstream.corpus.records import FilePart
from mixstream.corpus.sources import num_lines_before, read_batches
from tests.corpus.conftest import assert_counts_are_exact, tree, write_texts
from tests.corpus.test_convert import texts_of


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b" ")), max_size=20)


@settings(max_examples=200, deadline=None)
@example(lines=[b"a" * 30], cuts=[5, 9, 31], last=True, chunk=4)
@example(lines=[b"", b"", b"ab"], cuts=[1, 2, 3], last=False, chunk=2)
@given(
    lines=LINES,
    cuts=st.lists(st.integers(0, 200), max_size=6),
    last=st.booleans(),
    chunk=st.integers(2, 40),
)
def test_ranges_that_meet_give_every_line_once_and_whole(
    tmp_path_factory, lines, cuts, last, chunk
):
    path = tmp_path_factory.mktemp("r") / "x.jsonl"
    content = b"\n".join(lines) + b"\n" * last
    path.write_bytes(content)
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_bytes, "MAX_CHUNK_BYTES", chunk)
        found = [
            b"".join(read_lines_within(path, start, end))
            for start, end in itertools.pairwise(edges)
        ]
        before = [num_lines_before(FilePart(path, edge, len(content))) for edge in edges[:-1]]
    assert b"".join(found) == content
    assert all(not part or part.endswith(b"\n") or content.endswith(part) for part in found)
    so_far = [b"".join(found[:number]).count(b"\n") for number in range(len(found))]
    assert before == so_far


def large(path, num_texts, bad_at=()):
    """A jsonl of num_texts texts of 100 bytes; some lines are empty texts."""
    texts = ["" if i in bad_at else f"{i:05} " + "x" * 94 for i in range(num_texts)]
    write_texts(path, texts)
    return texts


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(plan, "MIN_PART_BYTES", 1000)


SMALL = {"tokenizer": "bytes", "seq_len": 64, "unit_bytes": 2000}


def test_a_large_file_is_cut_and_nothing_is_lost_or_doubled(tmp_path, small_parts):
    texts = large(tmp_path / "raw" / "web" / "a.jsonl", 100)
    told = []
    convert(tmp_path / "raw", tmp_path / "out", on_progress=told.append, **SMALL)
    assert len(told) == 7
    assert sum(each.unit.num_bytes for each in told) == told[-1].total_bytes
    corpus = open_corpus(tmp_path / "out")
    assert texts_of(corpus, "web") == texts
    assert_counts_are_exact(corpus)
    convert(tmp_path / "raw", tmp_path / "two", workers=2, **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "two")


def test_a_file_below_the_least_part_is_one_unit(tmp_path):
    large(tmp_path / "raw" / "web" / "a.jsonl", 100)
    told = []
    convert(tmp_path / "raw", tmp_path / "out", on_progress=told.append, **SMALL)
    assert len(told) == 1


def test_examples_and_errors_name_the_line_of_the_file_not_of_the_part(tmp_path, small_parts):
    path = tmp_path / "raw" / "web" / "a.jsonl"
    large(path, 100, bad_at=(41, 73, 99))
    report = convert(tmp_path / "raw", tmp_path / "out", **SMALL)
    expected = [f"{path}:{line}: 'text' is an empty string" for line in (42, 74, 100)]
    assert report.examples["web"] == {"empty": expected}
    with pytest.raises(SourceError, match=r"a\.jsonl:42: empty: 'text' is an empty string\. Mend"):
        convert(tmp_path / "raw", tmp_path / "strict", on_bad_document="raise", **SMALL)


def test_a_byte_order_mark_and_an_array_are_seen_in_the_first_part_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": str(i)}).encode() + b"\n" for i in range(9)]
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(lines))
    size, middle = path.stat().st_size, 3 + 4 * len(lines[0])
    parts = [FilePart(path, 0, middle), FilePart(path, middle, size)]
    texts = [text for part in parts for batch in read_batches(part) for text in batch.texts]
    assert texts == [str(i) for i in range(9)]
    path.write_bytes(b"[\n" + b"".join(lines))
    with pytest.raises(SourceError, match=r"a\.jsonl:1: a JSON array"):
        list(read_batches(FilePart(path, 0, 30)))
