"""A job -> a stream of batches, by us and by every peer, each as its own documentation recommends.

An adapter is a module of this folder with

- `write(source, folder)`: marked rows (`marked_rows.py`) -> the peer's own format, once a corpus;
- `open_stream(job)`: a `Stream` over them; `shuffled`, `num_workers` and ranks are the job's;
- `PACKAGE`: the distribution whose version goes on the page; None for what torch alone does;
- `LACKS`: what it cannot do, for the page; measured results say the rest.

Each runs in a process of its own, in the virtual environment of its line in `versions.json`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOORS = ("memcpy", "bare_gather")
PEERS = (
    "hand_written",
    "torchdata_nodes",
    "torchdata_stateful",
    "mosaicml_streaming",
    "litdata_streaming",
    "grain_map",
    "webdataset_mix",
    "hf_datasets",
    "megatron_core",
    "energon",
)
OURS = "ours"
ROWS_PER_SHARD = 256
"""In every format that has shards, so that questions about shards are about the same ones."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to stream."""

    source: Path
    """The marked rows as .npy files, one a domain."""
    folder: Path
    """The same rows in the peer's own format."""
    weights: dict[str, float]
    """By domain, in sorted order; they sum to 1."""
    num_steps: int
    """Batches that the stream must be good for; most go on for ever."""
    batch_size: int = 32
    seq_len: int = 2048
    native: bool = False
    """Give the ids as they are stored where the peer can, in place of int64."""
    num_workers: int = 0
    rank: int = 0
    world_size: int = 1
    """More than 1: torch.distributed is initialised (gloo) when the stream is opened."""
    seed: int = 17
    options: dict[str, Any] = field(default_factory=dict)
    """Settings that one question varies for one peer."""

    @property
    def domains(self) -> list[str]:
        """K names."""
        return list(self.weights)

    @property
    def num_rows(self) -> int:
        """Rows that all ranks together need."""
        return self.num_steps * self.batch_size * self.world_size


class Stream(ABC):
    """A running stream, whose state is that of its `loader` unless the adapter says otherwise.

    Besides, where a peer has such a thing: `set_weights(weights)`, which returns the batches that
    are in flight; and `state_at(step)`, the state after so many steps without going there.
    """

    loader: Any = None
    """The peer's own, if that keeps its place."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """(B, S) arrays or tensors, from the loaded state on."""

    def state_dict(self) -> Any:
        """What to go on from; picklable.

        Raises:
            NotImplementedError: the peer has no state.
        """
        if self.loader is None:
            raise NotImplementedError(f"{type(self).__name__} has no state to save")
        return self.loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Goes on from a state; before the first batch is asked for."""
        self.loader.load_state_dict(state)


def as_signed(rows: NDArray[Any]) -> NDArray[Any]:
    """The same bytes as int32, where they are uint32: for formats that know no unsigned ones."""
    return rows.view(np.int32) if rows.dtype == np.uint32 else rows


def open_rows(source: Path) -> dict[str, NDArray[Any]]:
    """The marked rows of each domain, mapped, (rows, S)."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(source.glob("*.npy"))}
