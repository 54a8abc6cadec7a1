"""How fast is a whole Loader epoch, beside a bare gather and beside stock MosaicML Streaming?

B = 32 rows of S = 2,048 uint16 tokens, four domains in the proportions .5/.25/.15/.1, no GPU. Each
measurement is a process of its own and the contenders take turns; each reads a whole epoch from
`iter()` to the last batch, workers' start and end included, imports and opening excluded. The first
epoch maps the pages; the best of the epochs counts. CPU seconds are those of all its processes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from harness import Line, Report, parser, rate_text, report

SEQ_LEN, BATCH_SIZE = 2048, 32
WEIGHTS = {"web": 0.5, "code": 0.25, "books": 0.15, "wiki": 0.1}
CONTENDERS = (
    "bare memmap take",
    "bare memmap take, int64",
    "Loader, 0 workers",
    "Loader, 2 workers",
    "streaming, 0 workers",
    "streaming, 2 workers",
)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    settings = arguments.parse_args()
    if settings.measure:
        print(json.dumps(measured(settings.measure, settings.corpus, settings.steps)))
        return
    num_steps, rounds = (64, 1) if settings.quick else (2000, 3)
    contenders = CONTENDERS[:-1] if settings.quick else CONTENDERS  # importing streaming takes 4 s
    with report("loader", settings) as lines, tempfile.TemporaryDirectory() as folder:
        compare(lines, Path(folder) / "corpus", contenders, (num_steps, rounds))


def compare(
    lines: Report, corpus: Path, contenders: tuple[str, ...], repeats: tuple[int, int]
) -> None:
    """Each contender in a process of its own, in turns; then the lines."""
    from random_corpus import write_corpus

    num_steps, rounds = repeats
    num_rows = num_steps * BATCH_SIZE
    domain_rows = {name: round(num_rows * weight) for name, weight in WEIGHTS.items()}
    write_corpus(corpus, domain_rows, seq_len=SEQ_LEN)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in contenders[:: 1 if number % 2 == 0 else -1]:
            command = ["--measure", name, "--corpus", str(corpus), "--steps", str(num_steps)]
            output = subprocess.run(
                [sys.executable, __file__, *command], check=True, capture_output=True, text=True
            ).stdout
            found[name].append(json.loads(output.splitlines()[-1]))
    best = {name: min(run["wall"] for run in runs) for name, runs in found.items()}
    cpu = {name: min(run["cpu"] for run in runs) for name, runs in found.items()}
    for floor in (contenders[0], *contenders[4:]):
        for name in contenders:
            if name == floor or (floor.startswith("stream") and not name.startswith("Loader")):
                continue
            lines.add(
                Line(
                    name=name,
                    seconds=best[name] / num_steps,
                    floor_seconds=best[floor] / num_steps,
                    floor=floor,
                    rows=BATCH_SIZE,
                    note=f"{rate_text(num_rows / cpu[name])} rows/CPU-s "
                    f"(x{cpu[name] / cpu[floor]:.3f} CPU time); first epoch "
                    f"{statistics.median(run['first'] for run in found[name]):.2f} s",
                )
            )


def measured(name: str, corpus: Path, num_steps: int) -> dict[str, float]:
    """Wall and CPU seconds of the best epoch in this process, and wall seconds of the first."""
    epoch = epochs(name, corpus, num_steps)
    walls, cpus = [], []
    for _ in range(2 if name.startswith("streaming") or name.endswith("2 workers") else 5):
        start, start_cpu = time.perf_counter(), cpu_seconds()
        count = sum(1 for _ in epoch())
        walls.append(time.perf_counter() - start)
        cpus.append(cpu_seconds() - start_cpu)
        assert count == num_steps, f"{name} gave {count} batches of {num_steps}"
    return {"wall": min(walls), "cpu": min(cpus), "first": walls[0]}


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def epochs(name: str, corpus: Path, num_steps: int) -> Callable[[], Iterable[object]]:
    """What makes the iterator over an epoch of a contender."""
    num_workers = int(name.split()[-2]) if name.endswith("workers") else 0
    if name.startswith("bare"):
        return bare(corpus, num_steps, widen=name.endswith("int64"))
    if name.startswith("Loader"):
        return ours(corpus, num_steps, num_workers)
    return stock(corpus, num_steps, num_workers)


def bare(corpus: Path, num_steps: int, *, widen: bool) -> Callable[[], Iterable[object]]:
    """A take from one map of the same rows, addresses known before; as it is, or as int64."""
    import numpy as np
    from random_corpus import open_floor

    rows = open_floor(corpus, SEQ_LEN)
    order = np.random.default_rng(0).permutation(len(rows))[: num_steps * BATCH_SIZE]
    batches = list(order.reshape(num_steps, BATCH_SIZE))

    def epoch() -> Iterator[object]:
        for batch in batches:
            block = rows.take(batch, 0)
            yield block.astype(np.int64) if widen else block

    return epoch


def ours(corpus: Path, num_steps: int, num_workers: int) -> Callable[[], Iterable[object]]:
    """Our Loader, whose next epoch is the next batches of the run."""
    from random_corpus import open_written

    from mixstream import Loader

    loader = Loader(open_written(corpus), WEIGHTS, batch_size=BATCH_SIZE, num_workers=num_workers)
    return lambda: islice(loader, num_steps)


def stock(corpus: Path, num_steps: int, num_workers: int) -> Callable[[], Iterable[object]]:
    """StreamingDataset over the same shards in a stock DataLoader; ids widened as ours are."""
    import torch
    from streaming import Stream, StreamingDataset
    from torch.utils.data import DataLoader

    dataset = StreamingDataset(
        streams=[
            Stream(local=str(corpus / name), proportion=weight) for name, weight in WEIGHTS.items()
        ],
        epoch_size=num_steps * BATCH_SIZE,
        shuffle=True,
        batch_size=BATCH_SIZE,
    )
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, num_workers=num_workers)
    return lambda: (batch["tokens"].to(torch.int64) for batch in loader)


if __name__ == "__main__":
    main()
