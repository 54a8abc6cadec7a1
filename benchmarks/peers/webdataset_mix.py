"""webdataset: tar shards a domain, shuffled by shards and a buffer, mixed by RandomMix."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds

from peers import ROWS_PER_SHARD, Job, Stream, open_rows

PACKAGE, LACKS = "webdataset", "no state; a domain needs a shard for each worker of each rank"
BUFFER = 1000


def write(source: Path, folder: Path) -> None:
    """Tars of one member a row."""
    for name, rows in open_rows(source).items():
        (folder / name).mkdir()
        (folder / name / "dtype").write_text(rows.dtype.name)
        size = max(1, min(ROWS_PER_SHARD, len(rows) // 8))
        with wds.ShardWriter(str(folder / name / "%06d.tar"), maxcount=size, verbose=0) as out:
            for number, row in enumerate(rows):
                out.write({"__key__": f"{number:09}", "bin": row.tobytes()})


class Mix(Stream):
    """Its stages in the order of its documentation; the loader batches inside the workers."""

    def __init__(self, job: Job) -> None:
        parts = []
        for name in job.domains:
            dtype = np.dtype((job.folder / name / "dtype").read_text())
            part = wds.WebDataset(
                sorted(map(str, (job.folder / name).glob("*.tar"))),
                shardshuffle=100,
                nodesplitter=wds.split_by_node,
                seed=job.seed,
            )
            buffer = job.options.get("buffer", BUFFER)
            part = part.shuffle(buffer, rng=random.Random(job.seed)) if buffer else part
            parts.append(part.map(partial(_decoded, dtype)).repeat())
        mixed = wds.RandomMix(parts, list(job.weights.values()))
        stacked = wds.batched(job.batch_size, collation_fn=partial(_stacked, job.native))
        batches = wds.DataPipeline(mixed, stacked)
        self.batches = wds.WebLoader(batches, batch_size=None, num_workers=job.num_workers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def _decoded(dtype: np.dtype[Any], sample: dict[str, bytes]) -> Any:
    return np.frombuffer(sample["bin"], dtype)


def _stacked(native: bool, rows: list[Any]) -> torch.Tensor:
    block = np.stack(rows)
    return torch.from_numpy(block if native else block.astype(np.int64))


open_stream = Mix
