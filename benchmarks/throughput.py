"""How many rows a second, and tokens a CPU-second, beside every peer?

From the centre (B = 32, S = 2,048, uint16, int64 out, no workers, four domains at .5/.25/.15/.1)
one thing varies at a time. A measurement is a process of its own; contenders take turns, ours and
the bare gather twice a round, and who takes more than four seconds for one has but one. The clock
starts after four batches, or eight rows a domain (which opens its file), or three seconds of those,
which slow contenders take, and runs for 0.4 s, or up to 2 s where it starts slowly. CPU seconds are
those of all its processes, and memory what is held at the end above the imports: in the process
mapped files apart, in its workers by each alone.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from marked_rows import weights_of, write_marked
from peers import OURS
from side_by_side import OURS_AND_FLOORS, Contest, Page, median, peer_parser, spread

ASKED_ONCE_SECONDS = 4.0
CENTRE: dict[str, Any] = {
    "batch_size": 32,
    "seq_len": 2048,
    "dtype": "uint16",
    "native": False,
    "num_workers": 0,
    "num_domains": 4,
}
VARIED: tuple[dict[str, Any], ...] = (
    {},
    {"num_workers": 2},
    {"native": True},
    {"batch_size": 256},
    {"batch_size": 256, "native": True},
    {"batch_size": 8},
    {"seq_len": 512},
    {"seq_len": 8192},
    {"dtype": "uint32"},
    {"num_domains": 22},
    {"num_domains": 256},
    {"num_domains": 4096},
)
COLUMNS = [
    "what",
    "contender",
    "rows/s",
    "M tokens/CPU-s",
    "of the bare gather's CPU speed",
    "ours is x times it per CPU-s",
    "MiB held",
    "spread",
]


def main() -> None:
    settings = peer_parser(__doc__ or "").parse_args()
    page = Page("throughput")
    page.table("Throughput, one thing varied at a time", COLUMNS)
    points = VARIED[:1] if settings.quick else VARIED
    names = (*OURS_AND_FLOORS, *settings.peers)
    with (
        tempfile.TemporaryDirectory() as folder,
        Contest(page, Path(folder), names, settings.home, limit_seconds=20.0) as contest,
    ):
        for varied in points:
            rounds = 1 if settings.quick else 3
            measure(contest, CENTRE | varied, varied, quick=settings.quick, rounds=rounds)
    if settings.json:
        page.write(settings.json, " ".join(["python", *sys.argv]))


def measure(
    contest: Contest, point: dict[str, Any], varied: dict[str, Any], *, quick: bool, rounds: int
) -> None:
    """All contenders at one point."""
    weights = weights_of(point["num_domains"])
    num_bytes, seconds = (1 << 23, 0.3) if quick else (1 << 26, 0.4)
    name = f"{point['num_domains']}-{point['seq_len']}-{point['dtype']}"
    source = contest.work / name / "source"
    if not source.exists():
        for old in contest.work.iterdir():  # one corpus in all formats at a time
            shutil.rmtree(old)
        row_bytes = point["seq_len"] * (2 if point["dtype"] == "uint16" else 4)
        num_rows = {d: max(8, round(num_bytes / row_bytes * w)) for d, w in weights.items()}
        write_marked(source, num_rows, seq_len=point["seq_len"], dtype=point["dtype"])
    contest.point = title_of(varied)
    able = contest.write(source, weights=weights, seq_len=point["seq_len"])
    chosen = {key: point[key] for key in ("batch_size", "seq_len", "native", "num_workers")}
    if point["num_workers"]:
        able = [each for each in able if each not in ("memcpy", "bare_gather")] + ["bare_gather"]
    num_steps = max((2**13 if quick else 2**17) // point["batch_size"], 256)
    jobs = {
        each: contest.job(each, source, weights=weights, num_steps=num_steps, **chosen)
        for each in able
    }
    found = contest.in_turns(
        jobs,
        "throughput",
        rounds=rounds,
        once_seconds=ASKED_ONCE_SECONDS,
        often=() if quick else (OURS, "bare_gather"),
        seconds=seconds,
    )
    lines(contest.page, found, varied, point)


def title_of(varied: dict[str, Any]) -> str:
    """A point as the page names it."""
    return ", ".join(f"{key}={value}" for key, value in varied.items()) or "centre"


def lines(
    page: Page,
    found: dict[str, list[dict[str, Any]]],
    varied: dict[str, Any],
    point: dict[str, Any],
) -> None:
    """A row of the table a contender."""
    tokens = point["batch_size"] * point["seq_len"]
    for runs in found.values():
        for run in runs:
            run["rows"] = run["steps"] * point["batch_size"] / run["wall"]
            run["tokens"] = run["steps"] * tokens / max(run["cpu"], 1e-9)
    speed = {name: median(runs, "tokens") for name, runs in found.items()}
    for name, runs in found.items():
        page.add(
            title_of(varied),
            name,
            round(median(runs, "rows")),
            speed[name] / 1e6,
            speed[name] / speed["bare_gather"] if "bare_gather" in speed else None,
            speed["ours"] / speed[name] if "ours" in speed else None,
            round(median(runs, "held_bytes") / 2**20),
            spread([run["tokens"] for run in runs]) if len(runs) > 1 else None,
        )


if __name__ == "__main__":
    main()
