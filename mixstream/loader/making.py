"""Addresses of a Loader's steps -> batches, made in this process or in workers behind a ring."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data._utils.pin_memory import pin_memory as pinned

from mixstream.arrays import Addresses
from mixstream.loader.batch_sampler import MixBatchSampler
from mixstream.loader.dataset import Batch, RowDataset
from mixstream.loader.ring import Ring, Transformed

__all__ = ["BatchMaker"]

_GATHERED_BYTES = 1 << 20
"""At most so much of rows is gathered at once, but for a batch that is larger."""


class BatchMaker:
    """Makes batches of addresses, transforms them, and pins them.

    Args:
        dataset: the rows.
        transform: batch -> what the loop gets; called where the batch is made.
        num_workers: processes; 0 makes every batch in this one, when it is asked for.
        prefetch_factor: batches in flight for each of them; None means 2.
        keeps_workers: whether they outlive the iteration.
        context: "fork", "spawn" or "forkserver", or a context; None takes Python's default.
        pin_memory: batches in page-locked memory, where there is a CUDA device.
        seed: of a transform's random numbers, which depend on it and on the step alone.
    """

    def __init__(
        self,
        dataset: RowDataset,
        transform: Callable[[Batch], Any] | None,
        *,
        num_workers: int,
        prefetch_factor: int | None,
        keeps_workers: bool,
        context: Any,
        pin_memory: bool,
        seed: tuple[int, ...],
    ) -> None:
        self._dataset, self._transform = dataset, transform
        self._num_workers, self._prefetch_factor = num_workers, prefetch_factor or 2
        self._context, self._seed = context, None if transform is None else seed
        self._pins = pin_memory and torch.cuda.is_available()
        self._keeps_workers = keeps_workers
        self._kept: Ring | None = None
        self._ring: weakref.ref[Ring] | None = None  # lives as long as an iteration over it
        self._pool = dataset.corpus.pool

    def __getstate__(self) -> dict[str, Any]:
        """All but the workers, of which a copy starts its own."""
        return self.__dict__ | {"_kept": None, "_ring": None}

    @property
    def waits(self) -> tuple[int, float]:
        """How often, and for how many seconds, the present ring or the pool of rows was waited for.

        With workers it is the wait for batches, without for shards; a new ring starts at 0.
        """
        if self._num_workers == 0:
            return self._pool.waits
        ring = None if self._ring is None else self._ring()
        return (0, 0.0) if ring is None else ring.waits

    def batches(self, addresses: MixBatchSampler, *, first_step: int) -> Iterator[Any]:
        """The batches that are drawn next; those in flight of an older iteration are given up.

        Args:
            addresses: of each batch.
            first_step: of the first of them.
        """
        if self._num_workers == 0:
            batches = self._made_here(addresses)
        else:
            batches = self._running_ring().batches(addresses, first_step=first_step)
        return map(pinned, batches) if self._pins else batches

    def _made_here(self, addresses: MixBatchSampler) -> Iterator[Any]:
        """Batches made in this process when they are asked for.

        Gathering costs a fixed time and little for each row, so the rows of several coming steps
        are gathered at once where their shards are mapped, and again after a change of the weights.
        """
        dataset, transform, size = self._dataset, self._transform, addresses.batch_size
        pool = dataset.corpus.pool
        max_rows = _GATHERED_BYTES // (dataset.corpus.seq_len * dataset.corpus.dtype.itemsize)
        sampler = addresses.sampler
        version, begin, end, rows = -1, 0, 0, None
        # the steps whose rows were gathered at once, or would have had to wait for a shard
        for own in addresses:
            step = addresses.step
            if version != sampler.version or not begin <= step < end:
                coming = addresses.computed(max_rows)
                version, begin, end = sampler.version, step, step + len(coming) // size
                rows = pool.gather_mapped(coming)
            if rows is None:
                batch = dataset.batch(own)
            else:
                first = (step - begin) * size
                batch = dataset.batch_of(rows[first : first + size], own)
            yield batch if transform is None else transform(batch)

    def _running_ring(self) -> Ring:
        ring = None if self._ring is None else self._ring()
        if ring is None or ring.closed:
            make: Callable[[Addresses], Any] = self._dataset.batch
            if self._transform is not None:
                make = Transformed(make, self._transform)
            ring = Ring(
                make,
                num_workers=self._num_workers,
                prefetch_factor=self._prefetch_factor,
                context=self._context,
                seed=self._seed,
            )
            self._ring = weakref.ref(ring)
            self._kept = ring if self._keeps_workers else None
        return ring
