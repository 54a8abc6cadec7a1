"""What does a change of the weights take while a run goes on, and what is lost or repeated?

Ours calls `set_weights`. Peers fix their weights when they are made, so a change takes another
loader, at the state of the old one where it has and takes one. Time is from the decision to the
first batch that may feel it, with the batches in flight that come before; imports are not counted.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from marked_rows import weights_of, write_marked
from mixture_statistics import Marks, in_order, repeated
from peers import OURS, Job
from side_by_side import Contest, Page, median, peer_parser, spread

SEQ_LEN, BEFORE, AFTER = 2048, 20, 40
WEIGHTS = weights_of(4)
NEW = dict(zip(WEIGHTS, reversed(WEIGHTS.values()), strict=True))  # d0000: from .5 to .1
COLUMNS = [
    "contender",
    "workers",
    "how",
    "ms to the first batch that may feel it",
    "spread",
    "batches in flight",
    "rows in flight",
    "share of d0000 after (asked .1, was .5)",
    "rows after it that repeat",
    "that go on in their domain's order",
]


def main() -> None:
    settings = peer_parser(__doc__ or "").parse_args()
    page = Page("live_change")
    page.table("A change of the weights after 20 batches", COLUMNS)
    num_rows, rounds = (1500, 1) if settings.quick else (3000, 3)
    with (
        tempfile.TemporaryDirectory() as folder,
        Contest(page, Path(folder), (OURS, *settings.peers), settings.home) as contest,
    ):
        source = Path(folder) / "corpus" / "source"
        write_marked(source, dict.fromkeys(WEIGHTS, num_rows), seq_len=SEQ_LEN)
        able = contest.write(source, weights=WEIGHTS, seq_len=SEQ_LEN)
        for num_workers in (0,) if settings.quick else (0, 2):
            jobs = {
                name: contest.job(
                    name,
                    source,
                    weights=WEIGHTS,
                    seq_len=SEQ_LEN,
                    num_steps=BEFORE + AFTER,
                    num_workers=num_workers,
                )
                for name in able
            }
            changed(contest, jobs, rounds)
    if settings.json:
        page.write(settings.json, " ".join(["python", *sys.argv]))


def changed(contest: Contest, jobs: dict[str, Job], rounds: int) -> None:
    """A line a contender; the change in turns, the run without one once."""
    marks = {name: contest.work / f"{name}-change.npy" for name in jobs}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name in list(found)[:: 1 if number % 2 == 0 else -1]:
            arguments = {"before": BEFORE, "after": AFTER, "weights": NEW}
            path = str(marks[name])
            run = contest.run(name, "change", jobs[name], marks=path, **arguments)
            if run is None:
                del found[name]
            else:
                found[name].append(run)
    for name, runs in found.items():
        plain = contest.work / f"{name}-plain.npy"
        job = replace(jobs[name], num_steps=BEFORE + AFTER)
        order = contest.run(name, "record", job, marks=str(plain))
        line(contest.page, name, job, runs, np.load(marks[name]), np.load(plain) if order else None)


def line(
    page: Page, name: str, job: Job, runs: list[dict[str, Any]], marks: Marks, order: Marks | None
) -> None:
    """What one contender's change took and did."""
    in_flight = runs[-1]["in_flight"]
    before, after = marks[: BEFORE + in_flight], marks[BEFORE + in_flight :]
    page.add(
        name,
        job.num_workers,
        runs[-1]["how"],
        median(runs, "seconds") * 1e3,
        spread([run["seconds"] for run in runs]),
        in_flight,
        in_flight * job.batch_size,
        float((after[..., 0] == 0).mean()),
        repeated(before, after),
        None if order is None else in_order(order, before, after),
    )


if __name__ == "__main__":
    main()
