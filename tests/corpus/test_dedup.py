"""Of documents with one text the first is kept: by order alone, never by who was faster."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import RecipeError, convert, open_corpus
from mixstream.corpus import dedup
from mixstream.corpus.verify import corpus_faults
from tests.corpus.conftest import all_rows, assert_counts_are_exact, documents_of, tree, write_texts

SMALL = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 512, "unit_bytes": 200}


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


def texts_of(corpus, domain):
    documents = documents_of(all_rows(corpus, domain), corpus.end_id)
    return [document.astype(np.uint8).tobytes().decode() for document in documents]


def kept_by_hand(raw):
    """Domain -> file -> texts in, and what the plainest loop keeps of them."""
    seen, kept, dropped = set(), {}, {}
    for domain in sorted(raw):
        kept[domain], dropped[domain] = [], {"duplicate": 0, "empty": 0}
        for file in sorted(raw[domain]):
            for text in raw[domain][file]:
                if not text:
                    dropped[domain]["empty"] += 1
                elif text in seen:
                    dropped[domain]["duplicate"] += 1
                else:
                    seen.add(text)
                    kept[domain].append(text)
    return kept, {d: {k: n for k, n in dropped[d].items() if n} for d in dropped}


def assert_as_by_hand(raw, folder, out, **options):
    for domain, files in raw.items():
        for file, texts in files.items():
            write_texts(folder / domain / file, texts)
    report = convert(folder, out, dedup="exact", **{**SMALL, **options})
    kept, dropped = kept_by_hand(raw)
    corpus = open_corpus(out)
    assert_counts_are_exact(corpus)
    for domain, entry in report.domains.items():
        assert texts_of(corpus, domain) == kept[domain]
        assert entry.dropped == dropped[domain]
        told_in = sum(len(t.encode()) + 1 for f in raw[domain].values() for t in f if t)
        gone = told_in - sum(len(text.encode()) + 1 for text in kept[domain])
        assert entry.tokens == entry.rows * corpus.seq_len - entry.padding == told_in - gone
        num_texts = sum(map(len, raw[domain].values()))
        assert entry.documents + sum(entry.dropped.values()) == num_texts


TEXTS = st.lists(st.sampled_from(["", "a", "b", "ä", "a ", "long " * 9, "c" * 40]), max_size=9)
NAMES = st.sampled_from(["a.jsonl", "b.jsonl.gz", "c.parquet", "d.jsonl.zst"])


@settings(max_examples=40, deadline=None)
@given(
    raw=st.dictionaries(
        st.sampled_from(["web", "books", "code"]),
        st.dictionaries(NAMES, TEXTS, min_size=1),
        min_size=1,
    ),
    range_hashes=st.sampled_from([1, 3, 2**21]),
)
def test_what_stays_is_what_the_plainest_loop_keeps(tmp_path_factory, raw, range_hashes):
    folder = tmp_path_factory.mktemp("dedup")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "_RANGE_HASHES", range_hashes)
        assert_as_by_hand(raw, folder / "raw", folder / "out")


def repeated_raw(domains=3, files=4, documents=30):
    return {
        f"d{d}": {
            f"part{f}.jsonl": [f"{(d * 7 + f * 3 + n * n) % 40} äö" * 3 for n in range(documents)]
            for f in range(files)
        }
        for d in range(domains)
    }


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_workers_and_ranges_change_no_byte(tmp_path, monkeypatch, packing):
    options = {**SMALL, "packing": packing, "provenance": True, "dedup": "exact"}
    for domain, files in repeated_raw().items():
        for file, texts in files.items():
            write_texts(tmp_path / "raw" / domain / file, texts)
    convert(tmp_path / "raw", tmp_path / "a", **options)
    convert(tmp_path / "raw", tmp_path / "b", workers=2, **options)
    monkeypatch.setattr(dedup, "_RANGE_HASHES", 7)
    convert(tmp_path / "raw", tmp_path / "c", **options)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")
    assert list(corpus_faults(tmp_path / "a")) == []


def test_the_first_domain_file_and_record_keeps_the_text(tmp_path):
    raw = {"b": {"a.jsonl": ["x", "y"]}, "a": {"z.jsonl": ["x"], "y.jsonl": ["z", "x", "z"]}}
    assert_as_by_hand(raw, tmp_path / "raw", tmp_path / "out")
    assert texts_of(open_corpus(tmp_path / "out"), "a") == ["z", "x"]
    assert texts_of(open_corpus(tmp_path / "out"), "b") == ["y"]


def test_a_change_of_one_file_undoes_what_was_decided_about_the_others(tmp_path):
    """A unit that was finished without a text must not keep that hole when the copy is gone."""
    folder = tmp_path / "raw"
    first = write_texts(folder / "a" / "a.jsonl", ["same", "first"])
    write_texts(folder / "b" / "b.jsonl", ["same", "second"])

    def meddle(progress):
        if progress.unit.domain == "b":
            write_texts(first, ["other", "first"])

    with pytest.raises(RecipeError, match=r"files of domain 'a' changed while .*run the same"):
        convert(folder, tmp_path / "out", dedup="exact", on_progress=meddle, **SMALL)
    report = convert(folder, tmp_path / "out", dedup="exact", redo_changed=True, **SMALL)
    assert texts_of(open_corpus(tmp_path / "out"), "b") == ["same", "second"]
    assert report.domains["b"].dropped == {}
    convert(folder, tmp_path / "fresh", dedup="exact", **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_duplicates_are_no_error_where_bad_documents_are_and_are_named_by_line(tmp_path):
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", ["x", "y", "x"])
    report = convert(
        tmp_path / "raw", tmp_path / "out", dedup="exact", on_bad_document="raise", **SMALL
    )
    assert report.examples["web"]["duplicate"] == [f"{tmp_path}/raw/web/a.jsonl:3"]


def test_another_or_no_dedup_is_refused_and_an_unknown_one_too(tmp_path):
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", ["x", "y", "x"])
    with pytest.raises(RecipeError, match="dedup is 'fuzzy'; take 'exact', or none at all"):
        convert(tmp_path / "raw", tmp_path / "out", dedup="fuzzy", **SMALL)
    with pytest.raises(RecipeError, match=r"dedup is 'exact', for which all machines need one"):
        convert(tmp_path / "raw", "s3://bucket/out", dedup="exact", engine="ray", **SMALL)
    convert(tmp_path / "raw", tmp_path / "out", dedup="exact", **SMALL)
    with pytest.raises(RecipeError, match="was made with dedup='exact', now dedup=None is asked"):
        convert(tmp_path / "raw", tmp_path / "out", **SMALL)
