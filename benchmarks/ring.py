"""What does a batch cost that a worker process makes, beside one that is made in this process?

B = 32 rows of S = 2,048 uint16 tokens, four domains, no GPU; native batches (uint16, as they lie on
disk), int64 batches (what Loader gives), and int64 batches after a transform that computes for
1 ms. The contenders run in one process and take turns of some hundred steps, whose best counts;
starts of processes are left out. "torch, 2 workers" is a DataLoader over the same dataset; "copies"
is a loop that keeps MAX_LENT batches, so that it gets copies from then on. CPU seconds are those of
all processes. The floor is the same work in this process.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
from harness import Line, Report, parser, report
from loader import BATCH_SIZE, SEQ_LEN, WEIGHTS
from random_corpus import open_written, write_corpus
from torch.utils.data import DataLoader

from mixstream import Corpus, MixBatchSampler, MixSampler, RowDataset
from mixstream.arrays import Addresses
from mixstream.loader.dataset import passed_on
from mixstream.loader.ring import MAX_LENT, Ring

NUM_ROWS = 40_000
TRANSFORM_SECONDS = 1e-3
CONTENDERS = ("no workers", "torch, 2 workers", "ring, 2 workers", "ring, 2 workers, copies")


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    with report("ring", settings) as lines, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus"
        num_rows = {name: round(NUM_ROWS * weight) for name, weight in WEIGHTS.items()}
        write_corpus(path, num_rows, seq_len=SEQ_LEN)
        corpus = open_written(path)
        for kind in BATCH_MAKERS:
            num_steps = 100 if kind == "transformed" else 400
            compare(lines, corpus, kind, (20, 1) if settings.quick else (num_steps, 12))


def compare(lines: Report, corpus: Corpus, kind: str, repeats: tuple[int, int]) -> None:
    """Turns of so many steps for each contender, so many times; then their lines."""
    num_steps, rounds = repeats
    loops = {name: contender(kind, name, corpus) for name in CONTENDERS}
    walls, cpus = (dict.fromkeys(loops, float("inf")) for _ in range(2))
    for number in range(-1, rounds):
        for name in CONTENDERS[:: 1 if number % 2 == 0 else -1]:
            wall, cpu = time.perf_counter(), cpu_seconds()
            deque(islice(loops[name], num_steps), maxlen=1)  # a loop's variable holds one batch
            if number >= 0:
                walls[name] = min(walls[name], (time.perf_counter() - wall) / num_steps)
                cpus[name] = min(cpus[name], (cpu_seconds() - cpu) / num_steps)
    tokens = BATCH_SIZE * SEQ_LEN / 1e6
    for name in CONTENDERS:
        lines.add(
            Line(
                name=f"{kind}: {name}",
                seconds=walls[name],
                floor_seconds=walls["no workers"],
                floor="no workers",
                rows=BATCH_SIZE,
                note=f"{tokens / walls[name]:.0f} M tokens/s, {tokens / cpus[name]:.0f} M "
                f"tokens/CPU-s (x{cpus[name] / cpus['no workers']:.2f} CPU time)",
            )
        )


def cpu_seconds() -> float:
    """Of this process and of its children that run."""
    tasks = (
        task
        for child in active_children()
        for task in Path(f"/proc/{child.pid}/task").glob("*/schedstat")
    )
    return time.process_time() + sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def contender(kind: str, name: str, corpus: Corpus) -> Iterator[object]:
    """Endless batches of the same addresses."""
    make_batch = partial(BATCH_MAKERS[kind], corpus)
    batches = MixBatchSampler(MixSampler(corpus.layout, WEIGHTS), BATCH_SIZE)
    if name == "no workers":
        return map(make_batch, batches)
    if name.startswith("torch"):
        dataset: Any = TorchDataset(make_batch)
        return iter(DataLoader(dataset, batch_sampler=batches, collate_fn=passed_on, num_workers=2))
    made = Ring(make_batch, num_workers=2).batches(batches)
    return keeping(made) if name.endswith("copies") else made


def keeping(batches: Iterator[object]) -> Iterator[object]:
    """All that a ring lends is kept."""
    kept = list(islice(batches, MAX_LENT))
    yield from batches
    kept.clear()


class TorchDataset:
    """make_batch as torch's loader wants it."""

    def __init__(self, make_batch: Callable[[Addresses], Any]) -> None:
        self.make_batch = make_batch

    def __getitems__(self, addresses: Addresses) -> list[Any]:
        return [self.make_batch(addresses)]


def native(corpus: Corpus, addresses: Addresses) -> Any:
    """The rows as they lie on disk, and nothing else."""
    return {"input_ids": torch.from_numpy(corpus.gather(addresses))}


def int64(corpus: Corpus, addresses: Addresses) -> Any:
    """What Loader gives."""
    return RowDataset(corpus).batch(addresses)


def transformed(corpus: Corpus, addresses: Addresses) -> Any:
    """What Loader gives, after a computation."""
    batch = int64(corpus, addresses)
    end = time.thread_time() + TRANSFORM_SECONDS
    while time.thread_time() < end:
        pass
    return batch


BATCH_MAKERS = {"native": native, "int64": int64, "transformed": transformed}


if __name__ == "__main__":
    main()
