"""The benchmarks run; what they measure is not asserted here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "constant_cost",
        "convert",
        "draw",
        "gather",
        "loader",
        "ring",
        "run_log",
        "step",
        "tokenizer_backends",
    ],
)
def test_a_benchmark_runs_and_prints_each_line_that_it_writes(name, tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--json", str(results)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    printed = [line for line in run.stdout.splitlines() if "  floor " in line]
    found = json.loads(results.read_text())
    assert found["question"] == name
    assert len(printed) == len(found["lines"]) > 0
    for line, values in zip(printed, found["lines"], strict=True):
        assert line.startswith(values["name"])
        assert f"({values['floor']})  x" in line
