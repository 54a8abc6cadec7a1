"""A unit that runs more than once, also at the same time, ends in one whole folder."""

import pickle
import shutil
import sys

import pytest

from mixstream.corpus.attempts import Attempt, anywhere, remove_attempts
from mixstream.corpus.domain_files import domain_files
from mixstream.corpus.plan import planned_units
from mixstream.corpus.ray_engine import run_on_ray
from mixstream.corpus.recipe import Recipe, RowSettings
from mixstream.corpus.tokenizers import open_tokenizer
from mixstream.corpus.unit import read_unit_report
from mixstream.errors import RecipeError, ShardError
from tests.corpus.conftest import make_raw, tree


@pytest.fixture
def unit(tmp_path):
    raw = make_raw(tmp_path / "raw", domains=1, files=2)
    settings = RowSettings(tokenizer=open_tokenizer("bytes"), seq_len=16, shard_bytes=256)
    files = domain_files(raw, None, leave_out=tmp_path / "out")
    return planned_units(Recipe(rows=settings, files=files))[0], settings


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "recipe.json").write_text("{}")
    return tmp_path / "work"


def attempt(settings, work):
    made = Attempt(settings=settings, work=work, upload=None, is_elsewhere=True)
    return pickle.loads(pickle.dumps(made))


def test_a_second_attempt_changes_nothing_and_leaves_nothing(unit, work):
    unit, settings = unit
    first = attempt(settings, work)(unit)
    made = tree(work)
    assert attempt(settings, work)(anywhere(unit)) == first
    assert tree(work) == made
    assert read_unit_report(work / unit.digest) == first


def test_what_a_killed_run_left_under_the_name_is_replaced(unit, work):
    unit, settings = unit
    attempt(settings, work)(unit)
    made = tree(work)
    (work / unit.digest / "unit.json").unlink()
    (work / unit.digest / "shard.00000.mds").write_bytes(b"half")
    shutil.copytree(work / unit.digest, work / f"{unit.digest}.attempt-0123")
    attempt(settings, work)(unit)
    remove_attempts(work)
    assert tree(work) == made


def test_a_name_that_cannot_be_taken_is_a_shard_error(unit, work):
    unit, settings = unit
    (work / unit.digest).write_bytes(b"a file in the way")
    with pytest.raises(ShardError, match=rf"cannot write .*{unit.digest}: others write to it"):
        attempt(settings, work)(unit)


def test_a_folder_that_the_machines_do_not_share_is_named_with_a_mend(unit, tmp_path):
    unit, settings = unit
    with pytest.raises(RecipeError, match=r"elsewhere is not there on .*; name an output folder"):
        attempt(settings, tmp_path / "elsewhere")(unit)


def test_ray_that_is_not_installed_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"pip install 'mixstream\[ray\]', on all machines"):
        list(run_on_ray(len, [()], address=None))


def test_nothing_to_do_needs_no_cluster(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(run_on_ray(len, [], address=None)) == []
