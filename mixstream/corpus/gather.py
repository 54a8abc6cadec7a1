"""Row addresses -> one block of rows, from shards that are mapped on first touch."""

from __future__ import annotations

import os
import resource
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import ADDRESS, Addresses, Counts, Rows
from mixstream.corpus.cache import raw_shard_path
from mixstream.corpus.index import ShardIndex
from mixstream.corpus.layout import TokenDtype, map_rows, read_layout
from mixstream.errors import ShardError

__all__ = ["DomainShards", "RowPool"]

NOT_MAPPED = np.iinfo(np.int32).min
"""Stands for the domain of a shard that is not mapped; no address can name this domain."""

MAX_REACH_BYTES = 1 << 40
"""How far a window looks to either side of the first map; maps lie near each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainShards:
    """The shards of one domain, whose rows all have one length and dtype."""

    name: str
    index: ShardIndex
    dtype: TokenDtype


class RowPool:
    """The rows of all shards of a corpus, any of them by (domain, row).

    A position is the number of a row among all rows of all shards, domain by domain. One
    searchsorted over the shards' first positions finds its shard, and a table over the shards makes
    a place in memory of it. A window is an array over memory itself, of all rows that could start
    at its places, so one take of B places gathers B rows of any shards.

    Places lie `pitch` bytes apart. That is the length of a row while the rows of all maps lie on
    one grid, as those of converted shards do up to 4 kB a row (maps start at a page, and their rows
    at a page of the file): then the window is an ordinary (n, S) array. Where they do not, it is 1,
    and the window's rows overlap, which costs 1 us a batch of 32 more.

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
        cache: Path | None = None,
        max_maps: int | None = None,
    ) -> None:
        self._domains = tuple(domains)
        self._seq_len = seq_len
        self._dtype = dtype
        self._cache = cache
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
        self._pitch = self._seq_len * self._dtype.itemsize if len(self._dtypes) == 1 else 1
        self._origin = self._reach = 0
        self._first_bytes = np.empty(0, np.uint8)
        self._windows: list[NDArray[Any]] = [
            np.empty((0, self._seq_len), self._dtype)
            if self._pitch > 1
            else np.empty(0, f"V{self._seq_len * dtype.itemsize}")
            for dtype in self._dtypes
        ]

    def __reduce__(self) -> tuple[object, ...]:
        return _new_pool, (
            self._domains,
            self._seq_len,
            self._dtype,
            self._cache,
            self._max_maps,
        )

    @property
    def num_maps(self) -> int:
        """Shards that are mapped now."""
        return len(self._maps)

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
        domain = addresses["domain"]
        # Python's own -1 is the last domain here; the comparison below refuses it.
        try:
            position = self._first_row.take(domain)
        except IndexError:
            self._check_bounds(addresses)
            raise
        position += addresses["row"]
        place = self._starts.searchsorted(position, "right")
        # One comparison says of all rows that their shard is mapped and of their domain: of
        # bytes, because that takes 0.4 us where (a == b).all() takes 1.2.
        if self._mapped_domain.take(place).tobytes() != domain.tobytes():
            self._check_bounds(addresses)
            places = np.unique(place)
            if len(places) > self._max_maps:
                return self._gather_parts(addresses, place, kind)
            self._map(places)
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
        return rows.reshape(len(addresses), self._seq_len)

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
        missing = places[self._mapped_domain[places] == NOT_MAPPED]
        self._evict(len(missing), places)
        for place in missing.tolist():
            domain = int(self._first_shard.searchsorted(place - 1, "right")) - 1
            rows = self._open(domain, place - 1 - int(self._first_shard[domain]))
            address, stride = rows.__array_interface__["data"][0], rows.strides[0]
            self._reach_to(address, address + len(rows) * stride, stride)
            self._maps[place] = rows
            step = self._stride[place] = stride // self._pitch
            start = (address - self._origin) // self._pitch
            self._base[place] = start - int(self._starts[place - 1]) * step
            self._mapped_domain[place] = domain

    def _open(self, domain: int, shard: int) -> NDArray[np.uint8]:
        """The rows of one shard as bytes, checked to be what its domain's are."""
        shards = self._domains[domain]
        entry = shards.index.entry(shard)
        path = raw_shard_path(shards.index.folder, entry, self._cache)
        layout = read_layout(path, entry)
        if (layout.seq_len, layout.dtype) != (self._seq_len, shards.dtype):
            raise ShardError(
                f"{path} holds rows of {layout.seq_len} {layout.dtype.name} ids, but its corpus "
                f"has rows of {self._seq_len} {shards.dtype.name}. Convert the domain again."
            )
        return map_rows(path, layout)

    def _evict(self, num_new: int, kept: Counts) -> None:
        """Make room for new maps; an eighth at once, so that a full pool seldom sorts."""
        excess = len(self._maps) + num_new - self._max_maps
        if excess <= 0 or self._last_use is None:
            return
        places = np.setdiff1d(np.fromiter(self._maps, np.int64), kept)
        num = min(len(places), max(excess, self._max_maps // 8))
        oldest = places[np.argsort(self._last_use[places], kind="stable")[:num]]
        self._mapped_domain[oldest] = NOT_MAPPED
        for place in oldest.tolist():
            del self._maps[place]

    def _reach_to(self, low: int, high: int, stride: int) -> None:
        """Let the windows cover the rows from `low` to `high`, and all that they covered."""
        end = self._origin + self._reach
        fits = self._pitch == 1 or (
            stride == self._pitch
            and low % self._dtype.itemsize == 0
            and (self._reach == 0 or (low - self._origin) % self._pitch == 0)
        )
        if fits and self._reach and self._origin <= low and high <= end:
            return
        if not fits:  # from here on every byte is a place
            self._stride *= self._pitch
            self._base *= self._pitch
            self._pitch = 1
        row_bytes = [self._seq_len * dtype.itemsize for dtype in self._dtypes]
        slack = min(MAX_REACH_BYTES, 2**61 // max(row_bytes))  # numpy: length * row_bytes < 2**63
        lowest, highest = (min(low, self._origin), max(high, end)) if self._reach else (low, high)
        origin = low - (low - max(1, lowest - slack)) // self._pitch * self._pitch
        self._base += (self._origin - origin) // self._pitch
        self._origin, self._reach = origin, highest + slack - origin
        num_places = self._reach // self._pitch
        self._first_bytes = memory_array(origin, (num_places,), (self._pitch,), "|u1")
        if self._pitch > 1:
            shape, strides = (num_places, self._seq_len), (self._pitch, self._dtype.itemsize)
            self._windows = [memory_array(origin, shape, strides, self._dtype.str)]
            flags = self._windows[0].flags
            if not (flags.c_contiguous and flags.aligned):
                # take would copy it whole, and it is all of the memory: no `assert`, for python -O
                raise ShardError(f"rows from address {low} on lie on no grid; report this, please")
        else:
            self._windows = [
                memory_array(origin, (num_places,), (1,), f"|V{size}") for size in row_bytes
            ]


class _Memory:
    """Some of this process's memory, as numpy's array interface describes it."""

    def __init__(self, description: dict[str, object]) -> None:
        self.__array_interface__ = description


def memory_array(
    origin: int, shape: tuple[int, ...], strides: tuple[int, ...], typestr: str
) -> NDArray[Any]:
    """A read-only array over this process's memory from address `origin` on.

    Making it reads nothing, and indexing it reads what is there: index only what is mapped.
    """
    description = {
        "version": 3,
        "data": (origin, True),
        "shape": shape,
        "strides": strides,
        "typestr": typestr,
    }
    return np.asarray(_Memory(description))


_pools: weakref.WeakSet[RowPool] = weakref.WeakSet()


def _forget_all() -> None:
    """The lock of a pool may be held, and its tables half made, by a thread that a child lacks."""
    for pool in _pools:
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)  # asking os.getpid() at every gather takes 0.15 us


def default_max_maps() -> int:
    """Maps that leave three quarters of the process's file descriptors to others, at most 4,096."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return 4096
    return max(16, min(4096, soft_limit // 4))


def _new_pool(
    domains: Sequence[DomainShards],
    seq_len: int,
    dtype: TokenDtype,
    cache: Path | None,
    max_maps: int,
) -> RowPool:
    return RowPool(domains, seq_len=seq_len, dtype=dtype, cache=cache, max_maps=max_maps)
