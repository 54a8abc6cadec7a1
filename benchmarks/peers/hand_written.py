"""What a good engineer writes in an afternoon: a torch map dataset over memmaps.

The order of the run lies in memory: domains drawn at once by numpy, and a permutation of each
domain; `__getitems__` makes the batch in one go, so that torch's collation costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from peers import Job, Stream, open_rows

PACKAGE, LACKS = None, "the order of the run lies in memory; a change of weights builds it anew"


def write(source: Path, folder: Path) -> None:
    """Reads the marked rows as they are."""


class MappedRows(Dataset[Any]):
    """Batches by pairs (domain, row)."""

    def __init__(self, job: Job) -> None:
        self.maps, self.native = list(open_rows(job.source).values()), job.native

    def __getitems__(self, pairs: NDArray[np.int64]) -> torch.Tensor:
        block = np.stack([self.maps[domain][row] for domain, row in pairs.tolist()])
        return torch.from_numpy(block if self.native else block.astype(np.int64))


def order_of(job: Job) -> NDArray[np.int64]:
    """(steps, B, 2), the domain and row of each place of this rank."""
    rng = np.random.default_rng(job.seed)
    domain = rng.choice(len(job.weights), size=job.num_rows, p=list(job.weights.values()))
    row = np.empty_like(domain)
    for index, rows in enumerate(open_rows(job.source).values()):
        places = np.flatnonzero(domain == index)
        epochs = -(-len(places) // len(rows))
        orders = [rng.permutation(len(rows)) for _ in range(epochs)]
        row[places] = np.concatenate([*orders, places[:0]])[: len(places)]
    pairs = np.stack([domain, row], axis=1).reshape(-1, job.world_size, job.batch_size, 2)
    return pairs[:, job.rank]


class HandWritten(Stream):
    """A stock DataLoader; its state is a number of steps."""

    def __init__(self, job: Job) -> None:
        self.dataset, self.order, self.job, self.step = MappedRows(job), order_of(job), job, 0

    def __iter__(self) -> Iterator[Any]:
        loader = DataLoader(
            self.dataset,
            batch_sampler=list(self.order[self.step :]),
            num_workers=self.job.num_workers,
            collate_fn=_as_it_is,
        )
        for batch in loader:
            self.step += 1
            yield batch

    def state_dict(self) -> Any:
        """Its place."""
        return self.step

    def state_at(self, step: int) -> Any:
        """It counts."""
        return step

    def load_state_dict(self, state: Any) -> None:
        """Goes there."""
        self.step = state


def _as_it_is(batch: torch.Tensor) -> torch.Tensor:
    return batch


open_stream = HandWritten
