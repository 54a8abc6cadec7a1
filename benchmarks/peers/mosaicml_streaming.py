"""MosaicML Streaming: one Stream a domain with its proportion, MDS of fixed-length arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import streaming
import torch
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

from peers import ROWS_PER_SHARD, Job, Stream, open_rows

PACKAGE, LACKS = "mosaicml-streaming", "proportions are fixed for an epoch, whose size it must know"


def write(source: Path, folder: Path) -> None:
    """MDS shards by its own writer."""
    for name, rows in open_rows(source).items():
        columns = {"tokens": f"ndarray:{rows.dtype.name}:{rows.shape[1]}"}
        limit = ROWS_PER_SHARD * (rows[0].nbytes + 4) + 1024
        with MDSWriter(out=str(folder / name), columns=columns, size_limit=limit) as out:
            for row in rows:
                out.write({"tokens": np.asarray(row)})


class Streaming(Stream):
    """StreamingDataset in its own StreamingDataLoader."""

    def __init__(self, job: Job) -> None:
        dataset = StreamingDataset(
            streams=[
                streaming.Stream(local=str(job.folder / name), proportion=weight)
                for name, weight in job.weights.items()
            ],
            epoch_size=job.num_rows,
            shuffle=True,
            shuffle_seed=job.seed,
            batch_size=job.batch_size,
            num_canonical_nodes=1,
            **job.options,
        )
        self.loader = StreamingDataLoader(
            dataset, batch_size=job.batch_size, num_workers=job.num_workers
        )
        self.dtype = None if job.native else torch.int64

    def __iter__(self) -> Iterator[Any]:
        return (batch["tokens"].to(self.dtype) for batch in self.loader)

    def state_at(self, step: int) -> Any:
        """Its state is the number of rows that were seen."""
        self.loader.num_samples_yielded = step * self.loader.batch_size
        return self.loader.state_dict()


open_stream = Streaming
