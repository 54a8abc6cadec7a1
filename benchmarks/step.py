"""Where does the time of a Loader step go? B = 32, S = 2,048 uint16, four domains, no workers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from harness import Line, in_turns, least, parser, report
from random_corpus import open_floor, open_written, write_corpus
from torch.utils.data import DataLoader, Dataset

from mixstream import Loader, MixBatchSampler, MixSampler, RowDataset
from mixstream.arrays import Addresses

SEQ_LEN, BATCH_SIZE = 2048, 32
WEIGHTS = {"web": 0.5, "code": 0.25, "books": 0.15, "wiki": 0.1}
FLOOR = "bare memmap take"


class Nothing(Dataset[int]):
    """What costs a DataLoader nothing to fetch."""

    def __getitems__(self, addresses: Addresses) -> list[int]:
        return [len(addresses)]


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    num_steps, rounds = (64, 2) if settings.quick else (1000, 25)
    with tempfile.TemporaryDirectory() as folder:
        calls = parts(Path(folder) / "corpus", num_steps)
        best = least(in_turns(calls, rounds=rounds), num_steps)
    floor_seconds = best.pop(FLOOR)
    with report("step", settings) as lines:
        for name, seconds in best.items():
            lines.add(
                Line(
                    name=name,
                    seconds=seconds,
                    floor_seconds=floor_seconds,
                    floor=FLOOR,
                    note=f"{seconds / best['whole Loader step']:.2f} of a step",
                )
            )


def parts(folder: Path, num_steps: int) -> dict[str, Callable[[], object]]:
    """The floor, the parts of a step, and the whole step."""
    domain_rows = {name: round(2 * BATCH_SIZE * num_steps * w) for name, w in WEIGHTS.items()}
    write_corpus(folder, domain_rows, seq_len=SEQ_LEN)
    corpus, floor = open_written(folder), open_floor(folder, SEQ_LEN)
    order = np.random.default_rng(0).permutation(len(floor))
    places = list(order[: num_steps * BATCH_SIZE].reshape(num_steps, BATCH_SIZE))
    batches = iter(MixBatchSampler(MixSampler(corpus.layout, WEIGHTS), BATCH_SIZE))
    addresses = list(islice(batches, num_steps))
    blocks = [corpus.gather(each) for each in addresses[:8]]
    dataset = RowDataset(corpus)
    with_labels = RowDataset(corpus, labels=True)
    empty: DataLoader[int] = DataLoader(
        Nothing(), batch_sampler=cycle(addresses), collate_fn=lambda fetched: fetched
    )
    return {
        FLOOR: lambda: [floor.take(each, 0)[0, 0] for each in places],
        "addresses, drawn ahead": steps(batches, num_steps),
        "Corpus.gather": lambda: [corpus.gather(each)[0, 0] for each in addresses],
        "a block to int64": lambda: [
            block.astype(np.int64)[0, 0] for block in islice(cycle(blocks), num_steps)
        ],
        "RowDataset.batch (gather, int64, tensors)": lambda: run(map(dataset.batch, addresses)),
        "RowDataset.batch with labels": lambda: run(map(with_labels.batch, addresses)),
        "torch DataLoader around nothing": steps(iter(empty), num_steps),
        "whole Loader step": steps(iter(Loader(corpus, WEIGHTS, batch_size=32)), num_steps),
    }


def steps(iterator: Iterator[object], num_steps: int) -> Callable[[], object]:
    return lambda: run(islice(iterator, num_steps))


def run(items: Iterable[object]) -> None:
    for _ in items:
        pass


if __name__ == "__main__":
    main()
