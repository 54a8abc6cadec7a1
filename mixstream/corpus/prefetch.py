"""What each domain draws next, and its rate -> its coming shards near, soonest needed first.

Weights change only the interleaving, never the order inside a domain. So which shards come next is
known for each domain, and a change of the weights only ranks them anew: nothing that was fetched,
or is being fetched, is thrown away.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.corpus.mapped import MappedShards

__all__ = [
    "Coming",
    "Need",
    "PrefetchStats",
    "Prefetcher",
    "coming_shards",
    "expected_needs",
    "first_draws",
    "is_in_memory",
    "read_ahead",
]

_LOG = logging.getLogger("mixstream")

_ADVISED_BYTES = 1 << 17
"""Of a longer piece Linux reads no more than the device's read-ahead, of 64 MiB an eighth here."""
_LOOKS = 4
"""Places of a file that are looked at to tell whether it is in memory; each takes some 10 us."""
_MAX_TIMES = 1 << 16
"""Shards of which it is remembered when they were brought; then the older half is forgotten."""


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
    return first_draws(np.searchsorted(np.cumsum(shard_rows), rows, side="right"))


def first_draws(shard: Counts) -> Coming:
    """The shards of draws, given the shard of each: for [1, 0, 1] it is [1, 0] and [0, 1]."""
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

    Threads start when there is something for them, so that one which is made before a fork is safe
    until its first plan.

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
        self._shards, self._max_ahead, self._num_threads = shards, max_ahead, num_threads
        self._changed = threading.Condition()
        self._pending: list[Need] = []
        self._seen: set[tuple[int, int]] = set()
        """Shards that are being brought, have been, or could not be: not to be tried again."""
        self._bringing: set[tuple[int, int]] = set()
        self._when: dict[tuple[int, int], float] = {}
        """When shards that are near are needed, for the cache to know; seconds since 1970."""
        self._due: dict[tuple[int, int], float] = {}
        """The same of those that are not near yet."""
        self._times: dict[tuple[int, int], float] = {}
        """When they were brought, or given up; `time.perf_counter`."""
        self._finished: deque[tuple[int, int]] = deque(maxlen=_MAX_TIMES)
        self._brought = self._failed = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

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
            if rows_per_second:
                now = time.time()
                when = {(d, s): now + rows / rows_per_second for rows, d, s in nearest}
                missing = self._bringing | {(need.domain, need.shard) for need in self._pending}
                self._due = {shard: when[shard] for shard in missing & when.keys()}
                self._when |= {shard: when[shard] for shard in when.keys() - missing}
            self._wake()

    def expect(self, when: Mapping[tuple[int, int], float]) -> None:
        """Have the cache know when (domain, shard) are needed, in seconds since 1970."""
        with self._changed:
            self._when.update(when)
            self._wake()

    def take_finished(self) -> list[tuple[int, int]]:
        """The (domain, shard) that were brought, or given up, since this was asked last."""
        with self._changed:
            finished = list(self._finished)
            self._finished.clear()
        return finished

    def brought_at(self, domain: int, shard: int) -> float:
        """When a shard was brought or given up last, by `time.perf_counter`; inf for never."""
        return self._times.get((domain, shard), math.inf)

    @property
    def pending(self) -> list[Need]:
        """Shards of the plan that nobody brings yet, soonest needed first."""
        with self._changed:
            return list(self._pending)

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

    def stop(self) -> None:
        """End without waiting for what is being brought; no plan is taken after this."""
        with self._changed:
            self._closed, self._pending = True, []
            self._changed.notify_all()

    def close(self, timeout_seconds: float | None = None) -> None:
        """End when the shards that are being brought are there, or the time is out."""
        self.stop()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))

    def _wake(self) -> None:
        """Set threads to work, as many as there is work for."""
        wanted = min(len(self._pending) or len(self._when), self._num_threads)
        while not self._closed and len(self._threads) < wanted:
            name = f"mixstream-prefetch-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, daemon=True, name=name))
            self._threads[-1].start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._when or self._closed)
                if self._closed:
                    return
                if self._when:
                    shard, when = self._when.popitem()
                    need = None
                else:
                    need = self._pending.pop(0)
                    shard = (need.domain, need.shard)
                    self._seen.add(shard)
                    self._bringing.add(shard)
            if need is None:
                self._shards.expect(*shard, when)
            else:
                self._bring(*shard)

    def _may_go(self, domain: int, shard: int) -> AbstractContextManager[None]:
        """What is evicted as soon as it is here is no failure: its reader fetches it again."""
        return suppress(FileNotFoundError) if self._shards.evicts(domain, shard) else nullcontext()

    def _bring(self, domain: int, shard: int) -> None:
        is_brought = True
        try:
            path = self._shards.near(domain, shard)
            with self._may_go(domain, shard):
                if not is_in_memory(path):
                    read_ahead(path)
        except OSError as error:  # a ShardError, or a file that has gone
            is_brought = False
            _LOG.warning("cannot fetch ahead: %s", error)
        with self._changed:
            self._bringing.discard((domain, shard))
            if (domain, shard) in self._due:
                self._when[domain, shard] = self._due.pop((domain, shard))
            self._brought += is_brought
            self._failed += not is_brought
            self._finished.append((domain, shard))
            self._times.pop((domain, shard), None)
            self._times[domain, shard] = time.perf_counter()
            if len(self._times) > _MAX_TIMES:
                for key in list(self._times)[: _MAX_TIMES // 2]:
                    del self._times[key]


def is_in_memory(path: Path, num_looks: int = _LOOKS) -> bool:
    """Whether a file seems to be in the system's memory; False where that cannot be told.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not hasattr(os, "RWF_NOWAIT"):  # macOS
        return False
    number = os.open(path, os.O_RDONLY)
    try:
        size, byte = os.fstat(number).st_size, bytearray(1)
        for look in range(num_looks):
            os.preadv(number, [byte], look * size // num_looks, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    finally:
        os.close(number)
    return True


def read_ahead(path: Path) -> int:
    """Have the system read a file into memory; returns its bytes.

    Raises:
        FileNotFoundError: it has gone, as a cached one may at any time.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(number).st_size
        for start in range(0, size, _ADVISED_BYTES):
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(number, start, _ADVISED_BYTES, os.POSIX_FADV_WILLNEED)
            else:  # macOS
                os.pread(number, _ADVISED_BYTES, start)
        return size
    finally:
        os.close(number)
