"""What each domain draws next, and its rate -> its coming shards near, soonest needed first.

Weights change only the interleaving, never the order inside a domain. So which shards come next is
known for each domain, and a change of the weights only ranks them anew: nothing that was fetched,
or is being fetched, is thrown away.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.corpus.mapped import MappedShards
from mixstream.errors import ShardError

__all__ = ["Coming", "Need", "PrefetchStats", "Prefetcher", "coming_shards", "expected_needs"]

_LOG = logging.getLogger("mixstream")

_TOUCH_BYTES = 1 << 20


class Coming(NamedTuple):
    """The next shards of one domain, in the order of their first draws."""

    shards: Counts
    """(n,) int64, all different."""
    draws: Counts
    """(n,) int64, draws of the domain before the first one from each."""


class Need(NamedTuple):
    """A shard, and how many rows of the run are expected to be drawn before it is needed."""

    rows: float
    domain: int
    shard: int


def coming_shards(rows: Counts, shard_rows: Counts) -> Coming:
    """The shards of the next draws of a domain.

    Args:
        rows: (n,) rows of the domain in the order in which they will be drawn.
        shard_rows: rows of each of its shards, as `corpus.layout` has them.

    For draws of rows [5, 0, 6] from shards of 4 rows it is shards [1, 0] with draws [0, 1].
    """
    shard = np.searchsorted(np.cumsum(shard_rows), rows, side="right")
    found, first = np.unique(shard, return_index=True)
    order = np.argsort(first)
    return Coming(found[order].astype(np.int64), first[order].astype(np.int64))


def expected_needs(coming: Sequence[Coming], rates: Vector) -> list[Need]:
    """The coming shards of all domains, soonest needed first.

    Args:
        coming: for each domain its next shards.
        rates: (K,) draws of each domain by this node, a row of the run; with one canonical node
            its weight. What a domain of rate 0 would read is not needed.
    """
    needs = []
    for domain, (shards, draws) in enumerate(coming):
        rate = float(rates[domain])
        if rate > 0:
            pairs = zip(shards.tolist(), draws.tolist(), strict=True)
            needs += [Need(draw / rate, domain, shard) for shard, draw in pairs]
    return sorted(needs)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefetchStats:
    """What a prefetcher has done, and what it has to do."""

    brought: int
    """Shards that it brought near."""
    failed: int
    """Shards that it could not bring; whoever reads them gets the error."""
    pending: int
    """Shards of the plan that are not near yet."""
    next_shortage: Need | None
    """The first of them."""


class Prefetcher:
    """Threads that bring coming shards near; nothing waits for them, and they raise nothing.

    A remote or compressed shard is brought into the cache. A raw one that lies here is read ahead
    into memory by the system, so that a cold page does not stall the training thread.

    Args:
        shards: of a corpus: `corpus.pool.shards`.
        max_ahead: shards of a plan that are looked at; it bounds what the cache must hold.
        num_threads: shards that are brought at the same time.
    """

    def __init__(self, shards: MappedShards, *, max_ahead: int = 64, num_threads: int = 4) -> None:
        if min(max_ahead, num_threads) < 1:
            raise ValueError(
                f"max_ahead is {max_ahead} and num_threads is {num_threads}; give at least 1."
            )
        self._shards, self._max_ahead = shards, max_ahead
        self._changed = threading.Condition()
        self._pending: list[Need] = []
        self._seen: set[tuple[int, int]] = set()
        """Shards that are being brought, have been, or could not be: not to be tried again."""
        self._brought = self._failed = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"mixstream-prefetch-{number}")
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self, needs: Iterable[Need], *, rows_per_second: float | None = None) -> None:
        """Replace what is to be brought; what is being brought goes on.

        Args:
            needs: soonest first, as `expected_needs` gives them.
            rows_per_second: of the run. With it the cache learns when each shard is needed, and
                evicts first those that are needed last.
        """
        nearest = list(needs)[: self._max_ahead]
        with self._changed:
            self._seen &= {(need.domain, need.shard) for need in nearest}
            self._pending = [n for n in nearest if (n.domain, n.shard) not in self._seen]
            self._changed.notify_all()
        if rows_per_second:
            now = time.time()
            for need in nearest:
                self._shards.expect(need.domain, need.shard, now + need.rows / rows_per_second)

    @property
    def stats(self) -> PrefetchStats:
        """Counts so far."""
        with self._changed:
            return PrefetchStats(
                brought=self._brought,
                failed=self._failed,
                pending=len(self._pending),
                next_shortage=self._pending[0] if self._pending else None,
            )

    def close(self) -> None:
        """End when the shards that are being brought are there; no plan is taken after this."""
        with self._changed:
            self._closed, self._pending = True, []
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                if self._closed:
                    return
                need = self._pending.pop(0)
                self._seen.add((need.domain, need.shard))
            try:
                path = self._shards.near(need.domain, need.shard)
                read_ahead(path)
            except (ShardError, FileNotFoundError) as error:
                with self._changed:
                    self._failed += 1
                _LOG.warning("cannot fetch ahead: %s", error)
            else:
                with self._changed:
                    self._brought += 1


def read_ahead(path: Path) -> int:
    """Have the system read a file into memory; returns its bytes.

    Raises:
        FileNotFoundError: it has gone, as a cached one may at any time.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(number).st_size
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(number, 0, size, os.POSIX_FADV_WILLNEED)
        else:  # macOS
            for start in range(0, size, _TOUCH_BYTES):
                os.pread(number, _TOUCH_BYTES, start)
        return size
    finally:
        os.close(number)
