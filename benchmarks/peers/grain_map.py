"""grain: MapDataset.mix over shuffled, repeated memmaps; worker processes by mp_prefetch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from peers import Job, Stream

PACKAGE, LACKS = "grain", "weights become whole numbers over the smallest one, fixed for the run"


def write(source: Path, folder: Path) -> None:
    """Reads the marked rows as they are: any object with a length and rows is its source."""


class Rows:
    """A random-access source; the map is opened where it is read."""

    def __init__(self, path: Path, native: bool) -> None:
        self.path, self.native = path, native
        self._rows: Any = None

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, row: int) -> Any:
        found = np.asarray(self._open()[row])
        return found if self.native else found.astype(np.int64)

    def _open(self) -> Any:
        if self._rows is None:
            self._rows = np.load(self.path, mmap_mode="r")
        return self._rows

    def __getstate__(self) -> Any:
        return {"path": self.path, "native": self.native, "_rows": None}


class Grain(Stream):
    """No reading threads without workers: the rows lie in memory (its own advice)."""

    def __init__(self, job: Job) -> None:
        sources = [Rows(job.source / f"{name}.npy", job.native) for name in job.domains]
        parts = [grain.MapDataset.source(rows).shuffle(seed=job.seed).repeat() for rows in sources]
        mixed = grain.MapDataset.mix(parts, list(job.weights.values()))
        rank = mixed.slice(slice(job.rank, None, job.world_size))
        dataset = rank.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        dataset = dataset.batch(job.batch_size, drop_remainder=True)
        if job.num_workers:
            options = grain.MultiprocessingOptions(num_workers=job.num_workers)
            dataset = dataset.mp_prefetch(options)
        self.iterator, self.batch_size = iter(dataset), job.batch_size

    def __iter__(self) -> Iterator[Any]:
        return self.iterator

    def state_dict(self) -> Any:
        """Its place."""
        return self.iterator.get_state()

    def state_at(self, step: int) -> Any:
        """It counts, where there are no workers."""
        return {"next_index": step * self.batch_size}

    def load_state_dict(self, state: Any) -> None:
        """Goes there."""
        self.iterator.set_state(state)


open_stream = Grain
