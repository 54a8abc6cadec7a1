"""Downloads of one node -> when each is there: a latency, then an even share of the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Link"]

_INSTANT_SECONDS = 1e-6
"""What comes sooner is there: a run of three years leaves float64 so many."""


@dataclass(slots=True)
class _Download:
    begins: float
    """When its first byte comes."""
    left: float
    """Bytes that are still to come."""


class Link:
    """The way from storage to a node, in simulated seconds.

    Args:
        bytes_per_second: shared evenly by the downloads whose bytes are coming.
        latency_seconds: from the start of a download to its first byte.
    """

    def __init__(self, bytes_per_second: float, latency_seconds: float) -> None:
        self._rate, self._latency = bytes_per_second, latency_seconds
        self._active: dict[int, _Download] = {}
        self._now = 0.0

    @property
    def active(self) -> tuple[int, ...]:
        """The downloads that go on, in the order of their starts."""
        return tuple(self._active)

    def __contains__(self, shard: int) -> bool:
        return shard in self._active

    def start(self, shard: int, num_bytes: int, now: float) -> None:
        """Ask for an object; `now` is not before the end of what was simulated."""
        self._move(now)
        self._active[shard] = _Download(now + self._latency, num_bytes)

    def next_done(self) -> float:
        """When the next download will be there if none is started; infinity without one."""
        now, left = self._now, {shard: [d.begins, d.left] for shard, d in self._active.items()}
        while left:
            coming = [each for each in left.values() if each[0] <= now]
            begins = min((each[0] for each in left.values() if each[0] > now), default=math.inf)
            if coming:
                seconds = min(each[1] for each in coming) * len(coming) / self._rate
                if now + seconds <= begins:
                    return now + seconds
                for each in coming:
                    each[1] -= (begins - now) * self._rate / len(coming)
            now = begins
        return math.inf

    def done(self, now: float) -> list[int]:
        """Go to a time that is not after `next_done`; the downloads that are there by then."""
        self._move(now)
        there = [
            shard
            for shard, each in self._active.items()
            if each.begins <= now and each.left <= _INSTANT_SECONDS * self._rate
        ]
        for shard in there:
            del self._active[shard]
        return there

    def _move(self, now: float) -> None:
        """Bring the bytes that come until then; nothing ends in between."""
        while self._now < now:
            coming = [each for each in self._active.values() if each.begins <= self._now]
            begins = (each.begins for each in self._active.values() if each.begins > self._now)
            until = min(now, min(begins, default=math.inf))
            for each in coming:
                each.left -= (until - self._now) * self._rate / len(coming)
            self._now = until
