"""One node in simulated time: its cache, its downloads, and what it waits for."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mixstream.arrays import Counts
from mixstream.planning.cache import SimulatedCache
from mixstream.planning.contents import Contents
from mixstream.planning.link import Link
from mixstream.planning.pace import Forecast, Pace
from mixstream.planning.reader import Reader, Touch
from mixstream.planning.settings import PlanSettings

__all__ = ["NodeCounts", "SimulatedNode"]

_READING_SECONDS, _PASSED_SECONDS = 60.0, 1e8
"""As in `mixstream/loader/ahead.py`: what it tells the cache of shards that are read, and done."""


@dataclass(slots=True)
class NodeCounts:
    """What a node did."""

    downloads: int = 0
    """Shards that it fetched."""
    downloaded_bytes: int = 0
    """Of them, as they are stored."""
    downloads_again: int = 0
    """Of the downloads, those of shards that were evicted before they had been read."""
    shards: set[int] = field(default_factory=set)
    """All that it fetched."""
    max_live_bytes: int = 0
    """Of the shards of all blocks that were read at the same time, at most."""


class SimulatedNode:
    """A node whose ranks read through one cache folder, as one process would.

    A shard that is drawn is mapped, and stays so until it is evicted and the next one is mapped.
    What is missing is fetched as `ShardStore.bring` does. Coming shards are fetched meanwhile, as
    `mixstream.loader.ahead` does: soonest needed first, a bounded number before their first row.
    """

    def __init__(
        self, settings: PlanSettings, contents: Contents, readers: Sequence[Reader], pace: Pace
    ) -> None:
        self._settings, self._contents, self._pace = settings, contents, pace
        self.readers = tuple(readers)
        self.link = Link(settings.bytes_per_second, settings.latency_seconds)
        self.cache = SimulatedCache(settings.cache_bytes, self._needed_in)
        self.counts = NodeCounts()
        self._first_shard: list[int] = contents.first_shard.tolist()
        self._readers_of: defaultdict[int, list[int]] = defaultdict(list)
        for place, reader in enumerate(self.readers):
            self._readers_of[reader.domain].append(place)
        self._mapped: set[int] = set()
        self._gone: set[int] = set()
        self._ahead: dict[Touch, int] = {}
        """First draws of shards that are here or coming for them, and their readers."""
        self._needed_at: dict[int, float] = {}
        """When these shards are needed, as it was expected when they were looked at."""
        self._bringing: set[int] = set()
        """Shards that are fetched ahead at the moment."""
        self._evicted_early: set[int] = set()
        self._heads = np.full(len(self.readers), np.inf)
        """Draws before the next first draw that was not looked at."""
        self._live_bytes = 0
        self._time = 0.0
        self._has_begun = False
        """Whether its first batch is there."""

    def begin(self, now: float) -> None:
        """The corpus is open."""
        self._time = now

    def enter(self, forecast: Forecast) -> None:
        """Another stretch of rows begins."""
        self._forecast = forecast
        for place in range(len(self.readers)):
            self._look_ahead(place)

    def is_mapped(self, shard: int) -> bool:
        """Whether a draw from it asks for nothing."""
        return shard in self._mapped

    @property
    def gone(self) -> frozenset[int]:
        """Shards that are mapped, and evicted."""
        return frozenset(self._gone)

    def places_of(self, shard: int) -> list[int]:
        """The readers of a shard's domain."""
        return self._readers_of[bisect.bisect_right(self._first_shard, shard) - 1]

    def take(self, place: int) -> Touch:
        """The next touch of a reader, which happens now."""
        reader = self.readers[place]
        live = reader.live
        touch = reader.take()
        if reader.live is not live:
            self._live_bytes += self._bytes(reader.live) - self._bytes(live)
            self.counts.max_live_bytes = max(self.counts.max_live_bytes, self._live_bytes)
        if self._ahead.pop(touch, None) is not None:
            self._needed_at.pop(touch.shard, None)
        self._look_ahead(place)
        return touch

    def unmap_gone(self, kept: set[int]) -> list[int]:
        """Let go of maps whose files are evicted, but for those of this batch; which they were."""
        self._gone = {shard for shard in self._gone if shard not in self.cache}
        unmapped = sorted(self._gone - kept)
        self._mapped.difference_update(unmapped)
        self._gone.intersection_update(kept)
        return unmapped

    def advance(self, now: float) -> None:
        """Let downloads go on, and start those ahead, until a time."""
        while self._time < now:
            self._start_ahead()
            self._settle(min(self.link.next_done(), now))

    def read(self, shards: set[int], now: float) -> float:
        """Have the shards of one batch mapped; when that is done. It has advanced to `now`."""
        missing = sorted(shards - self._mapped)
        absent = [shard for shard in missing if shard not in self.cache]
        if self.cache.max_bytes is not None:
            sizes = np.cumsum(self._contents.raw_bytes[absent])
            absent = absent[: int((sizes <= self.cache.max_bytes // 2).sum())]
        if len(absent) > 1:
            self._fetch(absent)
        for shard in missing:
            if shard not in self.cache:
                self._fetch([shard])
            self.cache.open(shard, self._time)
            self._mapped.add(shard)
        self._has_begun = True
        return max(self._time, now)

    def _fetch(self, shards: Sequence[int]) -> None:
        """Fetch what a batch waits for, until the last is there."""
        waiting, wanted = list(shards), set(shards)
        while wanted:
            waiting = [shard for shard in waiting if shard in wanted]
            while waiting and len(wanted) - len(waiting) < self._settings.max_downloads:
                if waiting[0] not in self.link and not self._start(waiting[0]):
                    break
                waiting.pop(0)
            self._start_ahead()
            assert self.link.active, "a shard that the budget holds finds room when nothing comes"
            wanted.difference_update(self._settle(self.link.next_done()))

    def _settle(self, now: float) -> list[int]:
        """Go to a time that is not after the end of the next download; what is there then."""
        there = self.link.done(now)
        self._time = max(now, self._time)
        for shard in there:
            self.cache.settle(shard, int(self._contents.raw_bytes[shard]), now)
        self._bringing.difference_update(there)
        return there

    def _start(self, shard: int) -> bool:
        """Begin a download; False while there is no room for it."""
        made_bytes = int(self._contents.made_bytes[shard])
        has_room, evicted = self.cache.promise(shard, made_bytes, self._time)
        self._gone.update(each for each in evicted if each in self._mapped)
        self._evicted_early.update(each for each in evicted if not self._is_passed(each))
        if not has_room:
            return False
        num_bytes = int(self._contents.stored_bytes[shard])
        self.link.start(shard, num_bytes, self._time)
        self.counts.downloads += 1
        self.counts.downloaded_bytes += num_bytes
        self.counts.downloads_again += shard in self._evicted_early
        self._evicted_early.discard(shard)
        self.counts.shards.add(shard)
        return True

    def _start_ahead(self) -> None:
        """Begin the downloads that the prefetch would begin now."""
        if not self._has_begun:  # the first batch has the link alone
            return
        row = self._pace.row_at(self._time)
        while self._settings.max_ahead and len(self._bringing) < self._settings.max_downloads:
            everyone = np.arange(len(self.readers))
            rows = self._forecast.rows_to(everyone, self._heads, row)
            place = int(np.argmin(rows)) if rows.size else 0
            if not rows.size or math.isinf(rows[place]):
                return
            touch = self.readers[place].head
            assert touch is not None, "its head is known"
            if not self._is_within_limits(touch, float(rows[place]), row):
                return
            if touch.shard not in self.cache and touch.shard not in self.link:
                if not self._start(touch.shard):
                    return
                self._bringing.add(touch.shard)
            self._ahead[touch] = place
            wait = float(rows[place]) / self._pace.rows_per_second
            self._needed_at.setdefault(touch.shard, self._time + wait)
            self.readers[place].pass_head()
            self._look_ahead(place)

    def _is_within_limits(self, touch: Touch, rows: float, row: float) -> bool:
        """Whether so few shards, of so few bytes, are read before it that it may come now."""
        if not self._ahead:
            return True
        ordinals = np.array([each.ordinal for each in self._ahead], np.float64)
        before = self._forecast.rows_to(np.array(list(self._ahead.values())), ordinals, row) <= rows
        shards = np.array([each.shard for each in self._ahead])[before]
        max_bytes = self._settings.max_ahead_bytes
        if len(shards) >= self._settings.max_ahead or max_bytes is None:
            return len(shards) < self._settings.max_ahead
        raw = self._contents.raw_bytes
        return bool(raw[shards].sum() + raw[touch.shard] <= max_bytes)

    def _look_ahead(self, place: int) -> None:
        """Note when the next shard comes that the prefetch has not looked at."""
        if self._settings.max_ahead:
            touch = self.readers[place].head
            self._heads[place] = math.inf if touch is None else touch.ordinal

    def _needed_in(self, shard: int, now: float, age: float) -> float:
        """Seconds after which the cache takes a shard to be needed; the last to be goes first."""
        if self._settings.max_ahead == 0:
            return age
        if shard in self._needed_at:
            return min(abs(self._needed_at[shard] - now), _PASSED_SECONDS)
        return _PASSED_SECONDS if self._is_passed(shard) else min(age, _READING_SECONDS)

    def _is_passed(self, shard: int) -> bool:
        """Whether all rows are drawn for which a shard was fetched."""
        if shard in self._needed_at:
            return False
        row = self._pace.row_at(self._time)
        for place in self.places_of(shard):
            reader = self.readers[place]
            if shard in reader.live and self._forecast.count(place, row) < reader.end:
                return False
        return True

    def _bytes(self, shards: frozenset[int]) -> int:
        numbers: Counts = np.fromiter(shards, np.int64, len(shards))
        return int(self._contents.raw_bytes[numbers].sum())
