"""mixstream.convert from raw files to rows: nothing lost, nothing doubled, nothing guessed."""

import gzip
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixstream import RecipeError, ShardError, SourceError, convert, open_corpus
from mixstream.corpus.files import list_files
from mixstream.corpus.sources import Document, read_documents
from mixstream.corpus.tokenizers import ByteTokenizer
from mixstream.corpus.verify import corpus_faults
from tests.corpus.conftest import (
    SHARED,
    all_rows,
    assert_counts_are_exact,
    documents_of,
    expected_pieces,
    make_raw,
    pieces_of,
    time_limit,
    tree,
    write_texts,
)

NASTY = SHARED / "nasty"
SMALL = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 512, "unit_bytes": 1500}


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


class Stripping(ByteTokenizer):
    """Texts of white space become no ids."""

    name = "stripping"
    sha256 = "0" * 64

    def encode_utf8(self, texts):
        return super().encode_utf8([text.strip() for text in texts])


class Wide(ByteTokenizer):
    """As many ids as take four bytes."""

    name = "wide"
    sha256 = "1" * 64
    vocab_size = 2**16 + 1
    end_id = 2**16


def texts_of(corpus, domain):
    """The documents of a concat-packed domain of bytes."""
    return [
        document.astype(np.uint8).tobytes().decode()
        for document in documents_of(all_rows(corpus, domain), corpus.end_id)
    ]


def one_domain(tmp_path, *texts, name="a.jsonl"):
    write_texts(tmp_path / "raw" / "web" / name, texts)
    return tmp_path / "raw"


# --- edges


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("seq_len", [1, 2, 3, 7])
def test_documents_of_every_length_around_a_row_survive(tmp_path, seq_len, packing):
    texts = [chr(97 + n % 26) * n for n in range(3 * seq_len + 2)]
    raw = one_domain(tmp_path, *texts)
    report = convert(raw, tmp_path / "out", tokenizer="bytes", seq_len=seq_len, packing=packing)
    entry = report.domains["web"]
    assert (entry.documents, entry.dropped) == (len(texts) - 1, {"empty": 1})
    corpus = open_corpus(tmp_path / "out")
    assert_counts_are_exact(corpus)
    pieces = expected_pieces([list(text.encode()) for text in texts if text], seq_len, 256)
    if packing == "concat":
        assert texts_of(corpus, "web") == texts[1:]
    else:
        assert pieces_of(all_rows(corpus, "web"), 256) == pieces


def test_a_domain_of_nothing_but_bad_documents_has_no_rows_and_all_reasons(tmp_path):
    folder = tmp_path / "raw" / "bad"
    write_texts(folder / "a.jsonl", ["", ""])
    lines = [b"[1", b"[1]", b'{"id": 1}', b'{"text": 5}', b'{"text": "\\ud800"}', b'"\xff"']
    (folder / "b.jsonl").write_bytes(b"\n".join(lines))
    (folder / "c.txt").write_bytes(b"x" * 200)
    write_texts(tmp_path / "raw" / "good" / "a.jsonl", ["good"])
    report = convert(tmp_path / "raw", tmp_path / "out", max_document_bytes=100, **SMALL)
    assert report.domains["bad"].dropped == {
        "broken_json": 1,
        "empty": 2,
        "invalid_utf8": 1,
        "lone_surrogate": 1,
        "no_text": 1,
        "not_an_object": 1,
        "text_not_a_string": 1,
        "too_long": 1,
    }
    assert report.domains["bad"].rows == report.domains["bad"].tokens == 0
    assert report.examples["bad"]["too_long"] == [
        f"{folder / 'c.txt'}: 200 bytes; the limit is 100"
    ]
    corpus = open_corpus(tmp_path / "out")
    assert corpus.num_rows.tolist() == [0, 1]
    assert list(corpus_faults(tmp_path / "out")) == []


def test_a_corpus_of_no_rows_at_all_is_finished_and_says_so(tmp_path):
    raw = one_domain(tmp_path, "", "")
    for _ in range(2):
        report = convert(raw, tmp_path / "out", **SMALL)
        assert report.domains["web"].dropped == {"empty": 2}
    assert open_corpus(tmp_path / "out").num_rows.tolist() == [0]


def test_one_row_a_shard_and_one_shard_for_all_hold_the_same_rows(tmp_path):
    raw = make_raw(tmp_path / "raw")
    tiny = {**SMALL, "shard_bytes": 1}
    huge = {**SMALL, "shard_bytes": 2**32 - 2**30}
    convert(raw, tmp_path / "tiny", **tiny)
    convert(raw, tmp_path / "huge", **huge)
    corpora = [open_corpus(tmp_path / name) for name in ("tiny", "huge")]
    for domain in corpora[0].domains:
        np.testing.assert_array_equal(*(all_rows(corpus, domain) for corpus in corpora))
        assert set(corpora[0].layout[domain].tolist()) == {1}
        assert len(corpora[1].layout[domain]) <= 4


def test_a_wide_vocabulary_takes_four_bytes_and_reads_back(tmp_path):
    raw = one_domain(tmp_path, "abc", "äöü" * 30)
    convert(raw, tmp_path / "out", **{**SMALL, "tokenizer": Wide()})
    corpus = open_corpus(tmp_path / "out")
    assert corpus.dtype == np.uint32
    assert corpus.manifest.dtype == "uint32"
    assert texts_of(corpus, "web") == ["abc", "äöü" * 30]
    assert_counts_are_exact(corpus)
    assert list(corpus_faults(tmp_path / "out")) == []


def test_white_space_that_a_tokenizer_strips_is_counted_as_no_tokens(tmp_path):
    raw = one_domain(tmp_path, " ", "a ", "", "\t\n", "b")
    report = convert(raw, tmp_path / "out", **{**SMALL, "tokenizer": Stripping()})
    assert report.domains["web"].dropped == {"empty": 1, "no_tokens": 2}
    assert report.domains["web"].documents == 2
    assert texts_of(open_corpus(tmp_path / "out"), "web") == ["a", "b"]


def test_a_tokenizer_of_ones_own_works_in_two_processes_and_gives_the_same_bytes(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for workers in (1, 2):
        convert(
            raw, tmp_path / f"w{workers}", workers=workers, **{**SMALL, "tokenizer": Stripping()}
        )
    assert tree(tmp_path / "w1") == tree(tmp_path / "w2")


def test_text_of_another_field_is_read_and_a_field_that_is_nowhere_is_counted(tmp_path):
    (tmp_path / "raw" / "web").mkdir(parents=True)
    lines = [json.dumps({"text": "no", "body": "yes"}), json.dumps({"text": "no"})]
    (tmp_path / "raw" / "web" / "a.jsonl").write_text("\n".join(lines))
    report = convert(tmp_path / "raw", tmp_path / "out", text_field="body", **SMALL)
    assert report.domains["web"].dropped == {"no_text": 1}
    assert texts_of(open_corpus(tmp_path / "out"), "web") == ["yes"]


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_a_number_of_workers_that_is_none_is_refused(tmp_path, workers):
    raw = one_domain(tmp_path, "a")
    with pytest.raises(RecipeError, match=r"workers is .*; give "):
        convert(raw, tmp_path / "out", workers=workers, **SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"seq_len": 0}, {"packing": "x"}, {"unit_bytes": 0}])
def test_settings_that_are_refused_leave_nothing_behind(tmp_path, change):
    raw = one_domain(tmp_path, "a")
    with pytest.raises(RecipeError, match=r"seq_len is 0|packing is 'x'|unit_bytes is 0"):
        convert(raw, tmp_path / "out", **{**SMALL, **change})
    assert not (tmp_path / "out").exists()


# --- the same bytes


def shuffled(monkeypatch, seed):
    """Makes every listing of a folder come in another order."""
    dice, scandir, listdir = random.Random(seed), os.scandir, os.listdir

    class Shuffled:
        def __init__(self, path="."):
            with scandir(path) as entries:
                self.entries = list(entries)
            dice.shuffle(self.entries)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def __iter__(self):
            return iter(self.entries)

        def __next__(self):
            return self.entries.pop()

        def close(self):
            return None

    def shuffled_names(path="."):
        names = listdir(path)
        dice.shuffle(names)
        return names

    monkeypatch.setattr(os, "scandir", Shuffled)
    monkeypatch.setattr(os, "listdir", shuffled_names)


@pytest.mark.parametrize("domains", [None, {"all": "**", "zst": ["**/*.zst", "domain1/*"]}])
def test_the_order_of_folder_listings_changes_no_byte(tmp_path, monkeypatch, domains):
    raw = make_raw(tmp_path / "raw", files=9)
    convert(raw, tmp_path / "plain", domains=domains, **SMALL)
    for seed in range(3):
        with monkeypatch.context() as patch:
            shuffled(patch, seed)
            convert(raw, tmp_path / f"s{seed}", domains=domains, **SMALL)
        assert tree(tmp_path / f"s{seed}") == tree(tmp_path / "plain")


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_workers_places_and_times_change_no_byte(tmp_path, packing, compression):
    options = {**SMALL, "packing": packing, "compression": compression}
    raw = make_raw(tmp_path / "raw")
    convert(raw, tmp_path / "a", **options)
    shutil.copytree(raw, tmp_path / "moved" / "raw")  # new times, another place
    convert(tmp_path / "moved" / "raw", tmp_path / "b", workers=2, **options)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert not any(str(tmp_path).encode() in content for content in tree(tmp_path / "a").values())


def test_compression_changes_the_files_but_neither_rows_nor_fingerprint(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for compression in (None, "zstd"):
        convert(raw, tmp_path / str(compression), compression=compression, **SMALL)
    plain, packed = (open_corpus(tmp_path / name) for name in ("None", "zstd"))
    assert plain.fingerprint == packed.fingerprint
    for domain in plain.domains:
        np.testing.assert_array_equal(all_rows(plain, domain), all_rows(packed, domain))


def test_progress_tells_every_unit_once_and_ends_with_all_bytes(tmp_path):
    raw = make_raw(tmp_path / "raw")
    told = []
    convert(raw, tmp_path / "out", on_progress=told.append, **SMALL)
    total = sum(path.stat().st_size for path in raw.rglob("*.*"))
    assert len({(each.unit.domain, each.unit.index) for each in told}) == len(told)
    assert {each.total_bytes for each in told} == {total}
    assert [each.done_bytes for each in told] == np.cumsum(
        [e.unit.num_bytes for e in told]
    ).tolist()
    assert told[-1].done_bytes == total


# --- going on


def cut_gz(path, texts):
    """A gzip file that breaks off; how many bytes are left of it."""
    write_texts(path, texts)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return len(whole) // 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_file_is_named_and_once_mended_only_its_unit_is_done_again(tmp_path, workers):
    raw = make_raw(tmp_path / "raw")
    texts = [f"{i} {random.Random(i).random()}" for i in range(200)]
    bad = raw / "domain1" / "part1.jsonl.gz"
    num_bytes = cut_gz(bad, texts)
    options = {**SMALL, "unit_bytes": 1, "workers": workers}
    message = rf"part1\.jsonl\.gz: cut short: it ends at byte {num_bytes:,} in the middle"
    told = []
    with time_limit(60), pytest.raises(SourceError, match=message):
        convert(raw, tmp_path / "out", on_progress=told.append, **options)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".mixstream"}
    with pytest.raises(ShardError, match="has not finished"):
        open_corpus(tmp_path / "out")
    finished = {path.parent.name for path in (tmp_path / "out").glob(".mixstream/*/unit.json")}
    assert finished >= {each.unit.digest for each in told}
    if workers == 1:
        assert len(finished) == 5  # the four of domain0 and one before it
    write_texts(bad, texts)
    size, again = f"{bad.stat().st_size:,}", []
    message = (
        rf"unfinished .*domain1/part1\.jsonl\.gz has {size} bytes and had {num_bytes:,}.*--redo"
    )
    with pytest.raises(RecipeError, match=message):
        convert(raw, tmp_path / "out", **options)
    convert(raw, tmp_path / "out", redo_changed=True, on_progress=again.append, **options)
    assert not {each.unit.digest for each in again} & finished
    assert len(again) == 12 - len(finished)
    assert again[-1].done_bytes == again[-1].total_bytes
    convert(raw, tmp_path / "fresh", **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_bad_document_under_raise_is_named_and_once_mended_the_work_goes_on(tmp_path):
    raw = one_domain(tmp_path, "a", "", "b")
    options = {**SMALL, "on_bad_document": "raise"}
    with pytest.raises(SourceError, match=r"a\.jsonl:2: empty: .*Mend the document"):
        convert(raw, tmp_path / "out", **options)
    one_domain(tmp_path, "a", "b")
    report = convert(raw, tmp_path / "out", redo_changed=True, **options)
    assert report.domains["web"].documents == 2


CHANGES = {
    "seq_len": (16, 17),
    "packing": ("'concat'", "'best_fit'"),
    "compression": ("None", "'zstd'"),
    "shard_bytes": (512, 511),
    "unit_bytes": (1500, 1501),
    "max_document_bytes": (2**27, 99),
    "text_field": ("'text'", "'body'"),
    "on_bad_document": ("'skip'", "'raise'"),
}


def test_a_recipe_nested_as_deep_as_json_may_be_is_refused_by_name(tmp_path):
    raw = one_domain(tmp_path, "a", "b")
    convert(raw, tmp_path / "out", **SMALL)
    manifest = tmp_path / "out" / "corpus.json"
    text = manifest.read_text()
    assert text.count('"text_field": "text"') == 1
    deep = "[" * 1000 + "]" * 1000
    manifest.write_text(text.replace('"text_field": "text"', f'"text_field": {deep}'))
    message = r"made with text_field=\[\[\[.*\], now text_field='text' is asked for"
    for append in (False, True):
        with pytest.raises(RecipeError, match=message):
            convert(raw, tmp_path / "out", **SMALL, append=append)


@pytest.mark.parametrize("key", CHANGES)
@pytest.mark.parametrize("state", ["unfinished", "finished"])
def test_a_setting_that_changed_is_refused_with_both_values(tmp_path, key, state):
    raw = one_domain(tmp_path, "a", "b")
    if state == "unfinished":
        cut_gz(raw / "web" / "z.jsonl.gz", ["c"] * 99)
        with pytest.raises(SourceError, match="cut short"):
            convert(raw, tmp_path / "out", **SMALL)
    else:
        convert(raw, tmp_path / "out", **SMALL)
    before = tree(tmp_path / "out")
    then, now = CHANGES[key]
    value = now if isinstance(now, int) else now.strip("'")
    with pytest.raises(RecipeError, match=f"made with {key}={then}, now {key}={now} is asked for"):
        convert(raw, tmp_path / "out", **{**SMALL, key: value})
    assert tree(tmp_path / "out") == before


def test_another_tokenizer_is_refused_even_under_the_same_name(tmp_path):
    raw = one_domain(tmp_path, "a")
    convert(raw, tmp_path / "out", **SMALL)
    with pytest.raises(RecipeError, match="made with tokenizer='bytes', now tokenizer='stripping'"):
        convert(raw, tmp_path / "out", **{**SMALL, "tokenizer": Stripping()})
    other = Stripping()
    other.name = "bytes"
    with pytest.raises(
        RecipeError, match=r"made with tokenizer_sha256='\w+', now tokenizer_sha256"
    ):
        convert(raw, tmp_path / "out", **{**SMALL, "tokenizer": other})


def test_a_finished_corpus_and_the_same_call_is_no_work_at_all(tmp_path):
    raw = make_raw(tmp_path / "raw")
    made = convert(raw, tmp_path / "out", **SMALL)
    times = {path: path.stat().st_mtime_ns for path in [*(tmp_path / "out").rglob("*")]}
    again = convert(raw, tmp_path / "out", workers=2, on_progress=pytest.fail, **SMALL)
    assert again.domains == made.domains
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    for path in raw.rglob("*.*"):
        path.touch()  # a new time alone is a new input, unless sizes alone are to count
    convert(raw, tmp_path / "out", on_progress=pytest.fail, check="size", **SMALL)
    with pytest.raises(RecipeError, match=r"domain0/part0.jsonl was changed since, .* more differ"):
        convert(raw, tmp_path / "out", **SMALL)


def test_a_finished_corpus_of_other_inputs_is_refused_and_the_domain_named(tmp_path):
    raw = make_raw(tmp_path / "raw")
    convert(raw, tmp_path / "out", **SMALL)
    before = tree(tmp_path / "out")
    more = write_texts(raw / "domain1" / "z.jsonl", ["more"])
    with pytest.raises(RecipeError, match=r"made from other files: domain1/z.jsonl is new \(app"):
        convert(raw, tmp_path / "out", **SMALL)
    more.unlink()
    write_texts(raw / "new" / "z.jsonl", ["more"])
    with pytest.raises(RecipeError, match=r"made from other files: new/z.jsonl is new"):
        convert(raw, tmp_path / "out", **SMALL)
    shutil.rmtree(raw / "new")
    part = raw / "domain2" / "part0.jsonl"
    part.rename(part.with_name("renamed.jsonl"))
    with pytest.raises(RecipeError, match=r"domain2/renamed.jsonl is new.*part0.jsonl is gone"):
        convert(raw, tmp_path / "out", **SMALL)
    assert tree(tmp_path / "out") == before


def test_other_inputs_of_unfinished_work_are_refused_or_redone_as_the_user_says(tmp_path):
    raw = make_raw(tmp_path / "raw")
    bad = raw / "domain2" / "part1.jsonl.gz"
    cut_gz(bad, ["x" * 99] * 99)
    with pytest.raises(SourceError, match="cut short"):
        convert(raw, tmp_path / "out", **SMALL)
    bad.unlink()
    write_texts(raw / "domain0" / "part0.jsonl", ["other"])
    shutil.rmtree(raw / "domain1")
    message = (
        r"unfinished work in .* was made from other files: domain0/part0.jsonl has 27 bytes and "
        r"had 644; domain1/part0.jsonl is gone; .* more differ. Give the same files again; or redo"
    )
    before = tree(tmp_path / "out")
    with pytest.raises(RecipeError, match=message):
        convert(raw, tmp_path / "out", **SMALL)
    assert tree(tmp_path / "out") == before
    convert(raw, tmp_path / "out", redo_changed=True, **SMALL)
    convert(raw, tmp_path / "fresh", **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_file_that_changes_while_it_is_converted_is_noticed_and_redone_on_demand(tmp_path):
    raw = make_raw(tmp_path / "raw")

    def meddle(progress):
        if progress.unit.index == 0 and progress.unit.domain == "domain0":
            write_texts(raw / "domain0" / "part0.jsonl", ["other"])

    with pytest.raises(
        RecipeError,
        match=r"files of domain 'domain0' changed while .*run the same again with redo_ch",
    ):
        convert(raw, tmp_path / "out", on_progress=meddle, **SMALL)
    with pytest.raises(RecipeError, match=r"domain0/part0.jsonl has .* bytes and had .*--redo"):
        convert(raw, tmp_path / "out", **SMALL)
    convert(raw, tmp_path / "out", redo_changed=True, **SMALL)
    convert(raw, tmp_path / "fresh", **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("stranger", ["notes.txt", "index.json", ".hidden", "web/shard.00000.mds"])
def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_is(tmp_path, stranger):
    raw = one_domain(tmp_path, "a")
    path = tmp_path / "out" / stranger
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    name = stranger.split("/")[0]
    with pytest.raises(RecipeError, match=rf"out holds {name}, which is no unfinished work"):
        convert(raw, tmp_path / "out", **SMALL)
    assert tree(tmp_path / "out") == {stranger: b"mine"}


def test_an_output_that_is_a_file_or_below_one_is_refused(tmp_path):
    raw = one_domain(tmp_path, "a")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RecipeError, match="file holds a file, which is no unfinished work"):
        convert(raw, tmp_path / "file", **SMALL)
    with pytest.raises(ShardError, match=r"cannot write .*file/deep/out.*Not a directory"):
        convert(raw, tmp_path / "file" / "deep" / "out", **SMALL)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_output_folder_and_one_with_only_our_lock_are_taken(tmp_path):
    raw = one_domain(tmp_path, "a")
    (tmp_path / "empty").mkdir()
    convert(raw, tmp_path / "empty", **SMALL)
    (tmp_path / "locked" / ".mixstream").mkdir(parents=True)
    (tmp_path / "locked" / ".mixstream" / "lock").touch()
    convert(raw, tmp_path / "locked", **SMALL)
    assert tree(tmp_path / "empty") == tree(tmp_path / "locked")


def test_a_damaged_note_of_unfinished_work_is_an_error_with_a_mend(tmp_path):
    raw = one_domain(tmp_path, "a")
    (tmp_path / "out" / ".mixstream").mkdir(parents=True)
    (tmp_path / "out" / ".mixstream" / "recipe.json").write_text("{")
    with pytest.raises(ShardError, match=r"recipe\.json is no JSON"):
        convert(raw, tmp_path / "out", **SMALL)


def test_two_conversions_at_once_into_one_folder_the_second_is_refused(tmp_path):
    raw = make_raw(tmp_path / "raw")
    answers = []

    def ask_too(progress):
        if answers:
            return
        with pytest.raises(RecipeError, match=r"another conversion into .*out is running; wait"):
            convert(raw, tmp_path / "out", **SMALL)
        command = [sys.executable, "-m", "mixstream", "convert", raw, tmp_path / "out"]
        options = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
        answers.append(subprocess.run([*command, *options], capture_output=True, timeout=60))

    convert(raw, tmp_path / "out", on_progress=ask_too, **SMALL)
    assert answers[0].returncode == 1
    assert b"RecipeError: another conversion into" in answers[0].stderr
    convert(raw, tmp_path / "fresh", **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_worker_that_is_killed_is_an_error_with_a_mend_and_the_rerun_completes(tmp_path):
    raw = make_raw(tmp_path / "raw", files=12)
    options = {**SMALL, "unit_bytes": 1, "workers": 2}
    told = []

    def kill_one(progress):
        told.append(progress)
        if len(told) == 2:
            multiprocessing.active_children()[0].kill()

    with time_limit(60), pytest.raises(RecipeError, match=r"worker processes died.*run the same"):
        convert(raw, tmp_path / "out", on_progress=kill_one, **options)
    assert multiprocessing.active_children() == []
    again = []
    convert(raw, tmp_path / "out", on_progress=again.append, **options)
    assert 0 < len(again) <= 36 - 2
    convert(raw, tmp_path / "fresh", **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("out", ["corpus", "domain0/corpus"])
@pytest.mark.parametrize("domains", [None, {"all": "**"}, {"all": "domain*"}])
def test_the_output_may_lie_within_the_input_and_is_no_input_of_the_next_call(
    tmp_path, monkeypatch, out, domains
):
    raw = make_raw(tmp_path / "raw")
    convert(raw, tmp_path / "fresh", domains=domains, **SMALL)
    monkeypatch.chdir(raw)
    for place in (Path("."), raw):
        convert(place, place / out, domains=domains, **SMALL)
        assert tree(raw / out) == tree(tmp_path / "fresh")


def test_the_output_in_the_very_place_of_the_input_or_a_domain_is_refused(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for out in (raw, raw / "domain0", tmp_path):
        with pytest.raises(RecipeError, match="which is no unfinished work"):
            convert(raw, out, **SMALL)
    assert not list(raw.rglob(".mixstream"))


# --- everything nasty


def nasty_files():
    index = NASTY / "index.json"
    return [entry["file"] for entry in json.loads(index.read_text())] if index.is_file() else []


@pytest.mark.parametrize("mode", ["skip", "raise"])
@pytest.mark.parametrize("name", nasty_files())
def test_a_nasty_file_ends_in_documents_or_counted_reasons_or_an_error_that_names_it(
    tmp_path, name, mode
):
    path = tmp_path / "raw" / "nasty" / name
    path.parent.mkdir(parents=True)
    shutil.copyfile(NASTY / name, path)
    options = {"tokenizer": "bytes", "seq_len": 128, "on_bad_document": mode}
    listed = list_files(tmp_path / "raw" / "nasty")
    try:
        read = [each for file in listed for each in read_documents(file)]
    except SourceError:
        read = None
    good = [each for each in read or [] if isinstance(each, Document)]
    bad = [each for each in read or [] if not isinstance(each, Document)]
    with time_limit(60):
        if not listed:
            with pytest.raises(RecipeError, match="domain 'nasty' has no files"):
                convert(tmp_path / "raw", tmp_path / "out", **options)
        elif read is None or (bad and mode == "raise"):
            with pytest.raises(SourceError) as caught:
                convert(tmp_path / "raw", tmp_path / "out", **options)
            assert str(path) in str(caught.value)
            if bad:
                assert f"{bad[0].source}: {bad[0].reason}: " in str(caught.value)
            assert {each.name for each in (tmp_path / "out").glob("*")} <= {".mixstream"}
        else:
            entry = convert(tmp_path / "raw", tmp_path / "out", **options).domains["nasty"]
            assert entry.documents == len(good)
            assert entry.dropped == Counter(each.reason for each in bad)
            corpus = open_corpus(tmp_path / "out")
            assert texts_of(corpus, "nasty") == [document.text for document in good]
            assert_counts_are_exact(corpus)


# --- anything


TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")


@st.composite
def raw_domains(draw):
    """Up to three domains of up to four files, each its ending and its texts."""

    def file():
        ending = draw(st.sampled_from(ENDINGS))
        return ending, [draw(TEXTS)] if ending == ".txt" else draw(st.lists(TEXTS, max_size=9))

    names = draw(st.lists(st.sampled_from(["web", "code", "ü 中"]), min_size=1, unique=True))
    return {name: [file() for _ in range(draw(st.integers(1, 4)))] for name in names}


@settings(max_examples=40, deadline=None)
@example(domains={"web": [(".txt", ["ab"])]}, seq_len=3, packing="best_fit", sizes=(1, 1), zst=True)
@given(
    domains=raw_domains(),
    seq_len=st.integers(1, 40),
    packing=st.sampled_from(["concat", "best_fit"]),
    sizes=st.tuples(st.integers(1, 500), st.integers(1, 2000)),
    zst=st.booleans(),
)
def test_every_document_that_goes_in_comes_out_and_every_token_is_accounted_for(
    domains, seq_len, packing, sizes, zst
):
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # fsync costs nothing there
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        raw, out = Path(folder, "raw"), Path(folder, "out")
        for name, files in domains.items():
            for number, (ending, texts) in enumerate(files):
                write_texts(raw / name / f"{number}{ending}", texts)
        report = convert(
            raw,
            out,
            tokenizer="bytes",
            seq_len=seq_len,
            packing=packing,
            shard_bytes=sizes[0],
            unit_bytes=sizes[1],
            compression="zstd" if zst else None,
        )
        assert list(corpus_faults(out)) == []
        corpus = open_corpus(out)
        assert_counts_are_exact(corpus)
        for name, files in domains.items():
            texts = [text for _, texts in files for text in texts if text]
            empty = [e for e, texts in files for text in texts if not text and e != ".txt"]
            entry = report.domains[name]
            assert entry.documents == len(texts)
            assert entry.dropped == ({"empty": len(empty)} if empty else {})
            assert entry.text_bytes == sum(len(text.encode()) for text in texts)
            assert entry.tokens == entry.text_bytes + len(texts)
            if packing == "concat":
                assert texts_of(corpus, name) == texts
            else:
                documents = [list(text.encode()) for text in texts]
                pieces = expected_pieces(documents, seq_len, corpus.end_id)
                assert pieces_of(all_rows(corpus, name), corpus.end_id) == pieces


def test_a_gzip_of_many_members_and_a_text_over_many_batches_come_whole(tmp_path):
    texts = ["x" * 700_000, "y" * 700_000, "short", "z" * 1_500_000]
    folder = tmp_path / "raw" / "web"
    folder.mkdir(parents=True)
    lines = [gzip.compress(json.dumps({"text": text}).encode() + b"\n") for text in texts]
    (folder / "a.jsonl.gz").write_bytes(b"".join(lines))
    convert(tmp_path / "raw", tmp_path / "out", tokenizer="bytes", seq_len=1000)
    assert texts_of(open_corpus(tmp_path / "out"), "web") == texts


def test_a_conversion_that_another_one_overtakes_before_the_lock_is_refused(tmp_path, monkeypatch):
    raw, out = one_domain(tmp_path, "one", "two"), tmp_path / "out"
    module = sys.modules["mixstream.corpus.job"]
    locked = module.own_work

    def overtaken(*arguments):
        monkeypatch.setattr(module, "own_work", locked)
        convert(raw, out, tokenizer="bytes", seq_len=4)
        return locked(*arguments)

    monkeypatch.setattr(module, "own_work", overtaken)
    with pytest.raises(RecipeError, match="made with seq_len=4, now seq_len=8 is asked for"):
        convert(raw, out, tokenizer="bytes", seq_len=8)
    assert open_corpus(out).seq_len == 4
    assert not (out / ".mixstream").exists()


def test_an_ending_that_nobody_reads_is_told_before_anything_is_converted(tmp_path):
    raw = one_domain(tmp_path, "one")
    for name in ("README.md", "x.json"):
        (raw / "web" / name).write_text("x")
    with pytest.raises(SourceError, match=r"README.md: .*So are 1 more files"):
        convert(raw, tmp_path / "out", tokenizer="bytes", seq_len=4)
    assert not (tmp_path / "out").exists()


class Huge(ByteTokenizer):
    """Ids beyond what a row holds."""

    vocab_size = 2**33


class Narrow(ByteTokenizer):
    """Counts of one byte each."""

    def encode_utf8(self, texts):
        ids, lengths = super().encode_utf8(texts)
        return ids, lengths.astype(np.uint8)


def test_ids_and_counts_never_wrap(tmp_path):
    raw = one_domain(tmp_path, "x" * 255, "y")
    with pytest.raises(RecipeError, match="states a vocabulary of 8589934592, but rows hold ids"):
        convert(raw, tmp_path / "out", tokenizer=Huge(), seq_len=8)
    report = convert(raw, tmp_path / "out", tokenizer=Narrow(), seq_len=8)
    assert report.domains["web"].tokens == 258


def test_a_folder_of_a_corpus_knows_its_end_of_text(tmp_path):
    convert(one_domain(tmp_path, "one"), tmp_path / "out", tokenizer="bytes", seq_len=8)
    assert open_corpus({"any": tmp_path / "out" / "web"}).end_id == 256
    assert open_corpus(tmp_path / "out" / "web").end_id == 256
    assert open_corpus({"any": tmp_path / "out" / "web"}, end_id=7).end_id == 7
    shutil.copytree(tmp_path / "out" / "web", tmp_path / "web")
    assert open_corpus(tmp_path / "web").end_id is None


def test_contents_of_unfinished_work_are_compared_where_that_is_asked_and_kept(tmp_path):
    raw = make_raw(tmp_path / "raw")
    bad, part = raw / "domain2" / "part1.jsonl.gz", raw / "domain0" / "part0.jsonl"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-5] + b"xxxxx")
    with pytest.raises(SourceError, match="part1"):
        convert(raw, tmp_path / "out", check="content", **SMALL)
    part.touch()
    bad.write_bytes(whole)
    with pytest.raises(RecipeError, match=r": domain2/part1.jsonl.gz has another content. Give"):
        convert(raw, tmp_path / "out", check="content", **SMALL)
    with pytest.raises(RecipeError, match=r"domain0/part0.jsonl was changed since, .*: at 20\d\d-"):
        convert(raw, tmp_path / "out", **SMALL)
    convert(raw, tmp_path / "out", check="content", redo_changed=True, **SMALL)
    convert(raw, tmp_path / "fresh", check="content", **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")
