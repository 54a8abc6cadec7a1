"""What a node's cache folder holds in simulated time, by the rules of `corpus/cache_folder.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

__all__ = ["SimulatedCache", "num_evicted"]

_SPARE_SHARE = 0.05
"""As in cache_folder.py: an eviction frees so much of the cache more than it must."""


class SimulatedCache:
    """Shards by number, within a budget of bytes.

    Args:
        max_bytes: the budget; None for no limit.
        needed_in: (shard, now, seconds since it was opened) -> seconds until it will be needed.
    """

    def __init__(
        self, max_bytes: int | None, needed_in: Callable[[int, float, float], float]
    ) -> None:
        self.max_bytes, self._needed_in = max_bytes, needed_in
        self._opened: dict[int, tuple[float, int]] = {}
        self._bytes: dict[int, int] = {}
        self._promised: dict[int, int] = {}
        self._clock = itertools.count()
        self._used_bytes = self.high_water_bytes = 0

    def __contains__(self, shard: int) -> bool:
        return shard in self._bytes

    def promise(self, shard: int, num_bytes: int, now: float) -> tuple[bool, list[int]]:
        """Set bytes aside for a shard: whether there was room, and the shards that went for it."""
        evicted: list[int] = []
        if self.max_bytes is not None:
            excess = self._used_bytes + num_bytes - self.max_bytes
            if excess > 0:
                evicted = self._evict(excess, now)
            if self._used_bytes + num_bytes > self.max_bytes:
                return False, evicted  # what is being fetched takes the rest
        self._promised[shard] = num_bytes
        self._grow(num_bytes)
        return True, evicted

    def settle(self, shard: int, num_bytes: int, now: float) -> None:
        """A promised shard is there."""
        self._grow(num_bytes - self._promised.pop(shard))
        self._bytes[shard] = num_bytes
        self.open(shard, now)

    def open(self, shard: int, now: float) -> None:
        """A shard is read: note when."""
        self._opened[shard] = (now, next(self._clock))

    def _evict(self, excess: int, now: float) -> list[int]:
        def need(shard: int) -> tuple[float, int]:
            opened, order = self._opened[shard]
            return self._needed_in(shard, now, now - opened), -order

        last_first = sorted(self._bytes, key=need, reverse=True)
        sizes = [self._bytes[shard] for shard in last_first]
        gone = last_first[: num_evicted(sizes, excess, int(_SPARE_SHARE * self._used_bytes))]
        for shard in gone:
            self._used_bytes -= self._bytes.pop(shard)
            del self._opened[shard]
        return gone

    def _grow(self, num_bytes: int) -> None:
        self._used_bytes += num_bytes
        self.high_water_bytes = max(self.high_water_bytes, self._used_bytes)


def num_evicted(sizes: Sequence[int], num_bytes: int, spare_bytes: int) -> int:
    """How many files go, of those needed last first, as `cache_folder._evict` removes them."""
    for number, size in enumerate(sizes):
        if num_bytes <= 0 and num_bytes + spare_bytes < size:
            return number
        num_bytes -= size
    return len(sizes)
