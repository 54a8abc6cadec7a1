"""What do a run log and readiness for requests cost a Loader's step? B = 32, S = 2,048 uint16."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from harness import Line, in_turns, least, parser, report, spread
from random_corpus import open_written, write_corpus

from mixstream import Loader

SEQ_LEN, BATCH_SIZE, STEPS_A_CHANGE = 2048, 32, 100
WEIGHTS = {"web": 0.5, "code": 0.25, "books": 0.15, "wiki": 0.1}
FLOOR = "no run log"


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    num_steps, rounds = (100, 2) if settings.quick else (500, 250)
    with tempfile.TemporaryDirectory() as folder:
        calls = contenders(Path(folder), num_steps)
        seconds = in_turns(calls, rounds=rounds)
        best = least(seconds, num_steps)
    with report("run_log", settings) as lines:
        for name in list(best)[1:]:
            lines.add(
                Line(
                    name=name,
                    seconds=best[name],
                    floor_seconds=best[FLOOR],
                    floor=FLOOR,
                    note=f"{extra(seconds, name):+.2%} a step, median of turns; "
                    f"spread x{spread(seconds[FLOOR]):.2f}",
                )
            )


def extra(seconds: dict[str, list[float]], name: str) -> float:
    """The median over the rounds of what a contender took more than the floor beside it."""
    pairs = zip(seconds[name], seconds[FLOOR], strict=True)
    return float(np.median([mine / floor - 1 for mine, floor in pairs]))


def contenders(folder: Path, num_steps: int) -> dict[str, Callable[[], object]]:
    """Loops that do nothing but change the weights every 100 steps."""
    domain_rows = {name: round(2 * BATCH_SIZE * num_steps * w) for name, w in WEIGHTS.items()}
    write_corpus(folder / "corpus", domain_rows, seq_len=SEQ_LEN)
    corpus = open_written(folder / "corpus")
    loaders = {
        FLOOR: Loader(corpus, WEIGHTS, batch_size=BATCH_SIZE),
        "no run log, once more (the noise)": Loader(corpus, WEIGHTS, batch_size=BATCH_SIZE),
        "run_log": Loader(corpus, WEIGHTS, batch_size=BATCH_SIZE, run_log=folder / "a.jsonl"),
        "run_log, steerable": Loader(
            corpus, WEIGHTS, batch_size=BATCH_SIZE, run_log=folder / "b.jsonl", steerable=True
        ),
    }
    return {name: loop(loader, iter(loader), num_steps) for name, loader in loaders.items()}


def loop(loader: Loader, batches: Iterator[object], num_steps: int) -> Callable[[], object]:
    def run() -> None:
        for step in range(num_steps):
            next(batches)
            if step % STEPS_A_CHANGE == STEPS_A_CHANGE - 1:
                loader.set_weights(WEIGHTS, reason="the same again")

    return run


if __name__ == "__main__":
    main()
