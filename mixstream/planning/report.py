"""What a plan says, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["DomainPlan", "NodePlan", "Plan", "size_text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainPlan:
    """One domain in a planned run."""

    name: str
    rows: float
    """Rows drawn by all nodes; a whole number where all rows were drawn."""
    epochs: float
    """Passes over the domain."""
    shards: int
    """Of the corpus."""
    shared_shards: int
    """Those that lie in the slices of two or more nodes: each of these downloads them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodePlan:
    """One simulated node."""

    node: int
    downloads: int
    """Shards that it fetches."""
    downloaded_bytes: int
    """As they are stored."""
    downloads_again: int
    """Of the downloads, those of a shard that was evicted before its block was read."""
    shards: int
    """Different shards that it fetches."""
    cache_high_water_bytes: int
    """The most that its cache holds, with what is being fetched."""
    working_set_bytes: int
    """The most that the blocks take which are read at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run in simulated time."""

    num_nodes: int
    ranks: int
    num_steps: int
    """That the run takes."""
    asked_steps: int
    """That were asked for: more where every domain is exhausted before."""
    num_rows: int
    num_drawn: int
    """Rows that the sampler drew; the others are expected counts."""
    is_described: bool
    """Whether the corpus does not exist, so that its bytes are estimates."""
    domains: tuple[DomainPlan, ...]
    nodes: tuple[NodePlan, ...]
    """The nodes that were simulated."""
    shards_of_two_nodes: int
    """Different shards that two or more of the simulated nodes fetch."""
    open_seconds: float
    """For the manifest and the indexes."""
    first_batch_seconds: float
    """From the start to the first batch."""
    stall_seconds: float
    """Waits after the first batch, in all."""
    stalled_steps: int
    """Steps that wait, the first one not counted."""
    longest_stall_seconds: float
    total_seconds: float
    """From the start to the end of the last step."""
    cache_bytes: int | None
    """Of a node; None for no limit."""
    bytes_per_second: float
    """From storage to a node."""

    @property
    def shards_downloaded_twice(self) -> int:
        """Downloads that a larger cache, or smaller shards, would spare; 0 is as it should be."""
        return self.shards_of_two_nodes + sum(node.downloads_again for node in self.nodes)

    @property
    def needed_bytes_per_second(self) -> float:
        """What the busiest node downloads, over the seconds in which the run does not wait."""
        busiest = max(node.downloaded_bytes for node in self.nodes)
        return busiest / (self.total_seconds - self.first_batch_seconds - self.stall_seconds)

    @property
    def advice(self) -> tuple[str, ...]:
        """What would mend the plan, a sentence each; nothing where nothing is wrong."""
        found = []
        if self.num_steps < self.asked_steps:
            found.append(
                f"every domain has reached its max_epochs after {self.num_steps:,} of "
                f"{self.asked_steps:,} steps: the run ends there."
            )
        working_set = max(node.working_set_bytes for node in self.nodes)
        is_small = self.cache_bytes is not None and self.cache_bytes < 2 * working_set
        if is_small and (self.stalled_steps or any(node.downloads_again for node in self.nodes)):
            found.append(
                f"the blocks that are read at once take {size_text(working_set)}, the cache "
                f"{size_text(self.cache_bytes or 0)}: shards are downloaded again, or late. Give "
                f"the cache twice the first, or make shuffle_block_rows smaller."
            )
        found += [
            f"{domain.shared_shards} of {domain.shards} shards of domain {domain.name!r} are read "
            f"by several nodes; convert it into at least {self.num_nodes} shards."
            for domain in self.domains
            if domain.shared_shards
        ]
        if self.stalled_steps and self.needed_bytes_per_second > self.bytes_per_second:
            found.append(
                f"a node reads {size_text(self.needed_bytes_per_second)} a second of step time "
                f"and storage gives {size_text(self.bytes_per_second)}: the run waits for storage."
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return {
            **asdict(self),
            "shards_downloaded_twice": self.shards_downloaded_twice,
            "needed_bytes_per_second": self.needed_bytes_per_second,
            "advice": list(self.advice),
        }


def size_text(num_bytes: float) -> str:
    """Bytes for people: 1536 -> "1.54 kB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.0f} PB"
