"""Settings of the order: checked once, part of every state; and the layout that they are for."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from mixstream.arrays import Counts
from mixstream.errors import StateError, WeightsError

__all__ = [
    "OnExhausted",
    "OrderSettings",
    "Sampling",
    "checked_layout",
    "epoch_caps",
    "loader_stratum",
]

Sampling: TypeAlias = Literal["independent", "stratified", "micro_batch"]
OnExhausted: TypeAlias = Literal["redistribute", "stop", "raise"]


def loader_stratum(sampling: Sampling, *, batch_size: int, global_batch: int) -> int | None:
    """Rows of a stratum where batches are made; None where rows are drawn one by one."""
    return {"stratified": global_batch, "micro_batch": batch_size}.get(sampling)


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderSettings:
    """What the order depends on beside the layout and the weights."""

    seed: int
    """In [0, 2^64)."""
    num_canonical_nodes: int
    """C, at least 1."""
    sampling: Sampling
    """Whether each row is drawn, each stratum to exact shares, or each stratum from one domain."""
    stratum: int | None
    """Rows of a stratum; None where sampling is independent."""
    shuffle: bool
    """False draws every domain in shard order."""
    shuffle_block_rows: int
    """Rows of a domain that are shuffled together."""
    max_epochs: Mapping[str, int] | None
    """Epochs after which a domain is exhausted, by name."""
    on_exhausted: OnExhausted
    """What happens when a row of an exhausted domain is asked for."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; give an integer from 0 to 2**64 - 1.")
        for name in ("num_canonical_nodes", "shuffle_block_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling is {self.sampling!r}; give one of {get_args(Sampling)}.")
        if self.on_exhausted not in get_args(OnExhausted):
            raise ValueError(
                f"on_exhausted is {self.on_exhausted!r}; give one of {get_args(OnExhausted)}."
            )
        if (self.sampling != "independent") != (self.stratum is not None):
            raise ValueError(
                f"sampling={self.sampling!r} with stratum={self.stratum}; stratified and "
                f"micro_batch sampling take the rows of a stratum (usually of a global batch, and "
                f"of one rank's batch), independent takes none."
            )
        if self.stratum is not None and not 1 <= self.stratum < 2**31:
            raise ValueError(f"stratum is {self.stratum}; give 1 to 2**31 - 1 rows.")

    def check_state(self, state: Mapping[str, object]) -> None:
        """Refuses the settings of a state that are not these, naming both values."""
        for name, value in asdict(self).items():
            if state.get(name) != value:
                raise StateError(
                    f"the state was saved with {name}={state.get(name)!r}, this run has "
                    f"{name}={value!r}; give the same {name} to go on."
                )


def checked_layout(layout: Mapping[str, Counts]) -> tuple[Counts, str]:
    """Rows of each domain (K,) int64, and 16 hex digits of names and rows of every shard.

    Raises:
        WeightsError: no domain, no rows, or an entry that is no one-dimensional array of counts.
    """
    digest = hashlib.blake2b(digest_size=8)
    num_rows = np.zeros(len(layout), dtype=np.int64)
    for index, (name, rows) in enumerate(layout.items()):
        shard_rows = np.asarray(rows)
        if shard_rows.ndim != 1 or (shard_rows.size and shard_rows.dtype.kind not in "iu"):
            raise WeightsError(
                f"layout of domain {name!r} has shape {shard_rows.shape} and dtype "
                f"{shard_rows.dtype}; give the rows of each shard as one row of integers."
            )
        if (shard_rows < 0).any():
            raise WeightsError(
                f"layout of domain {name!r} holds a shard of {shard_rows.min()} rows; "
                f"give counts of at least 0."
            )
        num_rows[index] = shard_rows.sum()
        digest.update(f"{name}\0{shard_rows.size}\0".encode(errors="surrogatepass"))
        digest.update(shard_rows.astype("<i8").tobytes())
    if num_rows.sum() == 0:
        raise WeightsError(
            f"the layout holds {len(layout)} domains and no rows; there is nothing to draw."
        )
    return num_rows, digest.hexdigest()


def epoch_caps(
    max_epochs: int | Mapping[str, int] | None, domains: Sequence[str]
) -> dict[str, int] | None:
    """Epochs after which a domain is exhausted, by name.

    Raises:
        WeightsError: an unknown domain, or a cap below 1.
    """
    if max_epochs is None:
        return None
    caps = max_epochs if isinstance(max_epochs, Mapping) else dict.fromkeys(domains, max_epochs)
    known = set(domains)
    for name, cap in caps.items():
        if name not in known:
            raise WeightsError(
                f"unknown domain {name!r} in max_epochs; the layout holds "
                f"{', '.join(domains[:10])}."
            )
        if cap < 1:
            raise WeightsError(
                f"max_epochs of domain {name!r} is {cap}; give at least 1 (weight 0 leaves a "
                f"domain out)."
            )
    return {name: operator.index(cap) for name, cap in caps.items()}
