"""A corpus grows and shrinks: old rows keep their addresses, and a kill leaves old or new whole."""

import os
import shutil

import numpy as np
import pytest

from mixstream import RecipeError, convert, open_corpus
from mixstream.cli.command import main
from mixstream.corpus.drop import drop_domain
from mixstream.corpus.manifest import read_manifest
from mixstream.corpus.provenance import pieces_of_row
from mixstream.corpus.verify import corpus_faults
from tests.corpus.conftest import (
    all_rows,
    assert_counts_are_exact,
    documents_of,
    make_raw,
    tree,
    write_texts,
)

SMALL = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 512, "unit_bytes": 1500}


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw", domains=2)


def add_files(raw):
    """New files in an old domain, before and behind the old ones in name, and a new domain."""
    write_texts(raw / "domain0" / "aa.jsonl", [f"before {n} äö" for n in range(40)])
    write_texts(raw / "domain0" / "zz.parquet", [f"behind {n}" for n in range(30)])
    write_texts(raw / "animals" / "a.jsonl.gz", [f"a domain in front {n}" for n in range(9)])


def texts_of(corpus, domain):
    documents = documents_of(all_rows(corpus, domain), corpus.end_id)
    return [document.astype(np.uint8).tobytes().decode() for document in documents]


def assert_shards_are_as_before(out, before):
    now = tree(out)
    assert {n: c for n, c in before.items() if ".mds" in n}.items() <= now.items()


@pytest.mark.parametrize("options", [{}, {"compression": "zstd", "provenance": True}])
def test_old_rows_keep_their_addresses_and_new_ones_stand_behind(raw, tmp_path, options):
    out, options = tmp_path / "out", {**SMALL, **options}
    convert(raw, out, **options)
    old, before = open_corpus(out), tree(out)
    old_rows = {name: all_rows(old, name) for name in old.domains}
    add_files(raw)
    report = convert(raw, out, append=True, workers=2, **options)
    new = open_corpus(out)
    assert new.domains == ("domain0", "domain1", "animals")
    assert_shards_are_as_before(out, before)
    assert_counts_are_exact(new)
    assert list(corpus_faults(out)) == []
    for name in old.domains:
        np.testing.assert_array_equal(all_rows(new, name)[: len(old_rows[name])], old_rows[name])
    fresh = ["behind", "before"]
    assert [t for t in texts_of(new, "domain0") if t.split()[0] in fresh] == [
        *(f"before {n} äö" for n in range(40)),
        *(f"behind {n}" for n in range(30)),
    ]
    assert report.domains["domain0"].documents == old.manifest.domains["domain0"].documents + 70
    (was,) = new.manifest.history
    assert was["fingerprint"] == old.fingerprint
    assert was["domains"]["domain0"] == {
        "shards": len(old.layout["domain0"]), "rows": len(old_rows["domain0"])
    }  # fmt: skip
    if "provenance" in options:
        row = len(old_rows["domain0"])
        (piece, *_) = pieces_of_row(out / "domain0" / "provenance.parquet", row)
        assert (piece.file, piece.record, piece.start) == ("aa.jsonl", 1, 0)
        assert pieces_of_row(out / "domain0" / "provenance.parquet", 0)[0].file == "part0.jsonl"


def test_the_same_append_twice_and_the_same_conversion_after_it_do_nothing(raw, tmp_path):
    out = tmp_path / "out"
    convert(raw, out, **SMALL)
    add_files(raw)
    convert(raw, out, append=True, **SMALL)
    grown = tree(out)
    convert(raw, out, append=True, on_progress=pytest.fail, **SMALL)
    convert(raw, out, on_progress=pytest.fail, **SMALL)
    assert tree(out) == grown
    add = {"domain1": "new/*.jsonl"}  # only what is new may be named, too
    write_texts(tmp_path / "new" / "n.jsonl", ["one more"])
    convert(tmp_path, out, domains=add, append=True, **SMALL)
    assert texts_of(open_corpus(out), "domain1")[-1] == "one more"
    assert [len(each["domains"]) for each in read_manifest(out).history] == [2, 3]


class Killed(BaseException):
    """Stands for kill -9: no handler of the conversion is meant to run on."""


def dying_after(monkeypatch, num_replaces):
    left, real = [num_replaces], os.replace

    def replace(source, target, **more):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(source, target, **more)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)  # a kill removes nothing


@pytest.mark.parametrize("dedup", [None, "exact"])
def test_a_kill_at_any_rename_leaves_the_old_corpus_or_the_new_one(
    raw, tmp_path, monkeypatch, dedup
):
    options = {**SMALL, "provenance": True, "dedup": dedup}
    convert(raw, tmp_path / "before", **options)
    old = open_corpus(tmp_path / "before")
    add_files(raw)
    shutil.copytree(tmp_path / "before", tmp_path / "whole")
    convert(raw, tmp_path / "whole", append=True, **options)
    new, states = open_corpus(tmp_path / "whole"), []
    for num_replaces in range(200):
        out = tmp_path / f"out{num_replaces}"
        shutil.copytree(tmp_path / "before", out)
        with monkeypatch.context() as patch:
            dying_after(patch, num_replaces)
            try:
                convert(raw, out, append=True, **options)
                break
            except Killed:
                pass
        found = open_corpus(out)
        states.append(found.fingerprint)
        like = old if found.fingerprint == old.fingerprint else new
        assert found.domains == like.domains
        for name in like.domains:
            np.testing.assert_array_equal(all_rows(found, name), all_rows(like, name))
        convert(raw, out, append=True, **options)
        assert tree(out) == tree(tmp_path / "whole")
        shutil.rmtree(out)
    assert set(states) == {old.fingerprint}  # corpus.json is the last rename
    assert len(states) > 20
    assert tree(out).items() >= tree(tmp_path / "whole").items()


def test_what_was_changed_is_refused_and_named(raw, tmp_path):
    out = tmp_path / "out"
    convert(raw, out, **SMALL)
    part, whole = raw / "domain0" / "part0.jsonl", tree(out)
    old = part.read_bytes()
    part.write_bytes(old + b'{"text": "more"}\n')
    with pytest.raises(RecipeError, match=r"domain0/part0.jsonl has [\d,]+ bytes and had [\d,]+"):
        convert(raw, out, append=True, **SMALL)
    part.write_bytes(old)
    with pytest.raises(RecipeError, match=r"part0.jsonl was changed since, though not in size"):
        convert(raw, out, append=True, **SMALL)
    convert(raw, out, append=True, check="size", **SMALL)
    with pytest.raises(RecipeError, match="was converted without check='content'"):
        convert(raw, out, check="content", **SMALL)
    with pytest.raises(RecipeError, match="made with seq_len=16, now seq_len=32 is asked for"):
        convert(raw, out, append=True, **{**SMALL, "seq_len": 32})
    with pytest.raises(RecipeError, match="check is 'x'; take 'size', 'time', 'content'"):
        convert(raw, out, check="x", **SMALL)
    assert tree(out) == whole


def test_contents_are_compared_where_that_is_asked(raw, tmp_path):
    out, part = tmp_path / "out", raw / "domain0" / "part0.jsonl"
    convert(raw, out, check="content", **SMALL)
    part.touch()
    convert(raw, out, check="content", **SMALL)
    part.write_bytes(part.read_bytes().replace(b"0/0/0", b"9/9/9"))
    convert(raw, out, check="size", **SMALL)  # sizes alone do not tell
    with pytest.raises(RecipeError, match=r"domain0/part0.jsonl has another content"):
        convert(raw, out, check="content", **SMALL)


def test_an_append_that_cannot_be_is_refused(raw, tmp_path):
    with pytest.raises(RecipeError, match=r"append adds to a finished corpus, and .*/out is none"):
        convert(raw, tmp_path / "out", append=True, **SMALL)
    convert(raw, tmp_path / "out", **SMALL)
    moved = {"domain0": "domain*/*", "domain1": "domain1/*"}
    with pytest.raises(
        RecipeError, match=r"domain0/domain0/part0.jsonl looks like domain0/part0.js"
    ):
        convert(raw, tmp_path / "out", append=True, domains=moved, **SMALL)
    (tmp_path / "out" / "inputs.json").unlink()
    with pytest.raises(RecipeError, match=r"before mixstream noted its input files \(inputs.json"):
        convert(raw, tmp_path / "out", append=True, **SMALL)


def test_texts_that_the_corpus_holds_are_not_added_again(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_texts(raw / "web" / "m.jsonl", ["x", "y", "x"])
    convert(raw, out, dedup="exact", **SMALL)
    write_texts(raw / "web" / "a.jsonl", ["y", "z", "z"])
    write_texts(raw / "books" / "a.jsonl", ["z", "x", "w"])
    report = convert(raw, out, dedup="exact", append=True, **SMALL)
    corpus = open_corpus(out)
    assert texts_of(corpus, "books") == ["z", "w"]  # domains of one call in order of their names
    assert texts_of(corpus, "web") == ["x", "y"]
    assert report.domains["web"].dropped == {"duplicate": 4}
    assert report.domains["books"].dropped == {"duplicate": 1}
    write_texts(raw / "web" / "b.jsonl", ["w", "v"])
    convert(raw, out, dedup="exact", append=True, **SMALL)
    assert texts_of(open_corpus(out), "web") == ["x", "y", "v"]
    assert_counts_are_exact(open_corpus(out))


def test_a_domain_is_dropped_and_the_others_stay_as_they_are(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    convert(raw, out, **SMALL)
    before, rows = tree(out), all_rows(open_corpus(out), "domain1")
    assert main(["convert", str(out), "--drop-domain", "domain0"]) == 0
    corpus = open_corpus(out)
    assert corpus.domains == ("domain1",)
    np.testing.assert_array_equal(all_rows(corpus, "domain1"), rows)
    assert not (out / "domain0").exists()
    assert list(corpus_faults(out)) == []
    assert_shards_are_as_before(out, {n: c for n, c in before.items() if "domain1/" in n})
    with pytest.raises(
        RecipeError, match=r"no domain 'domain0' to drop; the corpus .* holds domain1"
    ):
        drop_domain(out, "domain0")
    with pytest.raises(RecipeError, match=r"'domain1' is the last domain of .*; delete the folder"):
        drop_domain(out, "domain1")
    with pytest.raises(RecipeError, match=r"domain0/part0.jsonl is new"):
        convert(raw, out, **SMALL)
    convert(raw, out, append=True, **SMALL)  # and it may come back, behind the others
    assert open_corpus(out).domains == ("domain1", "domain0")


@pytest.mark.parametrize("num_replaces", [0, 1])
def test_a_drop_that_is_killed_goes_on(raw, tmp_path, monkeypatch, num_replaces):
    out = tmp_path / "out"
    convert(raw, out, **SMALL)
    with monkeypatch.context() as patch:
        dying_after(patch, num_replaces)
        with pytest.raises(Killed):
            drop_domain(out, "domain0")
    open_corpus(out)
    drop_domain(out, "domain0")
    assert open_corpus(out).domains == ("domain1",)
    assert not (out / "domain0").exists()
    assert "domain0" not in (out / "inputs.json").read_text()


def test_an_unfinished_append_is_told_to_a_drop_and_not_lost_to_a_conversion(
    raw, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    convert(raw, out, **SMALL)
    old = sorted(raw.rglob("*.*"))
    add_files(raw)
    with monkeypatch.context() as patch:
        dying_after(patch, 8)
        with pytest.raises(Killed):
            convert(raw, out, append=True, **SMALL)
    with pytest.raises(RecipeError, match=r"an append to .* is unfinished; give the same command"):
        drop_domain(out, "domain0")
    same = {name: [str(p) for p in old if p.parent.name == name] for name in ("domain0", "domain1")}
    convert(None, out, domains=same, **SMALL)
    assert (out / ".mixstream" / "recipe.json").exists()
    convert(raw, out, append=True, **SMALL)
    assert not (out / ".mixstream").exists()
    assert_counts_are_exact(open_corpus(out))


def test_the_command_line_appends_and_says_what_does_not_go_together(raw, tmp_path, capsys):
    options = ["--tokenizer=bytes", "--seq-len=16", "--quiet", "--workers=1"]
    assert main(["convert", str(raw), str(tmp_path / "out"), *options]) == 0
    add_files(raw)
    assert main(["convert", str(raw), str(tmp_path / "out"), *options]) == 1
    assert "aa.jsonl is new (append takes new files)" in capsys.readouterr().err
    assert main(["convert", str(raw), str(tmp_path / "out"), "--append", *options]) == 0
    assert main(["convert", str(tmp_path / "out"), "--drop-domain=a", "--seq-len=16"]) == 1
    assert "--drop-domain takes a domain out and does nothing else" in capsys.readouterr().err
