"""What a loop waited for -> `loader.stats`, and the words of a warning that says what to raise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["LoaderStats", "ShardNeed", "ShardWait", "Starvation"]


class ShardWait(NamedTuple):
    """A step that waited for shards."""

    seconds: float
    step: int
    shards: tuple[tuple[str, int], ...]
    """(domain, shard), at most four, those that came last first; none where that is not known."""


class ShardNeed(NamedTuple):
    """A shard that is not near yet."""

    domain: str
    shard: int
    rows: float
    """Rows of the run, of all ranks, until it is expected to be needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderStats:
    """What a loop had to wait for, in this process, since its Loader was made."""

    seconds: float
    """Since the first batch was asked for."""
    rows_per_second: float
    """Of this rank, over the last ten to twenty seconds."""
    wait_seconds: float
    """The loop waited for batches: for workers; without, for shards and for this process, whose
    work is timed at some ten steps a second and estimated for the others."""
    shard_wait_seconds: float
    """Of these, until shards were there and open. With workers, of waits longer than 10 ms for
    rows of shards that were not near when the loop asked for them, the time until they were."""
    longest_waits: tuple[ShardWait, ...]
    """For shards, longest first."""
    cache_hits: int
    """Shards that this process, of all its Loaders of the corpus, asked for and found in the cache.
    What workers find or fetch is not counted; this process fetches ahead for them."""
    shards_fetched: int
    """Shards that it downloaded or decompressed into the cache."""
    bytes_fetched: int
    """Of them, as they are stored."""
    num_pending: int
    """Shards of the present plan that nobody fetches yet."""
    next_shortages: tuple[ShardNeed, ...]
    """The first of them."""

    @property
    def other_wait_seconds(self) -> float:
        """The wait for anything else: for drawing, gathering and transforming, or for workers."""
        return max(self.wait_seconds - self.shard_wait_seconds, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Starvation:
    """A stretch of time in which a loop waited for more than it should."""

    seconds: float
    wait_seconds: float
    longest: ShardWait | None
    """The longest wait for shards; None where it waited for workers."""
    shards_ahead: int
    num_pending: int
    num_left_out: int
    cache_bytes: int | None
    max_downloads: int
    bytes_per_second: float

    def __str__(self) -> str:
        """What was waited for, and what to raise."""
        share = f"training waited {self.wait_seconds:.1f} of the last {self.seconds:.0f} s"
        if self.longest is None:
            return (
                f"{share} for its workers to make batches. Raise num_workers or "
                f"prefetch_factor, or take a quicker transform."
            )
        named = [f"shard {shard} of domain {domain!r}" for domain, shard in self.longest.shards]
        longest = f"{self.longest.seconds:.1f} s at step {self.longest.step}"
        return (
            f"{share} for shards, the longest {longest} for "
            f"{', '.join(named) or 'unknown ones'}. {self._mend()}"
        )

    def _mend(self) -> str:
        if self.shards_ahead == 0:
            return "Nothing is fetched ahead: give Loader shards_ahead, 64 say."
        if self.num_left_out > 0 and self.cache_bytes is not None:
            return (
                f"Half of the cache's {self.cache_bytes} bytes has no room for "
                f"{self.num_left_out} of the shards that come next: raise cache_bytes, or lower "
                f"shuffle_block_rows."
            )
        rate = f"{self.bytes_per_second / 1e6:.1f} MB/s came"
        if self.num_pending > 0:
            return (
                f"{self.num_pending} more wait for {self.max_downloads} downloads, and {rate}: "
                f"raise max_downloads of open_corpus if the network has more, else its bandwidth "
                f"is what lacks."
            )
        return (
            f"All that is looked at ahead is fetched, and {rate}: raise shards_ahead "
            f"({self.shards_ahead} now)."
        )
