"""LitData: one StreamingDataset of tokens a domain, combined by weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset, TokensLoader
from litdata.streaming.writer import BinaryWriter

from peers import ROWS_PER_SHARD, Job, Stream, as_signed, open_rows

PACKAGE, LACKS = "litdata", "ends with the first domain that ends; weights are fixed"


def write(source: Path, folder: Path) -> None:
    """Chunks of tokens, by the writer under `optimize` (which starts a process a domain)."""
    for name, rows in open_rows(source).items():
        (folder / name).mkdir()
        limit = ROWS_PER_SHARD * rows.shape[1]
        writer = BinaryWriter(
            str(folder / name), chunk_size=limit, item_loader=TokensLoader(rows.shape[1])
        )
        for number, row in enumerate(rows):
            writer[number] = torch.tensor(as_signed(row))
        writer.done()
        writer.merge()


class LitData(Stream):
    """StreamingDataLoader over a CombinedStreamingDataset, as its README says for weights."""

    def __init__(self, job: Job) -> None:
        datasets = [
            StreamingDataset(
                str(job.folder / name),
                item_loader=TokensLoader(job.seq_len),
                shuffle=True,
                drop_last=True,
                seed=job.seed,
                **job.options,
            )
            for name in job.domains
        ]
        mixed = CombinedStreamingDataset(
            datasets, job.seed, list(job.weights.values()), iterate_over_all=False
        )
        self.loader = StreamingDataLoader(
            mixed, batch_size=job.batch_size, num_workers=job.num_workers, drop_last=True
        )
        self.dtype = None if job.native else torch.int64

    def __iter__(self) -> Iterator[Any]:
        return (batch.to(self.dtype) for batch in self.loader)


open_stream = LitData
