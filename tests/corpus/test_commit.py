"""From finished units to a corpus: any kill between two renames is mended by the same call."""

import os
import shutil

import orjson
import pytest

from mixstream.corpus import output as output_file
from mixstream.corpus.commit import move_into_place
from mixstream.corpus.convert import convert
from mixstream.corpus.verify import corpus_faults
from mixstream.errors import RecipeError, ShardError
from tests.corpus.conftest import assert_nothing_partial, make_raw, tree, write_texts

SETTINGS = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 256, "unit_bytes": 1500}


class Killed(BaseException):
    """Stands for kill -9: no `except Exception` stops it."""


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture
def raw(tmp_path):
    make_raw(tmp_path / "raw", domains=2, files=3)
    write_texts(tmp_path / "raw" / "void" / "a.jsonl", ["", ""])  # a domain without rows
    return tmp_path / "raw"


@pytest.fixture
def finished(raw, tmp_path):
    convert(raw, tmp_path / "finished", **SETTINGS)
    return tree(tmp_path / "finished")


def killed_at(monkeypatch, number, *, before):
    """Makes the os.replace of that number the last thing that happens."""
    rename, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if before and len(calls) > number:
            raise Killed
        rename(source, target)
        if not before and len(calls) == number:
            raise Killed

    monkeypatch.setattr(os, "replace", replace)
    return calls


def interrupted(raw, out, settings=SETTINGS):
    """Whether the conversion was killed on its way."""
    try:
        convert(raw, out, **settings)
    except Killed:
        return True
    return False


def planned(raw, out, monkeypatch):
    """A conversion of which everything is done but the moves."""
    with monkeypatch.context() as patch:
        patch.setattr(output_file, "move_into_place", raise_killed)
        assert interrupted(raw, out)


def raise_killed(*_):
    raise Killed


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_at_any_rename_of_a_conversion_is_mended_by_the_same_call(
    raw, finished, tmp_path, monkeypatch, before
):
    number, out = 1, tmp_path / "out"
    while True:
        with monkeypatch.context() as patch:
            killed_at(patch, number, before=before)
            killed = interrupted(raw, out)
        assert_nothing_partial(out, finished)
        convert(raw, out, **SETTINGS)
        assert tree(out) == finished
        shutil.rmtree(out)
        if not killed:
            break
        number += 1
    assert number > 40, "there was little to interrupt"


def test_a_conversion_killed_again_and_again_gets_to_its_end(raw, finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for kills in range(200):  # noqa: B007
        with monkeypatch.context() as patch:
            killed_at(patch, 17, before=False)
            if not interrupted(raw, out):
                break
        assert_nothing_partial(out, finished)
    assert 3 <= kills < 199
    assert tree(out) == finished


def test_moves_go_shards_first_then_indexes_then_the_manifest(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    planned(raw, out, monkeypatch)
    moves = orjson.loads((out / ".mixstream" / "commit.json").read_bytes())["moves"]
    with monkeypatch.context() as patch:
        targets = killed_at(patch, 10**6, before=False)
        move_into_place(out, out / ".mixstream")
    assert len(targets) == len(moves)
    kinds = [target.name.rstrip("0123456789") for target in targets]
    assert kinds[-2:] == ["inputs.json", "corpus.json"]
    assert kinds[-5:-2] == ["index.json"] * 3
    assert {kind[-4:] for kind in kinds[:-5]} == {".mds"}


def test_a_kill_while_the_work_folder_is_removed_leaves_no_trace_after_the_same_call(
    raw, finished, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    for num_removed in (0, 1, 3):
        with monkeypatch.context() as patch:

            def remove(folder, num_removed=num_removed, **_):
                if folder.name == ".mixstream":
                    for path in [each for each in folder.rglob("*") if each.is_file()][
                        :num_removed
                    ]:
                        path.unlink()
                    raise Killed

            patch.setattr(shutil, "rmtree", remove)
            assert interrupted(raw, out)
        assert (out / ".mixstream").exists()
        assert_nothing_partial(out, finished)
        convert(raw, out, **SETTINGS)
        assert tree(out) == finished
        assert not (out / ".mixstream").exists()
        shutil.rmtree(out)


def test_a_shard_that_is_neither_here_nor_there_is_an_error_with_a_mend(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    planned(raw, out, monkeypatch)
    source = orjson.loads((out / ".mixstream" / "commit.json").read_bytes())["moves"][0][0]
    (out / ".mixstream" / source).unlink()
    with pytest.raises(ShardError, match=rf"neither .*{source} nor .* exists.*Delete .* convert"):
        convert(raw, out, **SETTINGS)


def test_a_target_that_cannot_be_replaced_is_a_shard_error_and_may_be_mended(
    raw, finished, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    planned(raw, out, monkeypatch)
    in_the_way = out / "domain0" / "shard.00001.mds"
    (in_the_way / "deep").mkdir(parents=True)
    with pytest.raises(ShardError, match=r"cannot write .*domain0/shard\.00001\.mds: "):
        convert(raw, out, **SETTINGS)
    shutil.rmtree(in_the_way)
    convert(raw, out, **SETTINGS)
    assert tree(out) == finished


def test_a_commit_under_way_goes_on_but_is_not_passed_off_as_other_inputs(
    raw, finished, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    planned(raw, out, monkeypatch)
    write_texts(raw / "domain1" / "more.jsonl", ["more"])
    with pytest.raises(RecipeError, match=r"made from other files: domain1/more.jsonl is new"):
        convert(raw, out, **SETTINGS)
    assert list(corpus_faults(out)) == []


def test_odd_names_of_domains_do_not_disturb_the_moves(tmp_path):
    raw = tmp_path / "raw"
    names = ["index.json", "shard.00000.mds", "web.mds.zst", "final", "lock", "ü 中", "_x", "a.b"]
    write_texts(raw / "all" / "a.jsonl", ["text"])
    report = convert(raw, tmp_path / "out", domains=dict.fromkeys(names, "all/*"), **SETTINGS)
    assert sorted(report.domains) == sorted(names)
    assert list(corpus_faults(tmp_path / "out")) == []
