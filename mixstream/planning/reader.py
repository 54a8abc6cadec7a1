"""One domain on one canonical node, as its node reads it: what it asks for, and when."""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import NamedTuple

from mixstream.planning.blocks import BlockShards, ShardBlocks

__all__ = ["Reader", "Touch"]

_MAX_LEFT = 64
"""Blocks that one step may read of one domain on one canonical node."""


class Touch(NamedTuple):
    """A draw that asks for a shard which may not be mapped."""

    ordinal: int
    """Draws of the group before it."""
    shard: int
    """Among all shards of the corpus."""


class Reader:
    """The coming touches of one group, known block by block.

    Args:
        blocks: of the corpus.
        domain: index.
        canonical_node: whose slice.
        first_shard: of the domain, among all shards.
    """

    def __init__(
        self, blocks: ShardBlocks, domain: int, canonical_node: int, first_shard: int
    ) -> None:
        self.domain, self.canonical_node = domain, canonical_node
        self._order, self._first_shard = blocks, first_shard
        self._blocks = blocks.blocks(domain, canonical_node)
        self._loaded: deque[BlockShards] = deque()
        self._pending: list[Touch] = []
        self._ahead: deque[Touch] = deque()
        self.live: frozenset[int] = frozenset()
        """Shards of the block that is read, or was read last."""
        self.end = 0
        """Draws before the first one after that block."""
        self._left: deque[tuple[int, frozenset[int]]] = deque(maxlen=_MAX_LEFT)
        """Ends and shards of the blocks before it."""

    @property
    def next_touch(self) -> Touch | None:
        """The next one; None where all shards were touched that there will ever be."""
        if not self._pending:
            self._load()
        return self._pending[0] if self._pending else None

    def take(self) -> Touch:
        """The next touch, which happens now; its block is the one that is read from now on."""
        assert self.next_touch is not None, "what does not come is taken"
        touch = heapq.heappop(self._pending)
        if touch.ordinal >= self.end:
            self._left.append((self.end, self.live))
            while self._loaded[0].end <= touch.ordinal:
                self._loaded.popleft()
            shards = self._loaded[0].shards.tolist()
            self.live = frozenset(self._first_shard + shard for shard in shards)
            self.end = self._loaded[0].end
        while self._ahead and self._ahead[0].ordinal <= touch.ordinal:
            self._ahead.popleft()
        return touch

    @property
    def head(self) -> Touch | None:
        """The next first touch of a shard in its block that the prefetch has not looked at."""
        if not self._ahead:
            self._load()
        return self._ahead[0] if self._ahead else None

    def pass_head(self) -> None:
        """The prefetch has looked at the head."""
        self._ahead.popleft()

    def draws(self, shard: int, start: float, end: float) -> bool:
        """Whether a shard is drawn in a range of ordinals, which has no end after this block's."""
        left = (shards for block_end, shards in self._left if block_end > start)
        if shard not in self.live and not any(shard in shards for shards in left):
            return False  # nearly always, and told without looking into any block
        return self._next_draw(shard, start, math.ceil(end)) is not None

    def touch_again(self, shard: int, start: float) -> None:
        """A shard has gone and is not mapped: if the block has it, its next draw is a touch."""
        ordinal = self._next_draw(shard, start, self.end) if shard in self.live else None
        if ordinal is not None:
            heapq.heappush(self._pending, Touch(ordinal, shard))

    def _next_draw(self, shard: int, start: float, end: int) -> int | None:
        number, first = shard - self._first_shard, math.ceil(start)
        return self._order.next_draw(self.domain, self.canonical_node, number, first, end)

    def _load(self) -> None:
        """Know the touches of another block."""
        block = next(self._blocks, None)
        if block is None:
            return
        self._loaded.append(block)
        for draw, shard in zip(block.draws.tolist(), block.shards.tolist(), strict=True):
            touch = Touch(draw, self._first_shard + shard)
            heapq.heappush(self._pending, touch)
            self._ahead.append(touch)
