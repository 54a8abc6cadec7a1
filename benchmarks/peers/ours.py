"""mixstream: Loader for int64; batch sampler and `Corpus.gather` for ids as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixstream import Loader, open_corpus
from mixstream.corpus.manifest import index_json, write_json
from mixstream.corpus.shard import write_shard
from peers import ROWS_PER_SHARD, Job, Stream, open_rows

PACKAGE, LACKS = "mixstream", "with workers the batch crosses a process boundary"


def write(source: Path, folder: Path) -> None:
    """MDS shards, as `mixstream convert` writes them."""
    for name, rows in open_rows(source).items():
        (folder / name).mkdir()
        entries = [
            write_shard(
                folder / name / f"shard.{start:08}.mds", rows[start : start + ROWS_PER_SHARD]
            )
            for start in range(0, len(rows), ROWS_PER_SHARD)
        ]
        write_json(folder / name / "index.json", index_json(entries))


class Ours(Stream):
    """A Loader."""

    def __init__(self, job: Job) -> None:
        corpus = open_corpus({name: job.folder / name for name in job.domains})
        self.loader = Loader(
            corpus,
            job.weights,
            batch_size=job.batch_size,
            seed=job.seed,
            rank=job.rank,
            world_size=job.world_size,
            num_workers=job.num_workers,
            native=job.native,
            **job.options,
        )

    def __iter__(self) -> Iterator[Any]:
        return (batch["input_ids"] for batch in self.loader)

    def set_weights(self, weights: Mapping[str, float]) -> int:
        """Batches that are in flight, and will be delivered as drawn."""
        return self.loader.set_weights(weights).num_batches_in_flight

    def state_at(self, step: int) -> Any:
        """As if each domain had been drawn by its very weight."""
        state: Any = self.loader.state_dict()
        del state["id"]  # of the place that it was saved at
        row = step * self.loader.batches.batch_size * self.loader.batches.world_size
        counts = (self.loader.weights * row).astype(np.int64)
        counts[0] += row - counts.sum()
        state["batches"]["sampler"] |= {"row": row, "counts": [counts.tolist()]}
        state["batches"]["step"] = step
        return state


open_stream = Ours
