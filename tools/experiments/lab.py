"""A run of an experiment by seed -> a table of measures beside the lines drawn before the run.

Each script of this folder holds one Experiment and calls `main`. What counts as success is printed
first; every line must hold for every seed. Pilots were run on seeds below 100; the results in
benchmarks/results/experiments are of seeds that no choice was made on.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # train_tiny and its parts

Measures = dict[str, float]
"""What one seed gave: numbers by name; those that a Line names decide."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A measure on one side of a bound: what counts as success."""

    measure: str
    """Its name, with the unit."""
    at_least: float | None = None
    """The lower bound, or None."""
    at_most: float | None = None
    """The upper bound, or None."""

    def passed(self, value: float) -> bool:
        """Whether a value is on the right side; NaN never is."""
        low = -np.inf if self.at_least is None else self.at_least
        high = np.inf if self.at_most is None else self.at_most
        return bool(low <= value <= high)

    def __str__(self) -> str:
        parts = [("at least", self.at_least), ("at most", self.at_most)]
        bounds = " and ".join(f"{word} {bound:g}" for word, bound in parts if bound is not None)
        return f"{self.measure}: {bounds}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One method's claim, and how it is tried."""

    name: str
    """Of the method."""
    claim: str
    """What the method is said to do, and in which setting it is tried here."""
    lines: tuple[Line, ...]
    """All must hold for each seed."""
    settings: Any
    """A frozen dataclass of numbers and words with its documented defaults."""
    run: Callable[[int, Any, Path], Measures]
    """(seed, settings, an empty folder to work in) -> measures."""
    notes: tuple[str, ...] = field(default=())
    """What a reader of the table should know."""

    def announced(self) -> str:
        """The claim and the lines, to be read before the run."""
        lines = "\n".join(f"  {line}" for line in self.lines)
        return f"{self.name}: {self.claim}\nsuccess, for each seed:\n{lines}"


def measured(experiment: Experiment, settings: Any, seeds: Sequence[int]) -> dict[str, Any]:
    """Runs each seed; a JSON-able record with the verdict."""
    found: dict[str, Measures] = {}
    start = time.monotonic()
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix=f"{experiment.name}-") as folder:
            found[str(seed)] = experiment.run(seed, settings, Path(folder))
        print(f"seed {seed} done after {time.monotonic() - start:.0f} s", file=sys.stderr)
    missing = {line.measure for line in experiment.lines} - set.intersection(
        *map(set, found.values())
    )
    assert not missing, f"no measure is called {missing}"
    verdicts = {
        str(line): [line.passed(measures[line.measure]) for measures in found.values()]
        for line in experiment.lines
    }
    return {
        "name": experiment.name,
        "claim": experiment.claim,
        "notes": list(experiment.notes),
        "settings": asdict(settings),
        "measures": found,
        "lines": verdicts,
        "passed": all(map(all, verdicts.values())),
        "seconds": round(time.monotonic() - start),
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        },
    }


def table(experiment: Experiment, found: Mapping[str, Measures]) -> str:
    """Markdown: a row a measure, a column a seed; the lines first, with their verdicts."""
    lines = {line.measure: line for line in experiment.lines}
    names = [*lines, *(name for name in next(iter(found.values())) if name not in lines)]
    rows = [["measure", *(f"seed {seed}" for seed in found), "success", "passed"]]
    rows.append(["---", *("---:" for _ in found), "---", "---"])
    for name in names:
        values = [measures[name] for measures in found.values()]
        line = lines.get(name)
        bound = "" if line is None else str(line).rpartition(": ")[2]
        verdict = "" if line is None else "yes" if all(map(line.passed, values)) else "**NO**"
        rows.append([name, *(f"{value:.4g}" for value in values), bound, verdict])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(experiment: Experiment) -> None:
    """The command line of a script: announce, run, print the table, keep the record."""
    parser = argparse.ArgumentParser(
        description=experiment.announced(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: 1")
    parser.add_argument("--json", metavar="FILE", help="write the record there")
    for each in fields(experiment.settings):
        default = getattr(experiment.settings, each.name)
        flag = "--" + each.name.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default, help=f"default: {default}")
    options = vars(parser.parse_args())
    seeds, path = options.pop("seeds"), options.pop("json")
    torch.set_num_threads(options.pop("threads"))
    settings = replace(experiment.settings, **options)
    print(experiment.announced(), flush=True)
    record = measured(experiment, settings, seeds)
    print(table(experiment, record["measures"]))
    print("passed" if record["passed"] else "NOT passed", f"({record['seconds']} s)")
    if path is not None:
        script = Path(sys.argv[0]).resolve().relative_to(Path(__file__).resolve().parents[2])
        record["command"] = shlex.join(["python", str(script), *sys.argv[1:]])
        record["table"] = table(experiment, record["measures"])
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(record, indent=1) + "\n")
