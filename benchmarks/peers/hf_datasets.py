"""HF datasets: arrow files as iterable datasets with a shuffle buffer, interleaved by weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset, interleave_datasets, load_from_disk
from datasets.distributed import split_dataset_by_node
from torchdata.stateful_dataloader import StatefulDataLoader

from peers import ROWS_PER_SHARD, Job, Stream, open_rows

PACKAGE, LACKS = "datasets", "probabilities are fixed when it is made"
BUFFER = 1000


def write(source: Path, folder: Path) -> None:
    """Arrow files of fixed-length lists."""
    for name, rows in open_rows(source).items():
        tokens = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), rows.shape[1])
        dataset = Dataset(pa.table({"tokens": tokens}))
        dataset.save_to_disk(str(folder / name), num_shards=num_shards(len(rows)))


def num_shards(num_rows: int) -> int:
    """As in the other formats, but never fewer than 8: workers and ranks share them out."""
    return max(min(8, num_rows), num_rows // ROWS_PER_SHARD)


class Interleaved(Stream):
    """In the loader that its documentation names for states; ids as torch tensors."""

    def __init__(self, job: Job) -> None:
        parts = []
        for name in job.domains:
            part = load_from_disk(str(job.folder / name))
            part = part.to_iterable_dataset(num_shards=num_shards(len(part)))
            buffer = job.options.get("buffer", BUFFER)
            parts.append(part.shuffle(seed=job.seed, buffer_size=buffer).repeat(None))
        mixed = interleave_datasets(parts, list(job.weights.values()), seed=job.seed)
        mixed = split_dataset_by_node(mixed, job.rank, job.world_size)
        self.loader: Any = StatefulDataLoader(
            mixed.with_format("torch"), batch_size=job.batch_size, num_workers=job.num_workers
        )
        self.dtype = None if job.native else torch.int64

    def __iter__(self) -> Iterator[Any]:
        return (batch["tokens"].to(self.dtype) for batch in self.loader)


open_stream = Interleaved
