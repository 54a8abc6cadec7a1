"""The benchmarks run; what they measure is not asserted here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ORPHAN = r"""
import subprocess, sys
busy = "import time\nwhile time.process_time() < 0.5: pass"
subprocess.Popen([sys.executable, "-c", busy])
"""
MEASURED = f"""
import sys
from process_tree import run_tree
assert run_tree([sys.executable, "-c", {ORPHAN!r}], limit_seconds=60).cpu >= 0.5
try:
    run_tree([sys.executable, "-c", "print('so'); sys.exit()"], limit_seconds=60)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "constant_cost",
        "convert",
        "convert_side_by_side",
        "draw",
        "gather",
        "gpu",
        "loader",
        "ranks",
        "remote",
        "ring",
        "run_log",
        "step",
        "storage",
        "tokenizer_backends",
    ],
)
def test_a_benchmark_runs_and_prints_each_line_that_it_writes(name, tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--json", str(results)]
    command += ["--peers"] if name == "convert_side_by_side" else []  # ours alone, twice
    command += ["--device", "cpu"] if name == "gpu" else []  # the same code, to see that it runs
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    printed = [line for line in run.stdout.splitlines() if "  floor " in line]
    found = json.loads(results.read_text())
    assert found["question"] == name
    assert len(printed) == len(found["lines"]) > 0
    for line, values in zip(printed, found["lines"], strict=True):
        assert line.startswith(values["name"])
        assert f"({values['floor']})  x" in line


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux alone")
def test_a_process_that_outlives_its_parent_counts_and_a_failure_tells_its_last_line():
    run = subprocess.run(
        [sys.executable, "-c", MEASURED],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{sys.executable} ended with 1: NameError: name 'sys' is not defined\n"


def test_every_converter_is_pinned_and_has_a_title_and_both_ends(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from convert_peers import OURS, PEERS
    from convert_side_by_side import title
    from install import CONVERTERS, PINNED

    assert set(CONVERTERS) == set(PEERS)
    assert not set(CONVERTERS) & set(PINNED)
    for name in (OURS, *PEERS):
        text = (BENCHMARKS / "convert_peers" / f"{name}.py").read_text()
        assert "def convert(job: Job)" in text
        assert "def read_ids(job: Job)" in text
        assert title(name)


def test_a_question_without_results_says_so_and_how_to_ask_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables import table

    assert table(tmp_path / "draw.json") == (
        "\n### draw\n\nNo results yet: "
        "`python benchmarks/draw.py --json benchmarks/results/draw.json`\n"
    )
