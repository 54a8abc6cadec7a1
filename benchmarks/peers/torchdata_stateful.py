"""torchdata's StatefulDataLoader over the hand-written dataset and its order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

from peers import Job, Stream
from peers.hand_written import MappedRows, _as_it_is, order_of

PACKAGE, LACKS = "torchdata", "mixes nothing itself: the order is the hand-written one"


def write(source: Path, folder: Path) -> None:
    """Reads the marked rows as they are."""


class Stateful(Stream):
    """The loader that keeps its place."""

    def __init__(self, job: Job) -> None:
        self.loader: StatefulDataLoader[Any] = StatefulDataLoader(
            MappedRows(job),
            batch_sampler=list(order_of(job)),
            num_workers=job.num_workers,
            collate_fn=_as_it_is,
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


open_stream = Stateful
