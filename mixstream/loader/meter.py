"""How long a loop waits in each step, and for which shards -> its stats, and a warning in time."""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from mixstream.corpus.corpus import Corpus
from mixstream.corpus.gather import RowPool
from mixstream.loader.ahead import Ahead
from mixstream.loader.batch_sampler import MixBatchSampler
from mixstream.loader.making import BatchMaker
from mixstream.loader.stats import LoaderStats, ShardNeed, ShardWait, Starvation

__all__ = ["Meter"]

_LOG = logging.getLogger("mixstream")

_LOOK_SECONDS, _MAX_STEPS_UNSEEN = 0.1, 256
_SLOW_SECONDS = 0.01
"""A step that waits less is not looked at."""
_NUM_LONGEST, _NUM_SHARDS, _NUM_SHORTAGES = 8, 4, 8
_WINDOW_SECONDS = 10.0
_SHARD_SHARE, _WORKER_SHARE = 0.1, 0.5
"""Of a window's time: a loop that waits longer for shards, or for workers, is told so."""
_WARNING_SECONDS = 300.0


class _Place(NamedTuple):
    """The clock and the counts at some moment."""

    time: float
    step: int
    wait_seconds: float
    shard_seconds: float
    bytes_fetched: int


class Meter:
    """Measures the waits of a loop, and looks after what it waits for.

    Between two looks, of which there are about ten a second, a step costs two comparisons: who has
    to wait reads the clock himself.

    Args:
        corpus: that is read.
        batches: what the rank draws.
        ahead: what is fetched before it is needed.
        workers: what makes batches in other processes; None where this one does.
    """

    def __init__(
        self, corpus: Corpus, batches: MixBatchSampler, ahead: Ahead, workers: BatchMaker | None
    ) -> None:
        self._corpus, self._batches, self._ahead = corpus, batches, ahead
        self._workers = workers
        self._waited: BatchMaker | RowPool = corpus.pool if workers is None else workers
        self._begun: float | None = None
        self._wait_seconds = self._shard_seconds = 0.0
        self._longest: list[ShardWait] = []
        self._warned_at = -math.inf
        self.begin(0)

    def __reduce__(self) -> tuple[object, ...]:
        """A copy has measured nothing."""
        return Meter, (self._corpus, self._batches, self._ahead, self._workers)

    def begin(self, step: int) -> None:
        """An iteration begins, perhaps after a pause and at another place."""
        if self._workers is not None:  # they may be forked now
            self._ahead.pause()
        self._ahead.begin()
        self._places: list[_Place] = []
        """At the start of this window of time, and of the last."""
        self._longest_of_window: ShardWait | None = None
        self._pending_then = 0
        """Shards that nobody fetched yet at the longest wait."""
        self._begun_step = self._looked_step = step
        self._looked_at = 0.0
        self._next_look = 0.0
        """The step before which to look next."""

    def next_of(self, batches: Iterator[Any], step: int) -> Any:
        """The next batch, which is that of a step; None where there is none."""
        before = self._waited.waits  # others may read the same corpus, and wait, between our steps
        batch = self._looked(batches, step) if step >= self._next_look else next(batches, None)
        if self._waited.waits != before:
            self._note(step, before)
        return batch

    def soon(self) -> None:
        """Look before the next step: the weights have changed."""
        self._ahead.weights_changed()
        self._next_look = 0.0

    def _looked(self, batches: Iterator[Any], step: int) -> Any:
        """A look, and the next batch, by whose time that of others is estimated."""
        num_steps = max(step - self._looked_step, 1)
        self._look(step)
        waited, started = self._waited.waits[1], time.perf_counter()
        batch = next(batches, None)
        if self._workers is None:
            seconds = time.perf_counter() - started - (self._waited.waits[1] - waited)
            self._wait_seconds += num_steps * seconds
        if step == self._begun_step:  # the first batch had the link alone
            self._ahead.look(step, 0.0)
        return batch

    def _look(self, step: int) -> None:
        """Fetches ahead what is needed from a step on, and warns if the loop starves."""
        now = time.perf_counter()
        fetched_bytes = self._corpus.pool.fetches.fetched_bytes
        place = _Place(now, step, self._wait_seconds, self._shard_seconds, fetched_bytes)
        if self._begun is None:
            self._begun = now
        rows_per_second = 0.0
        if self._places:
            rows_per_second = self._rows_per_second(step, now) * self._batches.world_size
            if now - self._places[-1].time > _WINDOW_SECONDS:
                self._check(self._places[-1], place)
                self._places = [self._places[-1], place]
                self._longest_of_window = None
        elif step > self._begun_step:  # the wait for the first batch is no starvation
            self._places, self._longest_of_window = [place], None
        if step > self._begun_step:
            self._ahead.look(step, rows_per_second)
        done, now = step - self._looked_step, time.perf_counter()
        likely = int(done * _LOOK_SECONDS / max(now - self._looked_at, 1e-6))
        self._next_look = step + min(max(likely, 1), max(2 * done, 1), _MAX_STEPS_UNSEEN)
        self._looked_step, self._looked_at = step, now

    def stats(self, step: int) -> LoaderStats:
        """So far.

        Args:
            step: that is delivered next.
        """
        now, pending = time.perf_counter(), self._ahead.pending()
        fetches = self._corpus.pool.fetches
        seconds = 0.0 if self._begun is None else now - self._begun
        return LoaderStats(
            seconds=seconds,
            rows_per_second=self._rows_per_second(step, now),
            wait_seconds=min(self._wait_seconds, seconds),  # a part of it is estimated
            shard_wait_seconds=self._shard_seconds,
            longest_waits=tuple(sorted(self._longest, reverse=True)),
            cache_hits=fetches.hits,
            shards_fetched=fetches.fetched,
            bytes_fetched=fetches.fetched_bytes,
            num_pending=len(pending),
            next_shortages=tuple(
                ShardNeed(self._corpus.domains[need.domain], need.shard, need.rows)
                for need in pending[:_NUM_SHORTAGES]
            ),
        )

    def _rows_per_second(self, step: int, now: float) -> float:
        if not self._places or now <= self._places[0].time:
            return 0.0
        rows = (step - self._places[0].step) * self._batches.batch_size
        return rows / (now - self._places[0].time)

    def _note(self, step: int, before: tuple[int, float]) -> None:
        """A step had to wait; finds out for what.

        Args:
            step: that has come.
            before: waits before it.
        """
        now, (num_waits, seconds) = time.perf_counter(), self._waited.waits
        if num_waits > before[0]:  # or else by another ring of workers, which begins at 0
            seconds -= before[1]
        self._wait_seconds += seconds
        shard_seconds = seconds if self._workers is None else 0.0
        lacking = []
        if seconds > _SLOW_SECONDS:
            addresses = self._batches.addresses(step)
            if addresses is not None:
                lacking = self._ahead.lacking(addresses, now - seconds)
            if self._workers is not None and self._ahead.is_working and lacking:
                shard_seconds = min(lacking[0][0] - (now - seconds), seconds)
        self._shard_seconds += shard_seconds
        if shard_seconds > _SLOW_SECONDS:
            names = [(self._corpus.domains[domain], shard) for _, domain, shard in lacking]
            wait = ShardWait(shard_seconds, step, tuple(names[:_NUM_SHARDS]))
            add = heapq.heappush if len(self._longest) < _NUM_LONGEST else heapq.heappushpop
            add(self._longest, wait)
            if self._longest_of_window is None or wait > self._longest_of_window:
                self._longest_of_window = wait
                self._pending_then = len(self._ahead.pending())

    def _check(self, since: _Place, now: _Place) -> None:
        """Warns where a window's waits are too long a part of it."""
        seconds, shard_seconds = now.time - since.time, now.shard_seconds - since.shard_seconds
        others = now.wait_seconds - since.wait_seconds - shard_seconds
        for_shards = shard_seconds > _SHARD_SHARE * seconds
        for_workers = self._workers is not None and others > _WORKER_SHARE * seconds
        if not (for_shards or for_workers) or now.time - self._warned_at < _WARNING_SECONDS:
            return
        self._warned_at, shards = now.time, self._corpus.pool.shards
        starvation = Starvation(
            seconds=seconds,
            wait_seconds=shard_seconds if for_shards else others,
            longest=self._longest_of_window if for_shards else None,
            shards_ahead=self._ahead.max_shards,
            num_pending=self._pending_then,
            num_left_out=self._ahead.num_left_out,
            cache_bytes=shards.store.max_cache_bytes,
            max_downloads=shards.store.max_downloads,
            bytes_per_second=(now.bytes_fetched - since.bytes_fetched) / seconds,
        )
        _LOG.warning("%s", starvation)
