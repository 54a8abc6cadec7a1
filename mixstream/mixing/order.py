"""The n-th draw of a domain on a canonical node -> a row of that domain.

A *group* is one domain on one canonical node: g = node * K + domain. Its rows are a slice of the
domain. (A domain of fewer rows than nodes cannot be sliced: all nodes draw it as node 0's group.)
One epoch of a group visits each of its rows once: the epoch's shard order is a keyed permutation,
consecutive shards form shuffle blocks, and inside a block the row is a keyed permutation of the
position, computed and never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts, Words
from mixstream.rng import name_key, permuted, stream_key

__all__ = ["Block", "RowOrder", "Slices", "domain_slices"]

_ROW_STREAM = 0x526F77  # keys of the row order, apart from every other use of the seed


class Slices(NamedTuple):
    """Which rows each group owns; rows of all domains are numbered one domain after the other."""

    first_row: Counts
    """(C, K) int64, where the slice starts."""
    num_rows: Counts
    """(C, K) int64, how many rows it holds."""


class Block(NamedTuple):
    """Draws of a group, one after the other, that visit each row of a few runs of rows once."""

    first_draw: int
    """Ordinal of the first of them."""
    num_rows: int
    """Draws, and rows."""
    run_start: Counts
    """(m,) int64, rows of the block before each run, in rising order."""
    run_row: Counts
    """(m,) int64, row within the domain at which each run starts."""
    key: Words | None
    """Of the permutation; None where rows are drawn in the order of the runs."""

    def rows(self, begin: int, end: int) -> Counts:
        """Rows within the domain of the draws from `begin` to `end` of the block, 0 <= its size."""
        position = np.arange(begin, end, dtype=np.int64)
        if self.key is not None:
            position = permuted(position, np.full_like(position, self.num_rows), self.key)
        run = np.searchsorted(self.run_start, position, side="right") - 1
        return np.asarray(self.run_row[run] + position - self.run_start[run])


class RowOrder:
    """Rows of every domain in the order in which each canonical node draws them.

    Args:
        layout: rows of each shard, an int64 array a domain.
        seed: of the run.
        num_canonical_nodes: C.
        shuffle: False draws the rows in shard order, epoch after epoch.
        shuffle_block_rows: shards whose first rows fall within so many rows of the epoch are
            shuffled together. A reader needs about that many rows of a domain near at a time.
        shared: (K,) bool, domains that all nodes draw as one group; those of fewer rows than nodes
            if not given.

    Memory is O(shards + K C). The tables of an epoch are made when its first row is asked for.
    """

    def __init__(
        self,
        layout: Mapping[str, Counts],
        *,
        seed: int,
        num_canonical_nodes: int,
        shuffle: bool,
        shuffle_block_rows: int,
        shared: NDArray[np.bool_] | None = None,
    ) -> None:
        shards = [np.asarray(rows, dtype=np.int64) for rows in layout.values()]
        shards = [rows[rows > 0] for rows in shards]
        self._num_domains = len(shards)
        domain_rows = np.array([rows.sum() for rows in shards], dtype=np.int64)
        self._domain_start = _starts(domain_rows)
        self._is_shared = domain_rows < num_canonical_nodes if shared is None else shared
        self.slices = domain_slices(shards, num_canonical_nodes, shared=self._is_shared)
        self._shuffle = shuffle
        self._first_row = self.slices.first_row.ravel()
        self._num_rows = self.slices.num_rows.ravel()
        names = np.array([name_key(name) for name in layout], dtype=np.uint64)
        nodes = np.arange(num_canonical_nodes, dtype=np.uint64)
        self._key = stream_key(seed, _ROW_STREAM, names[None, :], nodes[:, None]).ravel()
        blocked = np.flatnonzero(self._num_rows > shuffle_block_rows)
        self._blocks = _BlockTables(
            blocked,
            _segments(np.concatenate(shards), self._first_row[blocked], self._num_rows[blocked]),
            self._key[blocked],
            shuffle_block_rows,
        )
        self._table_of = np.full(self._num_rows.size, -1, dtype=np.int64)
        self._table_of[blocked] = np.arange(blocked.size)

    def groups(self, domain: Counts, node: Counts) -> Counts:
        """The group that each draw belongs to: (n,) domains and nodes -> (n,) int64."""
        if self._is_shared.any():
            node = np.where(self._is_shared[domain], 0, node)
        return node * self._num_domains + domain

    def rows(self, domain: Counts, node: Counts, ordinal: Counts) -> Counts:
        """The rows of some draws.

        Args:
            domain: (n,) int64.
            node: (n,) int64, canonical node.
            ordinal: (n,) int64, how often the group was drawn before.

        Returns:
            (n,) int64, row within the domain, in shard order.
        """
        group = self.groups(domain, node)
        size = self._num_rows[group]
        epoch = ordinal // size
        row = ordinal - epoch * size
        if self._shuffle:
            row = self._shuffled(group, size, epoch, row)
        return np.asarray(row + self._first_row[group] - self._domain_start[domain])

    def block(self, domain: int, node: int, ordinal: int) -> Block | None:
        """The block in which one draw lies; None for a domain without rows.

        It is computed beside what `rows` remembers, so that looking ahead costs no later draw
        anything. Without shuffling, and for a slice within one block, it is the whole epoch.
        """
        group = (0 if self._is_shared[domain] else node) * self._num_domains + domain
        size = int(self._num_rows[group])
        if size == 0:
            return None
        epoch, position = divmod(ordinal, size)
        table = int(self._table_of[group])
        first_row = int(self._first_row[group] - self._domain_start[domain])
        if not self._shuffle or table < 0:
            key = stream_key(self._key[group], epoch) if self._shuffle else None
            return Block(epoch * size, size, np.array([0]), np.array([first_row]), key)
        block = self._blocks.block(table, epoch, position)
        return block._replace(
            first_draw=block.first_draw + epoch * size, run_row=block.run_row + first_row
        )

    def _shuffled(self, group: Counts, size: Counts, epoch: Counts, position: Counts) -> Counts:
        """Position within an epoch -> row within the slice."""
        table = self._table_of[group]
        blocked = np.flatnonzero(table >= 0)
        if blocked.size == 0:
            return permuted(position, size, stream_key(self._key[group], epoch.astype(np.uint64)))
        if blocked.size == group.size:
            return self._blocks.rows(table, epoch, position)
        row = np.empty_like(position)
        whole = np.flatnonzero(table < 0)  # a slice within one block: no table is needed
        key = stream_key(self._key[group[whole]], epoch[whole].astype(np.uint64))
        row[whole] = permuted(position[whole], size[whole], key)
        row[blocked] = self._blocks.rows(table[blocked], epoch[blocked], position[blocked])
        return row


def domain_slices(
    shards: list[Counts], num_canonical_nodes: int, *, shared: NDArray[np.bool_] | None = None
) -> Slices:
    """The rows of each group: whole shards where a domain has at least one for every node.

    A domain of fewer shards than nodes is cut between rows, so its shards are read by several
    nodes; one of fewer rows than nodes is owned by all of them together. Shards are dealt in runs
    whose ends lie nearest to an even share of the rows.

    Args:
        shards: rows of each shard, all > 0, an int64 array a domain.
        num_canonical_nodes: C.
        shared: (K,) bool, see RowOrder; any other domain of fewer rows than nodes leaves some
            nodes without rows.
    """
    num_rows = np.array([rows.sum() for rows in shards], dtype=np.int64)
    num_shards = np.array([rows.size for rows in shards], dtype=np.int64)
    first_row, first_shard = _starts(num_rows), _starts(num_shards)
    nodes = np.arange(num_canonical_nodes + 1)
    share, rest = np.divmod(num_rows[:, None], num_canonical_nodes)
    cut = first_row[:, None] + share * nodes + (rest * nodes) // num_canonical_nodes
    shard_edge = np.append(_starts(np.concatenate(shards)), num_rows.sum())
    edge = np.clip(np.searchsorted(shard_edge, cut), 1, None)
    edge -= cut - shard_edge[edge - 1] < shard_edge[edge] - cut
    # every node gets a shard: edges rise by at least one, from the left and from the right
    fewest = first_shard[:, None] + nodes
    edge = np.maximum.accumulate(np.maximum(edge, fewest) - nodes, axis=1) + nodes
    edge = np.minimum(edge, first_shard[:, None] + num_shards[:, None] - (nodes[-1] - nodes))
    by_shard = num_shards >= num_canonical_nodes
    cut[by_shard] = shard_edge[edge[by_shard]]
    start, length = cut[:, :-1], np.diff(cut, axis=1)
    if shared is None:
        shared = num_rows < num_canonical_nodes
    start = np.where(shared[:, None], first_row[:, None], start)
    length = np.where(shared[:, None], num_rows[:, None], length)
    return Slices(np.ascontiguousarray(start.T), np.ascontiguousarray(length.T))


class _Segments(NamedTuple):
    """Runs of rows that lie in one shard and one group, in order of groups."""

    group_start: Counts
    """(G + 1,) int64, the first segment of each group, then the number of segments."""
    first_row: Counts
    """(T,) int64, row within the slice."""
    num_rows: Counts
    """(T,) int64."""


def _segments(shard_rows: Counts, first_row: Counts, num_rows: Counts) -> _Segments:
    """Slices (G,) cut at the edges of the shards, (T,) segments in all."""
    shard_start = _starts(shard_rows)
    first = np.searchsorted(shard_start, first_row, side="right") - 1
    last = np.searchsorted(shard_start, first_row + num_rows)
    group_start = np.append(0, np.cumsum(last - first))
    group = np.repeat(np.arange(first_row.size), last - first)
    shard = np.arange(group.size) - group_start[group] + first[group]
    start = np.maximum(shard_start[shard], first_row[group]) - first_row[group]
    end = np.minimum(shard_start[shard] + shard_rows[shard] - first_row[group], num_rows[group])
    return _Segments(group_start, start, end - start)


class _BlockTables:
    """For groups larger than a shuffle block: this epoch's order of segments and their blocks.

    The groups' positions are numbered one group after the other, so that one binary search over
    all tables finds the segment of a position of any group.
    """

    def __init__(
        self, groups: Counts, segments: _Segments, key: Words, shuffle_block_rows: int
    ) -> None:
        self._segments, self._key, self._block_rows = segments, key, shuffle_block_rows
        self._segment_group = np.repeat(np.arange(groups.size), np.diff(segments.group_start))
        num_rows = np.bincount(
            self._segment_group, weights=segments.num_rows, minlength=groups.size
        ).astype(np.int64)
        self._group_start = _starts(num_rows)
        self._epoch = np.full(groups.size, -1, dtype=np.int64)
        self._start = _starts(segments.num_rows)
        """(T,) position at which the segment in this place of the epoch's order starts."""
        self._first_row = segments.first_row.copy()
        """(T,) its first row within the slice."""
        self._block_start = self._start.copy()
        """(T,) position at which its block starts."""
        self._block_size = segments.num_rows.copy()
        """(T,) rows of its block."""
        self._block_key = np.zeros(segments.num_rows.size, dtype=np.uint64)
        """(T,) of the permutation of its block."""
        self._aside: tuple[int, _BlockTables] | None = None
        """A group and tables of it alone, for epochs that are only looked at."""

    def rows(self, group: Counts, epoch: Counts, position: Counts) -> Counts:
        """Row within the slice of each position, group by group and epoch by epoch."""
        if (self._epoch[group] == epoch).all():  # almost always: the tables are made
            return self._looked_up(group, position)
        row = np.empty_like(position)
        todo = np.arange(group.size)
        while todo.size:
            # a group's earliest epoch first: its table ends up at the latest one
            earliest = np.full(self._epoch.size, np.iinfo(np.int64).max)
            np.minimum.at(earliest, group[todo], epoch[todo])
            touched = np.unique(group[todo])
            self._make_tables(touched[self._epoch[touched] != earliest[touched]], earliest)
            ready = self._epoch[group[todo]] == epoch[todo]
            now, todo = todo[ready], todo[~ready]
            row[now] = self._looked_up(group[now], position[now])
        return row

    def block(self, group: int, epoch: int, position: int) -> Block:
        """The block of a position, its first draw and its runs counted from those of the slice."""
        tables = self if self._epoch[group] == epoch else self._tables_of(group, epoch)
        own = group if tables is self else 0
        start, end = tables._segments.group_start[own : own + 2].tolist()
        first = tables._group_start[own]
        starts, block_starts = tables._start[start:end], tables._block_start[start:end]
        block_start = block_starts[np.searchsorted(starts, first + position, side="right") - 1]
        runs = slice(*np.searchsorted(block_starts, [block_start, block_start + 1]))
        return Block(
            int(block_start - first),
            int(tables._block_size[start:end][runs][0]),
            starts[runs] - block_start,
            tables._first_row[start:end][runs].copy(),
            tables._block_key[start:end][runs][0],
        )

    def _tables_of(self, group: int, epoch: int) -> _BlockTables:
        """Tables of one group at an epoch; the last ones are kept."""
        if self._aside is None or self._aside[0] != group:
            start, end = self._segments.group_start[group : group + 2]
            segments = _Segments(
                np.array([0, end - start]),
                self._segments.first_row[start:end],
                self._segments.num_rows[start:end],
            )
            one = np.array([0])
            key = self._key[group : group + 1]
            self._aside = (group, _BlockTables(one, segments, key, self._block_rows))
        tables = self._aside[1]
        if tables._epoch[0] != epoch:
            tables._make_tables(np.array([0]), np.array([epoch]))
        return tables

    def _looked_up(self, group: Counts, position: Counts) -> Counts:
        among_all = self._group_start[group] + position
        place = np.searchsorted(self._start, among_all, side="right") - 1
        start = self._block_start[place]
        size, key = self._block_size[place], self._block_key[place]
        shuffled = start + permuted(among_all - start, size, key)
        place = np.searchsorted(self._start, shuffled, side="right") - 1
        return np.asarray(self._first_row[place] + shuffled - self._start[place])

    def _make_tables(self, groups: Counts, epoch_of: Counts) -> None:
        """Lays out one epoch of some groups, in rising order, in their places of the tables."""
        if groups.size == 0:
            return
        first, end = self._segments.group_start[groups], self._segments.group_start[groups + 1]
        segment = np.repeat(first - _starts(end - first), end - first)
        segment += np.arange(segment.size)
        group = self._segment_group[segment]
        key = stream_key(
            self._key[group],
            epoch_of[group].astype(np.uint64),
            (segment - self._segments.group_start[group] + 1).astype(np.uint64),
            _ROW_STREAM,
        )
        order = segment[np.lexsort((key, group))]
        num_rows = self._segments.num_rows[order]
        first_of_group = np.flatnonzero(np.diff(group, prepend=-1))
        start = _starts(num_rows)
        start -= np.repeat(start[first_of_group], np.diff(np.append(first_of_group, group.size)))
        self._first_row[segment] = self._segments.first_row[order]
        self._start[segment] = start + self._group_start[group]
        block = start // self._block_rows
        opens = np.flatnonzero(
            (np.diff(block, prepend=-1) != 0) | (np.diff(group, prepend=-1) != 0)
        )
        length = np.diff(np.append(opens, group.size))
        size = np.add.reduceat(num_rows, opens)
        self._block_start[segment] = np.repeat(self._start[segment][opens], length)
        self._block_size[segment] = np.repeat(size, length)
        key = stream_key(
            self._key[group[opens]],
            epoch_of[group[opens]].astype(np.uint64),
            start[opens].astype(np.uint64),
        )
        self._block_key[segment] = np.repeat(key, length)
        self._epoch[groups] = epoch_of[groups]


def _starts(sizes: Counts) -> Counts:
    """Where each run starts: for [3, 1, 2] it is [0, 3, 4]."""
    ends = np.cumsum(sizes)
    return np.asarray(ends - sizes, dtype=np.int64)
