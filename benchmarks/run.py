"""One command reruns the page: installs the peers, asks its questions, writes tables and a chart.

`python benchmarks/run.py` writes benchmarks/results, README.md and results/peers.png, in half an
hour on two quiet cores once the peers are installed, and results/run.json: the minutes of each
question, and how many ratios of throughput are those of the results that were there. `--all` asks
what does not stand beside a peer, too. `--quick` proves in minutes that all of it works: it
installs nothing, names the peers that are not there, and leaves results and README.md as they are.
Needs `pip install 'mixstream[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chart
import page
import tables
from harness import machine
from install import HOME, PINNED, install
from peers import FLOORS, OURS, PEERS

HERE = Path(__file__).parent
OWN = ("gather", "step", "ranks", "convert_side_by_side", "storage", "gpu")
"""Of the questions of tables.py, those of the page."""
UNTIMED = ("fidelity", "shuffle")
"""They count and measure no time, so they are asked at the same time, as are all in `--quick`."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="minutes, to see that it works")
    every = (*page.QUESTIONS, *tables.QUESTIONS)
    arguments.add_argument("--only", nargs="*", choices=every, help="these questions")
    arguments.add_argument("--all", action="store_true", help="every question, in some hours")
    arguments.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="which of them")
    arguments.add_argument("--home", type=Path, default=HOME, help="their environments")
    arguments.add_argument("--no-install", action="store_true", help="take what is installed")
    settings = arguments.parse_args()
    start = time.perf_counter()
    if not (settings.quick or settings.no_install):
        for peer in settings.peers:
            print(
                f"{peer:<20} {install(peer, settings.home) or ', '.join(PINNED[peer])}", flush=True
            )
    asked = settings.only or (every if settings.all else (*page.QUESTIONS, *OWN))
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) if settings.quick else Path("benchmarks", "results")
        untimed = asked if settings.quick else [name for name in asked if name in UNTIMED]
        timed = [name for name in asked if name not in untimed]
        before = ratios(results)
        minutes = {name: answered(name, results, settings) for name in timed}
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda name: answered(name, results, settings, aside=True), untimed)
            minutes |= dict(zip(untimed, found, strict=True))
        failed = [name for name, taken in minutes.items() if taken is None]
        if {"throughput", "fidelity"} <= set(asked) - set(failed):
            chart.main(HERE.parent / results)
        total = (time.perf_counter() - start) / 60
        if not settings.quick:
            if set(page.QUESTIONS) <= set(asked) - set(failed):
                run = {
                    "command": " ".join(["python", *sys.argv]),
                    "machine": machine(),
                    "minutes": minutes,
                    "minutes_in_all": total,
                    "agreement": agreement(before, ratios(results)),
                }
                (HERE.parent / results / "run.json").write_text(json.dumps(run, indent=1) + "\n")
            tables.main()
            page.main()
    print(f"\n{len(asked) - len(failed)} questions in {total:.1f} min")
    if failed:
        raise SystemExit(f"no answer to {', '.join(failed)}")


def answered(
    name: str, results: Path, settings: argparse.Namespace, *, aside: bool = False
) -> float | None:
    """Asks one question in a process of its own; its minutes, None where it wrote no results.

    Args:
        name: of the question.
        results: the folder that they go to, from the repository's root.
        settings: of the command line.
        aside: another one is asked at the same time: what it prints is shown at its end.
    """
    command = [sys.executable, f"benchmarks/{name}.py", "--json", str(results / f"{name}.json")]
    command += ["--quick"] if settings.quick else []
    if name == "convert_side_by_side" and settings.no_install:
        command += ["--no-install"]
    if name in (*page.QUESTIONS, "convert_side_by_side") and settings.home != HOME:
        command += ["--home", str(settings.home.absolute())]
    if name in page.QUESTIONS and settings.peers != PEERS:
        command += ["--peers", *settings.peers]
    if not aside:
        print(f"\n== {name}", flush=True)
    start = time.perf_counter()
    stdout = subprocess.PIPE if aside else None
    done = subprocess.run(command, stdout=stdout, text=True, cwd=HERE.parent)
    minutes = (time.perf_counter() - start) / 60
    said = f"\n== {name}\n{done.stdout}" if aside else ""
    print(f"{said}== {name}: {minutes:.1f} min", flush=True)
    return None if done.returncode else minutes


def ratios(results: Path) -> dict[tuple[str, str], float]:
    """By point and peer, how many times its tokens a CPU-second ours gives."""
    path = HERE.parent / results / "throughput.json"
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text())["tables"][0]["rows"]
    return {(row[0], row[1]): row[5] for row in rows if row[1] not in (OURS, *FLOORS) and row[5]}


def agreement(
    before: dict[tuple[str, str], float], now: dict[tuple[str, str], float]
) -> dict[str, Any]:
    """How many ratios lie within a quarter of those before, and which do not, new over old."""
    changes = {key: now[key] / before[key] for key in now if key in before}
    others = {key: change for key, change in changes.items() if not 0.8 <= change <= 1.25}
    return {
        "ratios": len(changes),
        "within a quarter": len(changes) - len(others),
        "median of new over old": statistics.median(changes.values()) if changes else None,
        "others": {f"{name}, {point}": change for (point, name), change in others.items()},
    }


if __name__ == "__main__":
    main()
