"""Weights of a run -> when each draw of each domain comes: drawn by the sampler, then expected.

The sampler draws the first rows of the run. After those every domain is taken to be drawn at its
rate, from the counts that were drawn: its n-th draw then comes at the mean of its row. A domain
that reaches its max_epochs leaves its rate to the others; where none is left the run ends.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.mixing.exhaustion import EpochLimits
from mixstream.mixing.order import RowOrder
from mixstream.mixing.sampler import MixSampler

__all__ = ["Demand", "Stretch"]

_ROWS_AT_ONCE = 1 << 19
_MAX_PLANNED = 8
"""Planned changes that a forecast looks at, as that of `mixstream.loader.coming` does."""


Rates: TypeAlias = Sequence[tuple[int, Vector]]
"""From which row on, (G,) draws of each group a row of the run: now, and after planned changes."""


class Stretch(Protocol):
    """Consecutive rows of the run; G groups, as RowOrder numbers them."""

    first_row: int
    end_row: int
    before: Vector
    """(G,) float64, draws of each group before the first row."""
    after: Vector
    """(G,) float64, draws before the end."""
    rates: Rates
    """By the weights of the first row, and of planned changes."""

    def row_of(self, group: int, ordinal: int) -> float:
        """The row with a group's draw, `before <= ordinal < after`."""

    def count_at(self, group: int, row: float) -> float:
        """Draws of a group before a row."""


class DrawnStretch:
    """Rows that the sampler has drawn."""

    def __init__(self, first_row: int, before: Vector, group: Counts, rates: Rates) -> None:
        self.first_row, self.end_row = first_row, first_row + len(group)
        self.before, self.rates = before, rates
        self._rows = np.argsort(group, kind="stable")
        self._ends = np.cumsum(np.bincount(group, minlength=len(before)))
        self.after: Vector = before + np.diff(self._ends, prepend=0)

    def row_of(self, group: int, ordinal: int) -> float:
        """As the protocol says: the very row."""
        place = self._start(group) + ordinal - int(self.before[group])
        return float(self.first_row + self._rows[place])

    def count_at(self, group: int, row: float) -> float:
        """As the protocol says."""
        rows = self._rows[self._start(group) : int(self._ends[group])]
        return float(self.before[group] + np.searchsorted(rows, row - self.first_row))

    def _start(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0


class ExpectedStretch:
    """Rows under one vector of weights.

    Args:
        first_row: of the run.
        end_row: the one after the last.
        before: (G,) draws before the first row.
        after: (G,) draws before the end.
        rates: by the weights, as they are before exhausted domains are left out.
    """

    def __init__(
        self, first_row: int, end_row: int, before: Vector, after: Vector, rates: Rates
    ) -> None:
        self.first_row, self.end_row = first_row, end_row
        self.before, self.after, self.rates = before, after, rates
        self._a_row = (after - before) / (end_row - first_row)

    def row_of(self, group: int, ordinal: int) -> float:
        """As the protocol says: the mean row, or the last one of the stretch if that is later."""
        wait = (ordinal + 1 - self.before[group]) / self._a_row[group] - 1
        return float(min(max(self.first_row + wait, self.first_row), self.end_row - 1))

    def count_at(self, group: int, row: float) -> float:
        """As the protocol says, on average."""
        return float(self.before[group] + self._a_row[group] * (row - self.first_row))


class Demand:
    """The draws of a run, stretch by stretch.

    Args:
        sampler: at row 0, with all changes of its weights planned.
        order: of the same layout and settings.
        num_rows: of the run.
        drawn_rows: rows that are drawn one by one.
        rows_per_step: no step lies in two drawn stretches.
    """

    def __init__(
        self,
        sampler: MixSampler,
        order: RowOrder,
        *,
        num_rows: int,
        drawn_rows: int,
        rows_per_step: int,
    ) -> None:
        self._sampler, self._order, self._num_rows = sampler, order, num_rows
        self._rows_per_step = rows_per_step
        self._drawn_rows = min(-(-drawn_rows // rows_per_step) * rows_per_step, num_rows)
        self.end_row = num_rows
        """Rows of the run; less when all stretches are told and all domains were exhausted."""
        self._stretch_rows = max(_ROWS_AT_ONCE // rows_per_step, 1) * rows_per_step
        changes = [(0, sampler.weights), *((c.at_row, c.weights) for c in sampler.planned)]
        self._weights = [weights for _, weights in changes]
        self._rates = [(row, self._groups_drawn(weights)) for row, weights in changes]
        self._limits = EpochLimits(
            sampler.settings.max_epochs or {},
            sampler.settings.on_exhausted,
            sampler.domains,
            order.slices.num_rows,
        )

    @property
    def num_draws(self) -> Counts:
        """(C, K) int64, after how many draws a domain is exhausted."""
        return self._limits.num_draws

    @property
    def num_drawn(self) -> int:
        """Rows that are drawn one by one."""
        return min(self._drawn_rows, self.end_row)

    def stretches(self) -> Iterator[Stretch]:
        """All rows of the run; each stretch is asked for when the one before is done with."""
        before: Vector = np.zeros(self._order.slices.num_rows.size)
        while (first := self._sampler.row) < self._drawn_rows:
            wanted = min(self._stretch_rows, self._drawn_rows - first)
            draw = self._sampler.draw(wanted)
            group = self._order.groups(draw.domain, draw.node)
            if len(group) < wanted:  # batches that are not full are not delivered
                self._end(first + len(group))
                group = group[: self.end_row - first]
            if len(group) > 0:
                yield (drawn := DrawnStretch(first, before, group, self._rates_from(first)))
                before = drawn.after
            if len(group) < wanted:
                return
        first = self._drawn_rows
        while first < self._num_rows:
            a_row = self._drawn_a_row(first, before)
            if a_row is None:
                self._end(first)
                return
            rates, limits = self._rates_from(first), self.num_draws.ravel()
            end = min(rates[1][0] if len(rates) > 1 else self._num_rows, self._num_rows)
            left = (limits - before)[a_row > 0] / a_row[a_row > 0]
            end = min(end, first + max(math.ceil(left.min()), 1))
            after = np.minimum(before + a_row * (end - first), limits)
            yield ExpectedStretch(first, end, before, after, rates)
            before, first = after, end

    def _end(self, row: int) -> None:
        """All domains are exhausted before this row."""
        self.end_row = row // self._rows_per_step * self._rows_per_step

    def _drawn_a_row(self, row: int, counts: Vector) -> Vector | None:
        """(G,) draws of each group a row, without exhausted domains; None if none is left."""
        masked = self._limits.masked(counts.astype(np.int64).reshape(self.num_draws.shape))
        weights = np.where(masked, 0.0, self._weights[self._number_at(row)])
        return self._groups_drawn(weights / weights.sum()) if weights.any() else None

    def _number_at(self, row: int) -> int:
        """Of the weights in force at a row."""
        return bisect.bisect_right(self._rates, row, key=lambda change: change[0]) - 1

    def _rates_from(self, row: int) -> Rates:
        """Those in force at a row, and the next ones."""
        now = self._number_at(row)
        return self._rates[now : now + 1 + _MAX_PLANNED]

    def _groups_drawn(self, weights: Vector) -> Vector:
        """(G,) draws of each group a row of the run: (K,) weights shared by the canonical nodes."""
        num_nodes, num_domains = self._order.slices.num_rows.shape
        domain = np.tile(np.arange(num_domains), num_nodes)
        groups = self._order.groups(domain, np.repeat(np.arange(num_nodes), num_domains))
        rates = np.bincount(groups, weights=weights[domain] / num_nodes, minlength=groups.size)
        return np.asarray(rates, dtype=np.float64)
