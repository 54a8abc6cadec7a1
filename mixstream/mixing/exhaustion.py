"""Epoch caps and what is drawn -> which domains are exhausted, and how many rows may be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts
from mixstream.errors import WeightsError
from mixstream.mixing.settings import OnExhausted

__all__ = ["EpochLimits"]


class EpochLimits:
    """How often each canonical node may draw each domain.

    Args:
        max_epochs: by name; a domain without one is never exhausted.
        on_exhausted: see MixSampler.
        domains: the K names.
        num_rows: (C, K) int64, rows of each slice.
        extra_rows: (C, K) int64, what the draws of an epoch were more than these rows, in all
            epochs before the corpus grew.
    """

    def __init__(
        self,
        max_epochs: Mapping[str, int],
        on_exhausted: OnExhausted,
        domains: Sequence[str],
        num_rows: Counts,
        extra_rows: Counts | int = 0,
    ) -> None:
        self._max_epochs, self._on_exhausted, self._domains = max_epochs, on_exhausted, domains
        epochs = np.array([max_epochs.get(name, 0) for name in domains], dtype=np.int64)
        unlimited = (epochs == 0) | (num_rows == 0)
        self.num_draws = np.where(unlimited, np.iinfo(np.int64).max, num_rows * epochs + extra_rows)
        """(C, K) int64, how often each node may draw each domain."""

    def exhausted(self, counts: Counts) -> NDArray[np.bool_]:
        """(K,) bool, domains that some node has drawn as often as it may; counts is (C, K)."""
        return np.asarray((counts >= self.num_draws).any(axis=0))

    def masked(self, counts: Counts) -> NDArray[np.bool_]:
        """(K,) bool, domains whose weight goes to the others."""
        exhausted = self.exhausted(counts)
        return exhausted if self._on_exhausted == "redistribute" else np.zeros_like(exhausted)

    def num_allowed(self, first_row: int, group: Counts, ordinal: Counts) -> int:
        """How many rows may be drawn before the weights have to change, or the run ends.

        Args:
            first_row: global number of the first row, for the message.
            group: (n,) int64, node * K + domain of each row.
            ordinal: (n,) int64, how often the group came before.

        Raises:
            WeightsError: a row of an exhausted domain under on_exhausted="raise".
        """
        left = self.num_draws.ravel()[group] - ordinal  # with this row, so 1 is the last one
        if self._on_exhausted == "redistribute":
            last = np.flatnonzero(left <= 1)
            return int(last[0]) + 1 if last.size else group.size
        over = np.flatnonzero(left <= 0)
        if over.size and self._on_exhausted == "raise":
            name = self._domains[group[over[0]] % len(self._domains)]
            raise WeightsError(
                f"domain {name!r} has reached its max_epochs of {self._max_epochs[name]} before "
                f"row {first_row + over[0]}; set its weight to 0 to go on."
            )
        return int(over[0]) if over.size else group.size
