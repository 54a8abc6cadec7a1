"""torchdata.nodes: a weighted sampler over the indices of each domain, then batches, then rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DistributedSampler
from torchdata.nodes import (
    Batcher,
    Loader,
    Mapper,
    MultiNodeWeightedSampler,
    ParallelMapper,
    SamplerWrapper,
    StopCriteria,
)

from peers import Job, Stream, open_rows
from peers.hand_written import MappedRows

PACKAGE, LACKS = "torchdata", "weights are fixed when the node is made"


def write(source: Path, folder: Path) -> None:
    """Reads the marked rows as they are."""


class Nodes(Stream):
    """Rows are read by whole batches, which is the quickest order of the nodes."""

    def __init__(self, job: Job) -> None:
        sources = {}
        for domain, (name, rows) in enumerate(open_rows(job.source).items()):
            sampler = DistributedSampler(
                range(len(rows)), job.world_size, job.rank, seed=job.seed, drop_last=True
            )
            sources[name] = Mapper(SamplerWrapper(sampler), partial(_pair, domain))
        mixed = MultiNodeWeightedSampler(
            sources,
            job.weights,
            StopCriteria.CYCLE_FOREVER,
            rank=job.rank,
            world_size=job.world_size,
            seed=job.seed,
        )
        fetch = partial(_fetch, MappedRows(job))
        batches = Batcher(mixed, job.batch_size)
        rows_node = (
            ParallelMapper(batches, fetch, job.num_workers, method="process")
            if job.num_workers
            else Mapper(batches, fetch)
        )
        self.loader: Loader[Any] = Loader(rows_node)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def _pair(domain: int, row: int) -> tuple[int, int]:
    return domain, row


def _fetch(dataset: MappedRows, pairs: list[tuple[int, int]]) -> Any:
    return dataset.__getitems__(np.array(pairs))


open_stream = Nodes
