"""Row addresses -> one block of rows, from shards that are mapped on first touch."""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import ADDRESS, Addresses, Counts, Rows
from mixstream.corpus.cache import ShardFetches, ShardStore
from mixstream.corpus.failures import is_disk_full
from mixstream.corpus.index import DomainShards
from mixstream.corpus.layout import TokenDtype
from mixstream.corpus.mapped import MappedShards, OnBadShard
from mixstream.corpus.window import Window
from mixstream.errors import ShardError

__all__ = ["RowPool", "default_max_maps", "warn_of_few_maps"]

_LOG = logging.getLogger("mixstream")

MAX_MAPS = 4096
"""Of a process, whose system allows 65,530 on Linux, all libraries' together."""

NOT_MAPPED = np.iinfo(np.int32).min
"""Stands for the domain of a shard that is not mapped; no address can name this domain."""


class RowPool:
    """The rows of all shards of a corpus, any of them by (domain, row).

    A position is the number of a row among all rows of all shards, domain by domain. One
    searchsorted over the shards' first positions finds its shard, and a table over the shards makes
    a place in memory of it. A window is an array over memory itself, so one take of B places
    gathers B rows of any shards.

    The shard of every position is checked to be mapped, and of the domain that was asked for,
    before the window is touched. Maps are kept until there are `max_maps` of them; then the least
    recently used eighth goes. A forked child and an unpickled copy start with none.
    """

    def __init__(
        self,
        domains: Sequence[DomainShards],
        *,
        seq_len: int,
        dtype: TokenDtype,
        store: ShardStore | None = None,
        on_bad_shard: OnBadShard = "raise",
        max_maps: int | None = None,
    ) -> None:
        self._domains = tuple(domains)
        self._shards = MappedShards(
            self._domains, seq_len, store or ShardStore(), on_bad_shard=on_bad_shard
        )
        self._seq_len = seq_len
        self._dtype = dtype
        self._max_maps = max_maps or default_max_maps()
        shards = [len(domain.index.num_rows) for domain in self._domains]
        rows = np.concatenate([domain.index.num_rows for domain in self._domains])
        self._first_shard = np.cumsum([0, *shards], dtype=np.int64)
        self._starts: Counts = np.concatenate(([0], np.cumsum(rows)))
        self._first_row: Counts = self._starts[self._first_shard[:-1]]
        self._num_rows: Counts = self._starts[self._first_shard[1:]] - self._first_row
        self._dtypes = tuple(dict.fromkeys(domain.dtype for domain in self._domains))
        kinds = [self._dtypes.index(domain.dtype) for domain in self._domains]
        self._kind = np.array(kinds, np.int64)
        self._num_waits, self._wait_seconds = 0, 0.0
        self.forget()
        _pools.add(self)

    def forget(self) -> None:
        """Start without maps; for a pool that nobody uses now.

        The tables have one place more at either end, for positions before the first shard and
        after the last: searchsorted gives 0 and n + 1 for those.
        """
        places = len(self._starts) + 1
        self._lock = threading.Lock()
        self._maps: dict[int, NDArray[np.uint8]] = {}
        self._mapped_domain = np.full(places, NOT_MAPPED, np.int32)
        self._stride = np.zeros(places, np.int64)
        self._base = np.zeros(places, np.int64)
        self._last_use = np.zeros(places, np.int64) if places > self._max_maps else None
        self._clock = 0
        self._window = Window(self._seq_len, self._dtypes)
        self._look_through()

    def __reduce__(self) -> tuple[object, ...]:
        return _new_pool, (self._shards, self._seq_len, self._dtype, self._max_maps)

    @property
    def num_maps(self) -> int:
        """Shards that are mapped now."""
        return len(self._maps)

    @property
    def shards(self) -> MappedShards:
        """Where the maps come from; a prefetcher has them near before."""
        return self._shards

    @property
    def waits(self) -> tuple[int, float]:
        """How often a batch or row had to wait for shards to be mapped, and the seconds in all."""
        return self._num_waits, self._wait_seconds

    @property
    def fetches(self) -> ShardFetches:
        """What was brought into the cache by this process."""
        return self._shards.store.fetches

    @property
    def num_rows(self) -> Counts:
        """(K,) rows of each domain."""
        return self._num_rows

    def row(self, domain: int, row: int) -> Rows:
        """One row, read-only: a view of its shard if it is aligned there and of our dtype."""
        if not (0 <= domain < len(self._domains) and 0 <= row < self._num_rows[domain]):
            raise self._no_such_row(domain, row)
        position = int(self._first_row[domain]) + row
        place = int(self._starts.searchsorted(position, "right"))
        with self._lock:
            if place not in self._maps:
                self._map(np.array([place]))
            rows = self._maps[place]
        tokens: Rows = rows[position - int(self._starts[place - 1])].view(
            self._domains[domain].dtype
        )
        if not (tokens.flags.aligned and tokens.dtype == self._dtype):
            tokens = tokens.astype(self._dtype)
            tokens.flags.writeable = False
        return tokens

    def gather(self, addresses: Addresses, out: Rows | None = None) -> Rows:
        """The (B, S) rows of B addresses, in a new block or in `out`."""
        if addresses.dtype != ADDRESS:
            addresses = addresses.astype(ADDRESS)
        with self._lock:
            if len(self._dtypes) == 1:
                block = self._gather(addresses, 0)
            else:
                block = self._gather_kinds(addresses)
        if out is None:
            return block
        np.copyto(out, block, casting="safe")
        return out

    def gather_mapped(self, addresses: Addresses) -> Rows | None:
        """The (B, S) rows of B addresses; None where a shard has to be mapped for them first."""
        if len(self._dtypes) > 1:
            return None
        with self._lock:
            position, place = self._places(addresses)
            return self._taken(position, place, 0) if self._are_mapped(addresses, place) else None

    def _gather_kinds(self, addresses: Addresses) -> Rows:
        """Rows of domains of several dtypes, each dtype at once, in the one that holds them all."""
        self._check_bounds(addresses)
        block = np.empty((len(addresses), self._seq_len), self._dtype)
        kinds = self._kind[addresses["domain"]]
        for kind in np.unique(kinds).tolist():
            part = np.flatnonzero(kinds == kind)
            block[part] = self._gather(addresses[part], kind)
        return block

    def _gather(self, addresses: Addresses, kind: int) -> Rows:
        position, place = self._places(addresses)
        if not self._are_mapped(addresses, place):
            self._check_bounds(addresses)
            places = np.unique(place)
            if len(places) > self._max_maps:
                return self._gather_parts(addresses, place, kind)
            self._map(places)
        return self._taken(position, place, kind)

    def _places(self, addresses: Addresses) -> tuple[Counts, Counts]:
        """(B,) positions, and the places of their shards in the tables."""
        # Python's own -1 is the last domain here; the comparison below refuses it.
        try:
            position = self._first_row.take(addresses["domain"])
        except IndexError:
            self._check_bounds(addresses)
            raise
        position += addresses["row"]
        return position, self._starts.searchsorted(position, "right")

    def _are_mapped(self, addresses: Addresses, place: Counts) -> bool:
        # One comparison says of all rows that their shard is mapped and of their domain: of
        # bytes, because that takes 0.4 us where (a == b).all() takes 1.2.
        return self._mapped_domain.take(place).tobytes() == addresses["domain"].tobytes()

    def _taken(self, position: Counts, place: Counts, kind: int) -> Rows:
        """The (B, S) rows of positions, which change, in shards that are mapped."""
        if self._last_use is not None:
            self._clock += 1
            self._last_use[place] = self._clock
        if self._pitch == 1:
            position *= self._stride.take(place)
        position += self._base.take(place)
        # A byte of each row first: their cache and page misses overlap here, and come one after
        # the other in the copy (256 rows of 4 kB: 83 us where the copy alone takes 89).
        self._first_bytes[position]
        window = self._windows[kind]
        if self._pitch > 1:
            return window.take(position, 0)
        rows: Rows = window[position].view(self._dtypes[kind])
        return rows.reshape(len(position), self._seq_len)

    def _gather_parts(self, addresses: Addresses, place: Counts, kind: int) -> Rows:
        """Rows of more shards than may be mapped at once, so many shards at a time."""
        block = np.empty((len(addresses), self._seq_len), self._dtypes[kind])
        portion = np.unique(place, return_inverse=True)[1] // self._max_maps
        for number in range(int(portion.max()) + 1):
            part = np.flatnonzero(portion == number)
            block[part] = self._gather(addresses[part], kind)
        return block

    def _check_bounds(self, addresses: Addresses) -> None:
        domain, row = addresses["domain"], addresses["row"]
        known = (domain >= 0) & (domain < len(self._domains))
        num_rows = np.where(known, self._num_rows.take(domain, mode="clip"), 0)
        wrong = np.flatnonzero((row < 0) | (row >= num_rows))
        if len(wrong):
            raise self._no_such_row(int(domain[wrong[0]]), int(row[wrong[0]]))

    def _no_such_row(self, domain: int, row: int) -> ShardError:
        if not 0 <= domain < len(self._domains):
            return ShardError(
                f"no domain {domain}: the corpus has {len(self._domains)}, from 0 on. "
                f"The address was drawn for another corpus."
            )
        return ShardError(
            f"no row {row} in domain {self._domains[domain].name!r}: it has "
            f"{self._num_rows[domain]}, from 0 on. The address was drawn for another corpus."
        )

    def _map(self, places: Counts) -> None:
        """Map the shards of these places that are not mapped yet."""
        started = time.monotonic()
        try:
            self._map_missing(places)
        finally:
            self._num_waits += 1
            self._wait_seconds += time.monotonic() - started

    def _map_missing(self, places: Counts) -> None:
        missing = places[self._mapped_domain[places] == NOT_MAPPED]
        self._evict(len(missing), places)
        while True:
            try:
                self._shards.bring([self._shard_at(place) for place in missing.tolist()])
                for place in missing[self._mapped_domain[missing] == NOT_MAPPED].tolist():
                    self._map_one(place)
                return
            except ShardError as error:
                if not (is_disk_full(error) and self._unmap_evicted(places)):
                    raise

    def _map_one(self, place: int) -> None:
        domain, shard = self._shard_at(place)
        rows = self._shards.rows(domain, shard)
        address, stride = rows.__array_interface__["data"][0], rows.strides[0]
        moved = self._window.reach_to(address, address + len(rows) * stride, stride)
        if moved is not None:
            self._stride *= moved[0]
            self._base *= moved[0]
            self._base += moved[1]
            self._look_through()
        self._maps[place] = rows
        step = self._stride[place] = stride // self._pitch
        start = (address - self._window.origin) // self._pitch
        self._base[place] = start - int(self._starts[place - 1]) * step
        self._mapped_domain[place] = domain

    def _shard_at(self, place: int) -> tuple[int, int]:
        """(domain, shard within it) of a place in the tables."""
        domain = int(self._first_shard.searchsorted(place - 1, "right")) - 1
        return domain, place - 1 - int(self._first_shard[domain])

    def _look_through(self) -> None:
        """Keep at hand what every gather needs of the window: an attribute less is 30 ns less."""
        self._pitch, self._windows = self._window.pitch, self._window.views
        self._first_bytes = self._window.first_bytes

    def _evict(self, num_new: int, kept: Counts) -> None:
        """Make room for new maps; an eighth at once, so that a full pool seldom sorts."""
        self._unmap_evicted(kept)
        excess = len(self._maps) + num_new - self._max_maps
        if excess <= 0 or self._last_use is None:
            return
        places = np.setdiff1d(np.fromiter(self._maps, np.int64), kept)
        num = min(len(places), max(excess, self._max_maps // 8))
        oldest = places[np.argsort(self._last_use[places], kind="stable")[:num]]
        for place in oldest.tolist():
            self._unmap(place)

    def _unmap_evicted(self, kept: Counts) -> bool:
        """Let go of files that have gone from the cache: until then their bytes are not free."""
        if not self._shards.may_be_evicted:
            return False
        gone = [place for place in self._maps if self._shards.is_evicted(*self._shard_at(place))]
        gone = np.setdiff1d(np.array(gone, np.int64), kept).tolist()
        for place in gone:
            self._unmap(place)
        return len(gone) > 0

    def _unmap(self, place: int) -> None:
        self._mapped_domain[place] = NOT_MAPPED
        del self._maps[place]


_pools: weakref.WeakSet[RowPool] = weakref.WeakSet()


def _forget_all() -> None:
    """The lock of a pool may be held, and its tables half made, by a thread that a child lacks."""
    for pool in _pools:
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)  # asking os.getpid() at every gather takes 0.15 us


def default_max_maps() -> int:
    """Maps that leave most of what the process may have to others.

    Before Python 3.13 each holds a file descriptor, of which a quarter is taken.
    """
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if sys.version_info >= (3, 13) or soft_limit == resource.RLIM_INFINITY:
        return MAX_MAPS
    return max(16, min(MAX_MAPS, soft_limit // 4))


def warn_of_few_maps(num_domains: int) -> None:
    """Says so where files that may be open are too few for a shard of each domain."""
    num_maps = default_max_maps()
    if num_maps < min(num_domains, MAX_MAPS):
        _LOG.warning(
            "the corpus has %d domains, but this process maps %d shards at a time, for want of "
            "open files: rows will be slow, as many must map their shard anew. Allow more open "
            "files (ulimit -n %d), or take Python 3.13 or later, where maps need none.",
            num_domains,
            num_maps,
            4 * min(num_domains, MAX_MAPS),
        )


def _new_pool(shards: MappedShards, seq_len: int, dtype: TokenDtype, max_maps: int) -> RowPool:
    return RowPool(
        shards.domains,
        seq_len=seq_len,
        dtype=dtype,
        store=shards.store,
        on_bad_shard=shards.on_bad_shard,
        max_maps=max_maps,
    )
