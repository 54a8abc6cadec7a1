"""One domain on one canonical node -> when each of its shards is drawn first, block by block."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts
from mixstream.corpus.prefetch import first_draws
from mixstream.mixing.order import Block, RowOrder

__all__ = ["BlockShards", "ShardBlocks"]

_MAX_AT_ONCE = 64
"""Blocks that are looked at together: an order keeps the tables of the group it looked at last."""


class BlockShards(NamedTuple):
    """The shards of a block of draws: from its first draw to its last they are read."""

    start: int
    """Draws of the domain by this canonical node before the block's first one."""
    end: int
    """Draws before the first one after it."""
    shards: Counts
    """(n,) int64, numbered within the domain, in the order of their first draws."""
    draws: Counts
    """(n,) int64, draws before the first one of each."""


class ShardBlocks:
    """The shards that every domain's draws come to, on every canonical node.

    Args:
        order: of the corpus.
        layout: its rows of each shard.
        shuffle_block_rows: of the order.
        num_draws: (C, K) after which a domain is exhausted; None where none ever is.
    """

    def __init__(
        self,
        order: RowOrder,
        layout: Mapping[str, Counts],
        *,
        shuffle_block_rows: int,
        num_draws: Counts | None = None,
    ) -> None:
        self._order, self._block_rows, self._num_draws = order, shuffle_block_rows, num_draws
        self._rows = [np.asarray(rows, np.int64) for rows in layout.values()]
        self._ends = [np.cumsum(rows) for rows in self._rows]

    def blocks(self, domain: int, node: int) -> Iterator[BlockShards]:
        """The blocks of one domain on one canonical node, epoch after epoch, until it is exhausted.

        A slice that is within one block is one endless block: each epoch reads all of its shards.
        Without shuffling each shard is a block: none is read together with another.
        """
        first = self._order.block(domain, node, 0)
        if first is None:
            return
        end = sys.maxsize if self._num_draws is None else int(self._num_draws[node, domain])
        if first.key is None:
            yield from self._in_order(domain, first, end)
            return
        if self._order.slices.num_rows[node, domain] <= self._block_rows:
            shards = self._block_shards(domain, first)
            yield shards._replace(end=sys.maxsize)
            return
        ordinal, num_blocks = 0, 1
        while ordinal < end:
            found = []
            for _ in range(num_blocks):
                block = self._order.block(domain, node, ordinal)
                assert block is not None, "a domain does not lose its rows"
                found.append(self._block_shards(domain, block))
                ordinal = found[-1].end
                if ordinal >= end:
                    break
            yield from found
            num_blocks = min(2 * num_blocks, _MAX_AT_ONCE)

    def _in_order(self, domain: int, epoch: Block, end: int) -> Iterator[BlockShards]:
        """The shards of a slice that is drawn row by row, one after the other."""
        first_row, ends = int(epoch.run_row[0]), self._ends[domain]
        last_row = first_row + epoch.num_rows - 1
        first, last = np.searchsorted(ends, [first_row, last_row], side="right").tolist()
        shards = np.arange(first, last + 1)
        shards = shards[self._rows[domain][shards] > 0]
        if shards.size == 1:
            yield BlockShards(0, sys.maxsize, shards, np.zeros(1, np.int64))
            return
        stops = np.minimum(ends[shards] - first_row, epoch.num_rows)
        starts = np.append(0, stops[:-1])
        for before in range(0, end, epoch.num_rows):
            for shard, start, stop in zip(shards, starts + before, stops + before, strict=True):
                yield BlockShards(int(start), int(stop), np.array([shard]), np.array([start]))

    def next_draw(self, domain: int, node: int, shard: int, start: int, end: int) -> int | None:
        """The first draw of a shard in [start, end); None if there is none."""
        size = 64
        while start < end:
            block = self._order.block(domain, node, start)
            assert block is not None, "a domain whose shards are read has rows"
            begin = start - block.first_draw
            stop = min(begin + size, block.num_rows, end - block.first_draw)
            hits = np.flatnonzero(self._shards(domain, block.rows(begin, stop)) == shard)
            if hits.size:
                return start + int(hits[0])
            start, size = block.first_draw + stop, 4 * size
        return None

    def _block_shards(self, domain: int, block: Block) -> BlockShards:
        """Looks at draws until all shards have come."""
        lengths = np.diff(np.append(block.run_start, block.num_rows))
        first = self._shards(domain, block.run_row)
        last = self._shards(domain, block.run_row + lengths - 1)
        between = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
        shards = np.unique(np.concatenate(between))
        num_shards = int((self._rows[domain][shards] > 0).sum())
        # coupons: a shard is missing after so many draws in one of 3,000 blocks
        num_draws = int(num_shards * (np.log(num_shards) + 8))
        while True:
            rows = block.rows(0, min(num_draws, block.num_rows))
            coming = first_draws(self._shards(domain, rows))
            if len(coming.shards) == num_shards or num_draws >= block.num_rows:
                break
            num_draws *= 4
        start = block.first_draw
        return BlockShards(start, start + block.num_rows, coming.shards, coming.draws + start)

    def _shards(self, domain: int, rows: Counts) -> Counts:
        """The shard of each row of a domain."""
        return np.asarray(np.searchsorted(self._ends[domain], rows, side="right"))
