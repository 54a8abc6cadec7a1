"""The blocks that a node draws of a domain -> their shards, in the order of the first draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts
from mixstream.corpus.prefetch import first_draws
from mixstream.mixing.order import Block

__all__ = ["NEVER", "Look", "Walk"]

NEVER = 2**62
"""A draw that does not come."""

_MAX_LOOK_DRAWS = 512
"""Draws that are looked at together. Those of a block find all of its 16 shards (64 MiB each, 2,048
ids a row) within 60 draws on average, so that of 260,000 rows of a block 500 are computed twice."""
_SHARDS_A_LOOK = 16
"""Without shuffling."""


class Look(NamedTuple):
    """Shards that a walk has found."""

    shards: Counts
    draws: Counts
    """Ordinals of the first draws from them that were looked at."""
    ends: Counts
    """Ordinals before which their rows of this epoch are all drawn."""
    known: int
    """Draws before this one are looked at now."""


class Walk:
    """The shards of one group in the order of their first draws.

    Args:
        block_at: ordinal -> the block of that draw, None where there is none.
        shard_rows: rows of each shard of the domain.
        slice_rows: rows that the node reads of it. Where a block holds them all, every epoch comes
            to the same shards: it is taken for one block without an end.
    """

    def __init__(
        self, block_at: Callable[[int], Block | None], shard_rows: Counts, slice_rows: int
    ) -> None:
        self._block_at, self._shard_rows, self._slice_rows = block_at, shard_rows, slice_rows
        self._block: Block | None = None
        self._ends: Counts = np.cumsum(shard_rows)
        self._seen: set[int] = set()
        self._num_shards = 0

    def look(self, draw: int) -> Look:
        """What the next draws from `draw` on come to for the first time in their block."""
        block = self._block
        if block is None or not 0 <= draw - block.first_draw < block.num_rows:
            block = self._block = self._block_at(draw)
            self._seen = set()
            self._num_shards = 0 if block is None else self._shards_of(block)
        if block is None:
            nothing = np.empty(0, np.int64)
            return Look(nothing, nothing, nothing, NEVER)
        return self._in_order(block, draw) if block.key is None else self._shuffled(block, draw)

    def _shuffled(self, block: Block, draw: int) -> Look:
        begin, missing = draw - block.first_draw, max(self._num_shards - len(self._seen), 1)
        enough = int(self._num_shards * (math.log(missing) + 5))  # coupons: one in 150 looks again
        end = min(begin + min(max(enough, 32), _MAX_LOOK_DRAWS), block.num_rows)
        coming = first_draws(np.searchsorted(self._ends, block.rows(begin, end), side="right"))
        is_new = np.array([shard not in self._seen for shard in coming.shards.tolist()], bool)
        shards, draws = coming.shards[is_new], coming.draws[is_new] + draw
        self._seen.update(shards.tolist())
        has_all = len(self._seen) >= self._num_shards
        has_all_now = shards.size >= self._num_shards
        is_endless = has_all_now and block.num_rows == self._slice_rows
        block_end = NEVER if is_endless else block.first_draw + block.num_rows
        is_done = has_all or end == block.num_rows
        known = block_end if is_done else block.first_draw + end
        return Look(shards, draws, np.full_like(draws, block_end), known)

    def _in_order(self, block: Block, draw: int) -> Look:
        """Of a block that is one run of rows, drawn one after the other."""
        to_draw = block.first_draw - int(block.run_row[0])
        row, last = draw - to_draw, int(block.run_row[0]) + block.num_rows
        shard = int(np.searchsorted(self._ends, row, side="right"))
        shards = np.arange(shard, min(shard + _SHARDS_A_LOOK, self._ends.size))
        starts = np.maximum(self._ends[shards] - self._shard_rows[shards], row)
        ends = np.minimum(self._ends[shards], last)
        inside = starts < ends
        known = int(ends[-1]) + to_draw
        return Look(shards[inside], starts[inside] + to_draw, ends[inside] + to_draw, known)

    def _shards_of(self, block: Block) -> int:
        """How many shards hold rows of a block."""
        lengths = np.diff(np.append(block.run_start, block.num_rows))
        first = np.searchsorted(self._ends, block.run_row, side="right")
        if first.size > 1:  # each run lies in one shard
            return int(np.unique(first).size)
        last = np.searchsorted(self._ends, block.run_row + lengths - 1, side="right")
        return int((self._shard_rows[first[0] : last[0] + 1] > 0).sum())
