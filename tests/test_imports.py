import subprocess
import sys

import pytest

import mixstream

HEAVY = ("pyarrow", "streaming", "torch", "transformers")


def imported_by(*arguments, allow_failure=False):
    """The top-level names of all modules that a fresh Python holds after it has run something."""
    code = (
        "import runpy, sys\n"
        "try:\n"
        f"    exec({arguments[0]!r})\n"
        "finally:\n"
        "    print('\\n', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert allow_failure or done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def heavy(names):
    return sorted(names & set(HEAVY))


def test_import_mixstream_imports_nothing_heavy():
    names = imported_by("import mixstream")
    assert "mixstream" in names
    assert heavy(names) == []


@pytest.mark.parametrize("package", HEAVY)
def test_that_test_can_fail(package, tmp_path):
    (tmp_path / f"{package}.py").write_text("")  # a stand-in: the real ones take seconds
    code = f"sys.path.insert(0, {str(tmp_path)!r}); import mixstream; import {package}"
    assert heavy(imported_by(code)) == [package]


def test_that_test_sees_what_the_package_itself_would_import():
    assert "torch" in heavy(imported_by("import mixstream; mixstream.Loader"))


@pytest.mark.parametrize("name", ["MixSampler", "WeightChange", "StateError"])
def test_the_way_of_the_control_needs_nothing_heavy(name):
    assert heavy(imported_by(f"import mixstream; mixstream.{name}")) == []


@pytest.mark.parametrize("options", [["--help"], ["convert", "--help"], ["draw", "--help"]])
def test_the_help_of_the_command_imports_no_torch(options):
    code = f"sys.argv[1:] = {options!r}; runpy.run_module('mixstream', run_name='__main__')"
    names = imported_by(code, allow_failure=True)  # --help ends in SystemExit(0)
    assert "argparse" in names
    assert not names & {"torch", "streaming", "transformers"}


def test_public_names_are_sorted_and_all_there():
    assert list(mixstream.__all__) == sorted(mixstream.__all__)
    assert len(set(mixstream.__all__)) == len(mixstream.__all__)
    assert dir(mixstream) == sorted(mixstream.__all__)
    for name in mixstream.__all__:
        assert getattr(mixstream, name) is not None


def test_public_names_are_documented():
    for name in mixstream.__all__:
        doc = getattr(mixstream, name).__doc__
        assert doc, name
        assert not doc.startswith(f"{name}("), f"{name} has the signature dataclasses write"


def test_every_public_name_is_at_hand_for_a_star_import():
    names = {}
    exec("from mixstream import *", names)
    assert set(mixstream.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error_that_says_so():
    with pytest.raises(AttributeError, match="'mixstream' has no attribute 'Lodaer'"):
        mixstream.Lodaer  # noqa: B018
    assert not hasattr(mixstream, "__wrapped__")
