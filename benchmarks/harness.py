"""Calls in -> their times, taken in turns; times -> the line of STYLE 12, and a JSON file.

A line is `name  time  floor time (what it is)  ratio`, where the ratio is time over floor: x1.25 is
0.8 of the floor's speed. Times are the least of many rounds, in which all contenders take turns on
the same rows: what else runs on a machine only adds time. The clock is that of the thread, which
stands still while others have the processor; what has threads of its own takes the wall's.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("numpy", "torch", "mosaicml-streaming")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measurement against its floor."""

    name: str
    seconds: float
    floor_seconds: float
    floor: str
    """What the floor is."""
    rows: int = 0
    """Rows that the time is for; 0 where rows are not the point."""
    note: str = ""

    def __str__(self) -> str:
        rate = f"  {rate_text(self.rows / self.seconds)} rows/s" if self.rows else ""
        note = f"  {self.note}" if self.note else ""
        return (
            f"{self.name:<46} {time_text(self.seconds)}  floor {time_text(self.floor_seconds)} "
            f"({self.floor})  {ratio_text(self)}{rate}{note}"
        )


@dataclass
class Report:
    """Prints each line when it is there, and writes all of them at the end."""

    question: str
    lines: list[Line] = field(default_factory=list)

    def add(self, line: Line) -> None:
        """Prints a line and keeps it."""
        self.lines.append(line)
        print(line, flush=True)

    def write(self, path: Path) -> None:
        """Writes the lines with command, machine and versions."""
        value = {
            "question": self.question,
            "command": " ".join(["python", *sys.argv]),
            "machine": machine(),
            "lines": [asdict(line) for line in self.lines],
        }
        path.write_text(json.dumps(value, indent=1) + "\n")


@contextmanager
def report(question: str, settings: argparse.Namespace) -> Iterator[Report]:
    """A report that is written to `--json FILE` when all lines are there."""
    lines = Report(question)
    yield lines
    if settings.json:
        lines.write(settings.json)


def parser(question: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks take."""
    arguments = argparse.ArgumentParser(description=question)
    arguments.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    return arguments


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, list[float]]:
    """Seconds of each call in each round; rounds go back and forth, and one before is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    gc.collect()
    gc.disable()
    for number in range(rounds):
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    gc.enable()
    return seconds


def least(seconds: Mapping[str, list[float]], num_steps: int) -> dict[str, float]:
    """Seconds a step of each call in its best round."""
    return {name: min(values) / num_steps for name, values in seconds.items()}


def spread(values: list[float]) -> float:
    """Median over least: 1 on a quiet machine."""
    return statistics.median(values) / min(values)


def time_text(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:6.2f} {unit}"
    return f"{seconds * 1e6:6.1f} us"


def ratio_text(line: Line) -> str:
    """Time over floor: x1.25 or x0.0123."""
    ratio = line.seconds / line.floor_seconds
    return f"x{ratio:.2f}" if ratio >= 0.1 else f"x{ratio:.4f}"


def rate_text(rate: float) -> str:
    """Rows a second: 5.13 M or 9.2 k."""
    return f"{rate / 1e6:.2f} M" if rate >= 1e6 else f"{rate / 1e3:.1f} k"


def machine() -> dict[str, str]:
    """Where and on what the numbers were taken."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = f"{len(found)} x {found[0].partition(': ')[2]}" if found else model
    return {
        "processor": model,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    } | {name: version(name) for name in PACKAGES}
