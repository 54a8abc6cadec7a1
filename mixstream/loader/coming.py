"""What one rank has drawn, and the weights -> the shards that it needs next, soonest first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.corpus.prefetch import Need
from mixstream.loader.walk import NEVER, Walk
from mixstream.mixing.sampler import MixSampler

__all__ = ["ComingShards", "Outlook", "nodes_of_rank", "rows_until"]

_LEAST_RATE = 1e-18
"""Draws a row of the run; what is drawn less often is never drawn."""
_MAX_PLANNED = 8
"""Planned changes of the weights that are looked at."""


class Outlook(NamedTuple):
    """What is needed next."""

    needs: list[Need]
    """Shards that are not near, soonest needed first."""
    passed: list[tuple[int, int]]
    """(domain, shard) all of whose rows are drawn in this epoch, told once."""
    num_left_out: int
    """Shards that would be looked at too, but for the limit of bytes."""
    next_row: float
    """Rows of the run from here on until it is worth to look again."""


class ComingShards:
    """The coming shards of the domains on the canonical nodes of one rank.

    A *group* is a domain on one of these nodes. Each is walked once, block by block, ahead of its
    draws, and only as far as its weight asks for: memory is O(groups + shards that were looked at
    and are not passed), and the cost of a look does not depend on the number of rows.

    Args:
        sampler: whose draws are followed; it is not moved.
        layout: of the corpus.
        nodes: the canonical nodes that the rank reads, rising.
        counts: (C, K) rows drawn so far.
    """

    def __init__(
        self, sampler: MixSampler, layout: Mapping[str, Counts], nodes: Counts, counts: Counts
    ) -> None:
        self._sampler, self._shard_rows = sampler, list(layout.values())
        num_domains, num_nodes = len(sampler.domains), sampler.settings.num_canonical_nodes
        domain, node = np.tile(np.arange(num_domains), nodes.size), np.repeat(nodes, num_domains)
        is_shared = sampler.is_shared  # drawn by all nodes as node 0's
        mine = (sampler.num_rows[domain] > 0) & (~is_shared[domain] | (node == nodes[0]))
        self._domain = domain[mine]
        self._node = np.where(is_shared[domain], 0, node)[mine]
        self._share = np.where(is_shared[self._domain], 1.0, 1 / num_nodes)
        self._first = self._counts(counts)
        self._known = self._first.copy()
        """(n,) draws of each group that are looked at."""
        self._walks: dict[int, Walk] = {}
        self._entries = np.empty(0, _ENTRY)

    def holds(self, counts: Counts) -> bool:
        """Whether this place in the run can be followed; else ComingShards are to be made anew."""
        return bool((self._counts(counts) >= self._first).all())

    def finish(self, shards: Sequence[tuple[int, int]]) -> None:
        """These (domain, shard) are near now, or cannot be."""
        for domain, shard in shards:
            found = (self._entries["domain"] == domain) & (self._entries["shard"] == shard)
            self._entries["is_near"][found] = True

    def outlook(
        self, counts: Counts, row: int, *, max_shards: int, max_bytes: float, raw_bytes: RawBytes
    ) -> Outlook:
        """Looks on until so many coming shards are known, by the weights from `row` on.

        Args:
            counts: (C, K) rows drawn so far, by all nodes.
            row: of the run, that comes next.
            max_shards: shards that are looked at ahead: not near, or near and not read yet.
            max_bytes: of these shards.
            raw_bytes: bytes of a (domain, shard).
        """
        drawn, pace = self._counts(counts), self._pace(row)
        passed = self._without_passed(drawn)
        self._look_on(drawn, pace, max_shards)
        entries = self._entries
        draws = np.maximum(entries["draw"] + 1 - drawn[entries["group"]], 0)
        rows = rows_until(draws, pace.of(entries["group"]), pace.starts)
        ahead = np.flatnonzero((~entries["is_near"] | (draws > 0)) & np.isfinite(rows))
        ahead = ahead[np.argsort(rows[ahead], kind="stable")][:max_shards]
        num_bytes = [raw_bytes(d, s) for d, s in entries[["domain", "shard"]][ahead].tolist()]
        num_allowed = max(int((np.cumsum(num_bytes) <= max_bytes).sum()), 1)
        wanted = [at for at in ahead[:num_allowed].tolist() if not entries["is_near"][at]]
        needs = [
            Need(float(rows[at]), int(entries["domain"][at]), int(entries["shard"][at]))
            for at in wanted
        ]
        next_row = float(rows[ahead[ahead.size // 4]]) if ahead.size else math.inf
        num_left_out = max(ahead.size - num_allowed, 0)
        return Outlook(needs, passed, num_left_out, next_row)

    def reading(self, counts: Counts) -> list[tuple[int, int]]:
        """(domain, shard) whose first row is drawn and whose last is not."""
        begun = self._entries["draw"] < self._counts(counts)[self._entries["group"]]
        found: list[tuple[int, int]] = self._entries[["domain", "shard"]][begun].tolist()
        return found

    def _counts(self, counts: Counts) -> Counts:
        """(C, K) -> (n,)."""
        return np.asarray(counts[self._node, self._domain])

    def _pace(self, row: int) -> _Pace:
        """How often each group is drawn, now and after the changes that are planned."""
        coming = self._sampler.coming_weights(_MAX_PLANNED)
        starts = np.array([0.0, *(at_row - row for at_row, _ in coming[1:])])
        rates = [weights[self._domain] * self._share for _, weights in coming]
        return _Pace(np.maximum(starts, 0.0), rates)

    def _without_passed(self, drawn: Counts) -> list[tuple[int, int]]:
        """Drops the entries whose rows are all drawn, and tells their (domain, shard)."""
        is_passed = self._entries["end"] <= drawn[self._entries["group"]]
        if not is_passed.any():
            return []
        gone = set(self._entries[["domain", "shard"]][is_passed].tolist())
        self._entries = self._entries[~is_passed]
        return sorted(gone - set(self._entries[["domain", "shard"]].tolist()))

    def _look_on(self, drawn: Counts, pace: _Pace, num_wanted: int) -> None:
        """Walks on in the groups whose next shards are needed soonest."""
        np.maximum(self._known, drawn, out=self._known)  # others have moved the sampler
        everyone = np.arange(self._known.size)
        until = rows_until(self._known + 1 - drawn, pace.rates, pace.starts)
        until[self._known >= NEVER] = np.inf
        nearest = everyone
        if everyone.size > num_wanted:
            nearest = np.argpartition(until, num_wanted)[: num_wanted + 1]
        heap = list(zip(until[nearest].tolist(), nearest.tolist(), strict=True))
        heapq.heapify(heap)
        entries = self._entries
        draws = np.maximum(entries["draw"] + 1 - drawn[entries["group"]], 0)
        rows = rows_until(draws, pace.of(entries["group"]), pace.starts)
        found, rows = [entries], rows[~entries["is_near"] | (draws > 0)]
        for _ in range(4 * num_wanted):  # a look at draws that are all of known shards finds none
            rows_known, group = heap[0] if heap else (math.inf, 0)
            if math.isinf(rows_known) or (rows <= rows_known).sum() >= num_wanted:
                break
            new = self._walked(group)
            found.append(new)
            one = pace.of(np.array([group]))
            more = rows_until(new["draw"] + 1 - drawn[group], one, pace.starts)
            rows = np.append(rows, more)
            left = rows_until(np.array([self._known[group] + 1 - drawn[group]]), one, pace.starts)
            at_end = self._known[group] >= NEVER
            heapq.heapreplace(heap, (math.inf if at_end else float(left[0]), group))
        if len(found) > 1:
            self._entries = np.concatenate(found)

    def _walked(self, group: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """The entries of the next look at a group."""
        domain, node = int(self._domain[group]), int(self._node[group])
        if group not in self._walks:
            self._walks[group] = Walk(
                lambda draw: self._sampler.coming_block(domain, node, draw),
                self._shard_rows[domain],
                int(self._sampler.slice_rows[node, domain]),
            )
        look = self._walks[group].look(int(self._known[group]))
        self._known[group] = look.known
        new = np.zeros(look.shards.size, _ENTRY)
        new["group"], new["domain"], new["shard"] = group, domain, look.shards
        new["draw"], new["end"] = look.draws, look.ends
        return new


_ENTRY = np.dtype(
    [("group", "i8"), ("domain", "i8"), ("shard", "i8"), ("draw", "i8"), ("end", "i8"),
     ("is_near", "?")]
)  # fmt: skip
"""A shard that a group comes to: the first draw from it, and the end of those of its block."""

RawBytes = Callable[[int, int], int]


@dataclass(frozen=True, slots=True)
class _Pace:
    """Expected draws of each group a row of the run, in stretches of constant weights."""

    starts: Vector
    """(m,) rows from now, rising from 0."""
    rates: list[Vector]
    """m of (n,)."""

    def of(self, groups: Counts) -> list[Vector]:
        return [rate[groups] for rate in self.rates]


def rows_until(draws: Counts, rates: Sequence[Vector], starts: Vector) -> Vector:
    """Rows of the run until each of n groups has been drawn so often, as may be expected.

    Args:
        draws: (n,), at least 0.
        rates: m of (n,), draws a row of the run in each stretch of it.
        starts: (m,) rows from now at which each stretch starts, rising from 0.

    Returns:
        (n,) float64, inf for what is never drawn so often; 0 draws of a group that is drawn take 0.

    With rates 0.5 and then, from row 10 on, 0.1, it takes 6 draws 20 rows.
    """
    rows = np.full(draws.shape, np.inf)
    left = draws.astype(np.float64)
    ends = np.append(starts[1:], np.inf)
    for rate, start, end in zip(rates, starts, ends, strict=True):
        here = np.divide(left, rate, out=np.full_like(left, np.inf), where=rate > _LEAST_RATE)
        reached = np.isinf(rows) & (here <= end - start)
        rows[reached] = start + here[reached]
        if math.isfinite(end):
            left = np.maximum(left - rate * (end - start), 0.0)
    return rows


def nodes_of_rank(
    row: int, batch_size: int, rank: int, world_size: int, num_canonical_nodes: int
) -> Counts:
    """The canonical nodes whose rows a rank gets of the global batches from a row on.

    Args:
        row: of the run; where C divides the global batch it makes no difference.
        batch_size: B.
        rank: of W.
        world_size: W.
        num_canonical_nodes: C.

    For C = 4, W = 2 and B = 8 it is [0, 1] for rank 0 and [2, 3] for rank 1.
    """
    num_rows, nodes = batch_size * world_size, np.arange(num_canonical_nodes)
    found = np.zeros(num_canonical_nodes, bool)
    for step in range(1 if num_rows % num_canonical_nodes == 0 else 8):
        begun = row + step * num_rows
        extra = (nodes - begun) % num_canonical_nodes < num_rows % num_canonical_nodes
        ends = np.cumsum(num_rows // num_canonical_nodes + extra)
        starts = np.append(0, ends[:-1])
        found |= (ends > rank * batch_size) & (starts < (rank + 1) * batch_size) & (starts < ends)
    return np.flatnonzero(found)
