"""What do a run log, readiness for requests and being watched cost a Loader's step?

B = 32, S = 2,048 uint16, a change of the weights each 100 steps of a loop that does nothing else.
While `watched` has its turns, `mixstream watch` serves that run in a process of its own, and one
more asks for its charts as an open page does; both are stopped while the others have theirs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from harness import Line, in_turns, least, parser, report, spread
from random_corpus import open_written, write_corpus

from mixstream import Loader
from mixstream.runlog.requests import RequestFolder

SEQ_LEN, BATCH_SIZE, STEPS_A_CHANGE = 2048, 32, 100
WEIGHTS = {"web": 0.5, "code": 0.25, "books": 0.15, "wiki": 0.1}
STEPS_A_LOOK, LOOK = 64, "a look for requests, of 64 steps"
FLOOR, STEERABLE, WATCHED = "no run log", "run_log, steerable", "run_log, steerable, watched"
PAGE_SECONDS, PAGE_SHARE = 1.0, 0.1
"""Between two looks of an open page, at the least; and what share of the time they may take."""


def main() -> None:
    if sys.argv[1:2] == ["--page"]:
        open_page(sys.argv[2])
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    num_steps, rounds = (100, 2) if settings.quick else (500, 25)
    with tempfile.TemporaryDirectory() as folder:
        loaders = made_loaders(Path(folder), num_steps)
        watched = loaders[WATCHED]
        next(iter(watched))  # so that there is a log to watch
        with watchers(Path(folder) / "c.jsonl") as processes:
            calls = {
                name: loop(loader, iter(loader), num_steps, processes, loader is watched)
                for name, loader in loaders.items()
            }
            seconds = in_any_order(calls, times=1 if settings.quick else 20, rounds=rounds)
        events = {name: event(loaders[name]) for name in (FLOOR, "run_log")}
        events[LOOK] = looker(Path(folder) / "b.jsonl")
        alone = in_turns(events, rounds=20 * rounds)
    with report("run_log", settings) as lines:
        for line in found(seconds, alone, num_steps):
            lines.add(line)


def found(
    seconds: dict[str, list[float]], alone: dict[str, list[float]], num_steps: int
) -> Iterator[Line]:
    """The lines: loops beside each other, and by itself what some of their steps have more."""
    best, one = least(seconds, num_steps), least(alone, 1)
    for name in list(best)[1:]:
        beside = STEERABLE if name == WATCHED else FLOOR
        yield Line(
            name=name,
            seconds=best[name],
            floor_seconds=best[beside],
            floor=beside,
            note=f"{extra(seconds[name], seconds[beside])} a step; "
            f"spread x{spread(seconds[beside]):.2f}",
        )
    yield Line(
        name="an event, of 100 steps",
        seconds=max(one["run_log"] - one[FLOOR], 0.0),
        floor_seconds=STEPS_A_CHANGE * best[FLOOR],
        floor="100 steps without",
        note=f"set_weights {1e6 * one[FLOOR]:.1f} us, logged {1e6 * one['run_log']:.1f} us",
    )
    yield Line(
        name=LOOK,
        seconds=one[LOOK],
        floor_seconds=STEPS_A_LOOK * best[FLOOR],
        floor=f"{STEPS_A_LOOK} steps without",
        note="ten a second, and not more than one in so many steps",
    )


def looker(log: Path) -> Callable[[], object]:
    """A look for requests beside a log."""
    requests = RequestFolder(log)
    return lambda: list(requests.pending())


def event(loader: Loader) -> Callable[[], object]:
    """A change of the weights."""
    return lambda: loader.set_weights(WEIGHTS, reason="the same again")


def in_any_order(
    calls: dict[str, Callable[[], object]], *, times: int, rounds: int
) -> dict[str, list[float]]:
    """`in_turns` again and again, so that none always comes after the same other."""
    random = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(times):
        names = random.permutation(list(calls)).tolist()
        for name, found in in_turns({name: calls[name] for name in names}, rounds=rounds).items():
            seconds[name] += found
    return seconds


def extra(mine: list[float], floor: list[float]) -> str:
    """The median over the rounds of what a contender took more, and how sure that is."""
    ratios = np.array(mine) / np.array(floor) - 1
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    error = 0.93 * (high - low) / np.sqrt(len(ratios))  # of a median, by its quartiles
    return f"{middle:+.2%} +- {error:.2%} (median of turns)"


def made_loaders(folder: Path, num_steps: int) -> dict[str, Loader]:
    """The contenders, over one corpus."""
    domain_rows = {name: round(2 * BATCH_SIZE * num_steps * w) for name, w in WEIGHTS.items()}
    write_corpus(folder / "corpus", domain_rows, seq_len=SEQ_LEN)
    corpus = open_written(folder / "corpus")

    def loader(log: str | None, *, steerable: bool = False) -> Loader:
        path = None if log is None else folder / log
        return Loader(corpus, WEIGHTS, batch_size=BATCH_SIZE, run_log=path, steerable=steerable)

    return {
        FLOOR: loader(None),
        "no run log, once more (the noise)": loader(None),
        "run_log": loader("a.jsonl"),
        STEERABLE: loader("b.jsonl", steerable=True),
        WATCHED: loader("c.jsonl", steerable=True),
    }


def loop(
    loader: Loader,
    batches: Iterator[object],
    num_steps: int,
    watchers: list[subprocess.Popen[str]],
    is_watched: bool,
) -> Callable[[], object]:
    """Steps that do nothing but change the weights; the watchers run on only if it is watched."""

    def run() -> None:
        for process in watchers:
            process.send_signal(signal.SIGCONT if is_watched else signal.SIGSTOP)
        for step in range(num_steps):
            next(batches)
            if step % STEPS_A_CHANGE == STEPS_A_CHANGE - 1:
                loader.set_weights(WEIGHTS, reason="the same again")

    return run


@contextmanager
def watchers(log: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """`mixstream watch`, and an open page of it; both end with the block."""
    command = [sys.executable, "-m", "mixstream", "watch", str(log)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None, "it is piped"
    url = server.stdout.readline().strip()
    page = subprocess.Popen([sys.executable, __file__, "--page", url], text=True)
    try:
        yield [server, page]
    finally:
        for process in (page, server):
            process.kill()
            process.wait()
        server.stdout.close()


def open_page(url: str) -> None:
    """Asks for the charts for ever, as the page does in a browser, until its parent is gone."""
    known, parent = "", os.getppid()
    while os.getppid() == parent:
        with urllib.request.urlopen(f"{url}picture?view=all&known={known}") as answer:
            picture = json.load(answer)
        known = picture["version"]
        time.sleep(max(PAGE_SECONDS, picture["seconds"] / PAGE_SHARE))


if __name__ == "__main__":
    main()
