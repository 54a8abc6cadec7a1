"""A Loader's place in its run, step by step -> its coming shards fetched before they are needed.

About ten times a second the Loader looks up from its batches. Then, if a quarter of what was
planned is used up, or something was brought, or the weights changed, a plan is made anew. A plan
waits until a hundred times the cost of the last has passed (twenty, after a change of the weights),
so that all of them stay below 1 % of a core.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.arrays import Addresses
from mixstream.corpus.corpus import Corpus
from mixstream.corpus.index import DomainShards
from mixstream.corpus.machine import memory_bytes
from mixstream.corpus.mapped import MappedShards
from mixstream.corpus.prefetch import Need, Prefetcher, is_in_memory
from mixstream.loader.batch_sampler import MixBatchSampler
from mixstream.loader.coming import ComingShards, nodes_of_rank

__all__ = ["Ahead"]

_REST, _REST_AFTER_CHANGE = 100, 20
"""Times the cost of a plan that pass before the next."""
_READING_SECONDS = 60.0
"""How often the cache is told what is being read, where it may evict."""
_PASSED_SECONDS = 1e8
"""When the cache is told that a shard is needed whose rows are all drawn: after all others."""
_NUM_SAMPLES = 8
"""Shards of a local corpus, one place in each, by which it is taken to be in memory or not."""
_SAMPLED_SECONDS = 60.0


class Ahead:
    """Fetches what a rank will need; a corpus that lies here, raw and in memory, is left alone.

    Shards are brought into the cache by threads of this process, where its workers find them. All
    ranks of a machine that share canonical nodes plan the same shards; whoever is first fetches.
    Raw shards that lie here are read ahead into memory, unless a sample of them is there at the
    start of an iteration.

    Args:
        corpus: that is read.
        batches: what the rank draws.
        max_shards: that are looked at ahead of their first row; 0 for none. No more are fetched
            than half of the cache's budget holds, or a quarter of the memory holds of local ones.
    """

    def __init__(self, corpus: Corpus, batches: MixBatchSampler, max_shards: int) -> None:
        if max_shards < 0:
            raise ValueError(
                f"shards_ahead is {max_shards}; give at least 0, which fetches no shard before a "
                f"batch needs it."
            )
        self._corpus, self._batches, self.max_shards = corpus, batches, max_shards
        self._prefetcher: Prefetcher | None = None
        self._end: weakref.finalize[..., Ahead] | None = None
        self._owner = os.getpid()
        self._planned_at = self._told_reading_at = -math.inf
        self._plan_seconds = 0.0
        budget = corpus.pool.shards.store.max_cache_bytes
        self._may_evict = budget is not None
        self._max_bytes = memory_bytes() / 4 if budget is None else budget / 2
        self.num_left_out = 0
        """Shards that the last plan left out for want of room in the cache."""
        self.begin()

    def __getstate__(self) -> dict[str, Any]:
        """All but the threads and what they were told: a copy makes its own plan."""
        return self.__dict__ | {"_prefetcher": None, "_end": None, "_coming": None}

    def begin(self) -> None:
        """An iteration begins, or the place in the run is another: everything is planned anew."""
        self._coming: ComingShards | None = None
        self._is_asleep: bool | None = None if self.max_shards > 0 else True
        """Whether nothing is fetched in this iteration; None before that is known."""
        self._plan_step = 0.0
        """The step from which on another plan is worth its cost."""
        self._has_changed = True

    def weights_changed(self) -> None:
        """What is planned is to be ranked anew."""
        self._has_changed = True

    def pause(self) -> None:
        """End the threads before a fork, if they do so within a second; a plan starts new ones."""
        if self._prefetcher is not None and self._owner == os.getpid():
            self._prefetcher.close(timeout_seconds=1.0)
        self._give_up()

    def look(self, step: int, rows_per_second: float) -> None:
        """Does what is due before a step.

        Args:
            step: that is delivered next.
            rows_per_second: of the run, all ranks together; 0 where it is not known yet.
        """
        if self._owner != os.getpid():  # a fork, in which the threads never were
            self._give_up()
        if self._is_asleep is None:
            self._is_asleep = not _profits(self._corpus.pool.shards)
        if self._is_asleep:
            return
        if self._prefetcher is not None and self._coming is not None:
            finished = self._prefetcher.take_finished()
            self._coming.finish(finished)
            self._plan_step = self._plan_step if not finished else 0.0
        rest = _REST_AFTER_CHANGE if self._has_changed else _REST
        is_due = self._has_changed or step >= self._plan_step
        if is_due and time.monotonic() - self._planned_at >= rest * self._plan_seconds:
            self._plan(step, rows_per_second)

    @property
    def is_working(self) -> bool:
        """Whether anything is fetched ahead."""
        return self._prefetcher is not None

    def pending(self) -> list[Need]:
        """Shards that are planned and that nobody brings yet, soonest needed first."""
        here = self._prefetcher if self._owner == os.getpid() else None
        return [] if here is None else here.pending

    def lacking(self, addresses: Addresses, since: float) -> list[tuple[float, int, int]]:
        """The shards of a batch's rows that were not near at a time, latest first.

        Args:
            addresses: of the batch.
            since: by `time.perf_counter`.

        Returns:
            (when it was brought, domain, shard) of each; inf where nobody fetched it ahead.
        """
        found, fetched = [], self._prefetcher
        for domain in np.unique(addresses["domain"]).tolist():
            ends = np.cumsum(self._corpus.layout[self._corpus.domains[domain]])
            rows = addresses["row"][addresses["domain"] == domain]
            for shard in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
                brought_at = math.inf if fetched is None else fetched.brought_at(domain, shard)
                if brought_at > since:
                    found.append((brought_at, domain, shard))
        return sorted(found, reverse=True)

    def _plan(self, step: int, rows_per_second: float) -> None:
        started, now = time.thread_time(), time.monotonic()
        batches, counts, row = self._batches, self._batches.counts(step), self._batches.row(step)
        if self._coming is None or not self._coming.holds(counts):
            nodes = nodes_of_rank(
                row,
                batches.batch_size,
                batches.rank,
                batches.world_size,
                batches.sampler.settings.num_canonical_nodes,
            )
            self._coming = ComingShards(batches.sampler, self._corpus.layout, nodes, counts)
        shards = self._corpus.pool.shards
        outlook = self._coming.outlook(
            counts,
            row,
            max_shards=self.max_shards,
            max_bytes=self._max_bytes,
            raw_bytes=lambda domain, shard: int(shards.domains[domain].index.raw_bytes[shard]),
        )
        prefetcher = self._running()
        told = rows_per_second if self._may_evict else None
        prefetcher.plan(outlook.needs, rows_per_second=told)
        if self._may_evict:
            self._tell_cache(outlook.passed, step, now)
        self.num_left_out = outlook.num_left_out
        num_rows = batches.batch_size * batches.world_size
        self._plan_step = step + max(outlook.next_row / num_rows, 1.0)
        self._has_changed, self._planned_at = False, now
        self._plan_seconds = time.thread_time() - started

    def _tell_cache(self, passed: list[tuple[int, int]], step: int, now: float) -> None:
        """What has been read goes first, what is being read last."""
        assert self._prefetcher is not None, "it has a plan"
        assert self._coming is not None, "it made one"
        when = dict.fromkeys(passed, time.time() + _PASSED_SECONDS)
        if now - self._told_reading_at > _READING_SECONDS:
            self._told_reading_at = now
            reading = self._coming.reading(self._batches.counts(step))
            when.update(dict.fromkeys(reading, time.time()))
        self._prefetcher.expect(when)

    def _running(self) -> Prefetcher:
        if self._prefetcher is None:
            shards = self._corpus.pool.shards
            self._prefetcher = Prefetcher(
                shards, max_ahead=self.max_shards, num_threads=shards.store.max_downloads
            )
            self._end = weakref.finalize(self, _end, self._prefetcher, os.getpid())
        return self._prefetcher

    def _give_up(self) -> None:
        """The next plan makes new threads, in this process."""
        if self._end is not None:
            self._end.detach()
        self._prefetcher, self._end, self._owner = None, None, os.getpid()


def _profits(shards: MappedShards) -> bool:
    """Whether anything of a corpus may have to be fetched, decompressed, or read from a disk."""
    told_at, verdict = _verdicts.get(shards, (-math.inf, False))
    if time.monotonic() - told_at > _SAMPLED_SECONDS:
        verdict = not all(map(_lies_here, shards.domains)) or not _sample_is_in_memory(shards)
        _verdicts[shards] = (time.monotonic(), verdict)
    return verdict


_verdicts: weakref.WeakKeyDictionary[MappedShards, tuple[float, bool]] = weakref.WeakKeyDictionary()


def _lies_here(domain: DomainShards) -> bool:
    """Whether all shards of a domain are raw files of a local folder."""
    return isinstance(domain.index.folder, Path) and not domain.index.zip_bytes.any()


def _sample_is_in_memory(shards: MappedShards) -> bool:
    """Whether some raw local shards are, evenly spread over the corpus."""
    ends = np.cumsum([len(domain.index.num_rows) for domain in shards.domains])
    for place in np.linspace(0, ends[-1] - 1, _NUM_SAMPLES).astype(np.int64).tolist():
        domain = int(np.searchsorted(ends, place, side="right"))
        shard = place - int(ends[domain]) + len(shards.domains[domain].index.num_rows)
        try:
            if not is_in_memory(shards.near(domain, shard), 1):
                return False
        except FileNotFoundError:
            continue  # whoever reads it gets the error
    return True


def _end(prefetcher: Prefetcher, owner: int) -> None:
    """The Loader is gone; in a fork its threads never were."""
    if os.getpid() == owner:
        prefetcher.stop()
