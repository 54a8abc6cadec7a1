"""Rows of a run <-> simulated seconds; and how soon the groups of a node are drawn so often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.loader.coming import rows_until
from mixstream.planning.demand import Stretch

__all__ = ["Forecast", "Pace"]


@dataclass(slots=True)
class Pace:
    """Of a run that takes so long a step, and now and then waits."""

    rows_per_second: float
    """While it does not wait."""
    offset_seconds: float = 0.0
    """When row 0 would have been drawn, had all waits so far come before it."""
    last_row: float = 0.0
    """Of the step that is read: time goes on beyond it, and rows do not."""

    def row_at(self, seconds: float) -> float:
        """The row that is drawn then, if nothing more is waited for."""
        return min((seconds - self.offset_seconds) * self.rows_per_second, self.last_row)

    def seconds_at(self, row: float) -> float:
        """When a row is drawn, if nothing more is waited for."""
        return self.offset_seconds + row / self.rows_per_second


class Forecast:
    """Of the g groups that one node reads, from within one stretch of rows.

    Args:
        stretch: of rows.
        groups: (g,) of the node.
    """

    def __init__(self, stretch: Stretch, groups: Counts) -> None:
        self._stretch, self._groups = stretch, groups
        self._before = stretch.before[groups]
        self._a_row = (stretch.after[groups] - self._before) / (stretch.end_row - stretch.first_row)
        self._starts = np.array([row for row, _ in stretch.rates], np.float64)
        self._rates: Sequence[Vector] = [rates[groups] for _, rates in stretch.rates]

    def counts(self, row: float) -> Vector:
        """(g,) draws of each group before a row of the stretch, on average."""
        return np.asarray(self._before + self._a_row * (row - self._stretch.first_row))

    def count(self, place: int, row: float) -> float:
        """Draws of one group before a row of the stretch."""
        inside = min(max(row, self._stretch.first_row), self._stretch.end_row)
        return self._stretch.count_at(int(self._groups[place]), inside)

    def rows_to(self, places: Counts, ordinals: Vector, row: float) -> Vector:
        """(n,) rows from now until groups come to a draw; infinity where they never will."""
        draws = np.maximum(ordinals + 1 - self.counts(row)[places], 0.0)
        starts = np.maximum(self._starts - row, 0.0)
        return rows_until(draws, [rates[places] for rates in self._rates], starts)
