"""What a plan is asked: the machines, the storage and the length of a run. Checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mixstream.errors import RecipeError
from mixstream.mixing.settings import Sampling, loader_stratum

__all__ = ["PlanSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """A run on N nodes over remote storage."""

    num_nodes: int
    """N; each has a cache folder of its own."""
    ranks_per_node: int
    """Data-parallel ranks of a node, which share its cache."""
    batch_size: int
    """B, rows of a rank's batch."""
    num_steps: int
    """How long the run is."""
    bytes_per_second: float
    """From storage to a node, shared evenly by its downloads."""
    step_seconds: float
    """Of a step that waits for no data."""
    num_canonical_nodes: int | None = None
    """C, a multiple of N; None for N."""
    latency_seconds: float = 0.05
    """From asking for an object to its first byte."""
    max_downloads: int = 8
    """Of a node at the same time."""
    cache_bytes: int | None = None
    """Of a node; None for no limit."""
    max_ahead: int = 64
    """Shards that are fetched before their first row is drawn, at most; 0 for no prefetch."""
    memory_bytes: int | None = None
    """Of a node. A cache without a budget is filled by a quarter of it ahead; None for no limit."""
    seed: int = 0
    """Of the order."""
    sampling: Sampling = "independent"
    """See MixSampler."""
    shuffle: bool = True
    """See MixSampler."""
    shuffle_block_rows: int = 1 << 18
    """See MixSampler."""
    max_epochs: int | Mapping[str, int] | None = None
    """See MixSampler; the weight of an exhausted domain goes to the others."""
    drawn_rows: int = 10**8
    """Rows of the run that the sampler draws; those after them are planned by expected counts."""
    simulated_nodes: int | None = None
    """The first so many nodes are simulated; None for all of them, up to 8."""

    def __post_init__(self) -> None:
        for name in ("num_nodes", "ranks_per_node", "batch_size", "num_steps", "max_downloads"):
            _check(name, getattr(self, name), 1)
        for name in ("max_ahead", "drawn_rows"):
            _check(name, getattr(self, name), 0)
        for name in ("memory_bytes", "cache_bytes", "simulated_nodes", "num_canonical_nodes"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), 1)
        for name in ("bytes_per_second", "step_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name} is {getattr(self, name)}; give a number above 0.")
        if not 0 <= self.latency_seconds < math.inf:
            raise RecipeError(
                f"latency_seconds is {self.latency_seconds}; give a number of at least 0."
            )
        if self.canonical % self.num_nodes or self.rows_per_step % self.canonical:
            raise RecipeError(
                f"num_canonical_nodes is {self.canonical} with {self.num_nodes} nodes and "
                f"{self.rows_per_step} rows a step; nodes keep to their own shards where it is a "
                f"multiple of the nodes and divides the rows of a step. Give {self.num_nodes}."
            )

    @property
    def canonical(self) -> int:
        """C."""
        return self.num_canonical_nodes or self.num_nodes

    @property
    def rows_per_step(self) -> int:
        """B x W, rows of a global batch."""
        return self.batch_size * self.ranks_per_node * self.num_nodes

    @property
    def num_rows(self) -> int:
        """Rows of the run."""
        return self.rows_per_step * self.num_steps

    @property
    def max_ahead_bytes(self) -> float | None:
        """Of the shards that are fetched ahead, at most; None for no limit."""
        if self.cache_bytes is not None:
            return self.cache_bytes / 2
        return None if self.memory_bytes is None else self.memory_bytes / 4

    @property
    def simulated(self) -> int:
        """Nodes that are simulated."""
        return min(self.num_nodes, self.simulated_nodes or 8)

    @property
    def stratum(self) -> int | None:
        """Rows of a stratum, as Loader sets it."""
        return loader_stratum(
            self.sampling, batch_size=self.batch_size, global_batch=self.rows_per_step
        )


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise RecipeError(f"{name} is {value}; give at least {least}.")
