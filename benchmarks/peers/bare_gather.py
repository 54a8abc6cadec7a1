"""The floor: random rows taken from one map of all of them, by addresses that are known before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peers import Job, Stream, open_rows

PACKAGE, LACKS = None, "a floor: rows in one uniform order, no weights, no workers"


def write(source: Path, folder: Path) -> None:
    """All rows, domain after domain, in one bare file."""
    with (folder / "rows.bin").open("wb") as file:
        for rows in open_rows(source).values():
            file.write(np.ascontiguousarray(rows).tobytes())


class BareGather(Stream):
    """`take` over a permutation."""

    def __init__(self, job: Job) -> None:
        dtype = next(iter(open_rows(job.source).values())).dtype
        rows = np.memmap(job.folder / "rows.bin", dtype, "r")
        self.rows, self.job = np.asarray(rows).reshape(-1, job.seq_len), job

    def __iter__(self) -> Iterator[Any]:
        size, rng = self.job.batch_size, np.random.default_rng(self.job.seed)
        order = rng.permutation(len(self.rows))
        batches = list(order[: len(order) // size * size].reshape(-1, size))
        while True:
            for batch in batches:
                block = self.rows.take(batch, 0)
                yield block if self.job.native else block.astype(np.int64)


open_stream = BareGather
