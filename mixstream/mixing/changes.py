"""Weight changes in the order of their rows -> the weights in force at any row."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict

import numpy as np

from mixstream.arrays import Vector
from mixstream.errors import StepError
from mixstream.mixing.weights import WeightChange

__all__ = ["PlannedChange", "WeightLog"]


class _Change(TypedDict):
    at_row: int
    weights: list[float]
    reason: str


class PlannedChange(_Change, total=False):
    """A change that is decided and not reached, as JSON holds it."""

    among: list[str]


class WeightLog:
    """The changes that are decided, from the first weights on.

    Args:
        row: where the first weights hold from.
        weights: (K,) float64, sum 1.
        among: see WeightChange.
    """

    def __init__(self, row: int, weights: Vector, among: tuple[str, ...] | None = None) -> None:
        self._changes = [WeightChange(at_row=row, weights=weights, among=among)]

    def add(self, change: WeightChange) -> None:
        """Takes a change; it replaces one for the same row."""
        index = self._after(change.at_row)
        replaces = index > 0 and self._changes[index - 1].at_row == change.at_row
        self._changes[index - replaces : index] = [change]

    def at(self, row: int) -> Vector:
        """(K,) float64, the weights of a row; the log's own array.

        Raises:
            StepError: the row is forgotten.
        """
        return self.change_at(row).weights

    def change_at(self, row: int) -> WeightChange:
        """The change that the weights of a row came with; the log's own.

        Raises:
            StepError: the row is forgotten.
        """
        index = self._after(row)
        if index == 0:
            raise StepError(
                f"the weights of row {row} are not known any more, those from row "
                f"{self._changes[0].at_row} on are. Load a state from before it."
            )
        return self._changes[index - 1]

    def next_row(self, row: int) -> int | None:
        """The first row after `row` at which the weights change; None if they do not."""
        upcoming = self._after(row)
        return self._changes[upcoming].at_row if upcoming < len(self._changes) else None

    def planned(self, row: int) -> tuple[WeightChange, ...]:
        """The changes after a row, with weights that the caller may change."""
        changes = self._changes[self._after(row) :]
        return tuple(replace(change, weights=change.weights.copy()) for change in changes)

    def forget(self, row: int) -> None:
        """Drops what no row from `row` on needs."""
        if len(self._changes) > 1:
            del self._changes[: max(self._after(row) - 1, 0)]

    def state(self, row: int) -> list[PlannedChange]:
        """The changes after a row, as JSON holds them."""
        return [_as_json(change) for change in self.planned(row)]

    @classmethod
    def of_state(
        cls,
        row: int,
        weights: Vector,
        changes: list[PlannedChange],
        among: tuple[str, ...] | None = None,
    ) -> WeightLog:
        """The log with these weights at a row and these changes after it."""
        log = cls(row, weights, among)
        for change in changes:
            log.add(
                WeightChange(
                    at_row=change["at_row"],
                    weights=np.array(change["weights"]),
                    reason=change["reason"],
                    among=tuple(change["among"]) if "among" in change else None,
                )
            )
        return log

    def mapped(self, change: Callable[[WeightChange], WeightChange]) -> WeightLog:
        """The log with every change put through a function that keeps its row."""
        log = copy.copy(self)
        log._changes = [change(each) for each in self._changes]
        return log

    def _after(self, row: int) -> int:
        """Index of the first change after a row."""
        return bisect.bisect_right(self._changes, row, key=_at_row)


def _as_json(change: WeightChange) -> PlannedChange:
    found: PlannedChange = {
        "at_row": change.at_row,
        "weights": change.weights.tolist(),
        "reason": change.reason,
    }
    if change.among is not None:
        found["among"] = list(change.among)
    return found


def _at_row(change: WeightChange) -> int:
    return change.at_row
