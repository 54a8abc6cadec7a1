"""UniMax, temperature and size: rows of each domain -> weights that need no measurement.

These are the baselines of every experiment, with `simplex.uniform_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import checked_number, checked_signal, domain_label
from mixstream.algorithms.simplex import (
    capped_weights,
    epoch_caps,
    normalized,
    softmax,
    uniform_weights,
)
from mixstream.arrays import Vector
from mixstream.errors import WeightsError


def unimax_counts(sizes: Vector, budget: float, max_epochs: ArrayLike) -> Vector:
    """Rows of each domain: as even as the cap on epochs allows.

    Args:
        sizes: (K,) float64, rows (or tokens, or characters) that each domain holds.
        budget: what the run draws, in the same unit.
        max_epochs: N in the paper, one number or (K,).

    Returns:
        (K,) float64, min(N size_i, level); they sum to the budget, or, where even N epochs of all
        do not fill it, to N epochs of all.

    Worked example: sizes [1000, 50, 8, 300, 1], budget 400, 1 epoch: three small domains are used
    up, the others share what is left, [170.5, 50, 8, 170.5, 1].

    Source: Chung et al. 2023, arXiv:2304.09151, Algorithm 1. Its loop over the domains from small
    to large is the water-filling of `simplex.capped_weights` with equal shares.
    """
    caps = epoch_caps(sizes, budget, max_epochs)
    total = min(1.0, float(caps.sum()))
    if total == 0:
        return np.zeros_like(caps)
    return budget * capped_weights(np.ones(len(caps)), caps, total=total)


def unimax_weights(sizes: Vector, budget: float, max_epochs: ArrayLike) -> Vector:
    """The shares of `unimax_counts`: (K,) float64.

    Where the budget exceeds max_epochs of everything, all domains are at their cap, the shares are
    those of the sizes, and a run that draws the whole budget all the same exceeds the cap evenly.

    Raises:
        WeightsError: all domains are empty, or an argument is out of range.
    """
    counts = unimax_counts(sizes, budget, max_epochs)
    if not counts.any():
        raise WeightsError("all domains are empty; there is nothing to weigh.")
    return normalized(counts)


def temperature_weights(sizes: Vector, temperature: float) -> Vector:
    """Shares of the sizes to the power of 1 / temperature.

    Args:
        sizes: (K,) float64, rows of each domain, not all 0.
        temperature: tau > 0; 1 is in proportion to size, inf is uniform over non-empty domains.

    Returns:
        (K,) float64; 0 for an empty domain at any temperature.

    Worked example: sizes [16, 1], temperature 2: 4 : 1, [0.8, 0.2].

    Source: Devlin et al. 2018 (multilingual BERT), Arivazhagan et al. 2019, arXiv:1907.05019:
    q ~ p^(1/tau).
    """
    logs = np.log(np.where(sizes > 0, sizes, 1.0))
    return softmax(np.where(sizes > 0, logs / temperature, -np.inf))


def _checked_sizes(sizes: ArrayLike, num_domains: int, domains: Sequence[str]) -> Vector:
    """(K,) float64, sizes that are 0 or more, one at least positive."""
    rows = checked_signal(sizes, (num_domains,), source="sizes", domains=domains)
    bad = np.flatnonzero(rows < 0)
    if bad.size:
        raise WeightsError(f"sizes is {rows[bad[0]]} at {domain_label(int(bad[0]), domains)}.")
    if not rows.any():
        raise WeightsError("all domains are empty; there is nothing to weigh.")
    return rows


class UniMax:
    """Even weights under a cap on epochs, from the sizes of the domains.

    Signal: (K,) sizes, in rows or tokens, the unit of the budget.
    Cost a step: none; asked once. The loop supplies nothing.
    Absent (empty) domain: weight 0. Weight 0: neither absorbing nor floored.
    NaN, negative or all-zero sizes: WeightsError, and the weights stay.
    K = 1: [1.0]. K = 10,000: about 1 ms.

    Deviation: none in the rule; a budget above max_epochs of everything is documented at
    `unimax_weights`. The paper was not opened here; its Algorithm 1 is as in the oracle cases.

    Source: Chung et al. 2023, arXiv:2304.09151, Algorithm 1.
    """

    def __init__(
        self,
        num_domains: int,
        *,
        budget: float,
        max_epochs: float = 4.0,
        domains: Sequence[str] = (),
    ):
        """Uniform weights until the sizes are known.

        Args:
            num_domains: K.
            budget: what the run draws, in the unit of the sizes.
            max_epochs: N; 4 is our choice, after Muennighoff et al. 2023, arXiv:2305.16264.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting is out of range.
        """
        self.budget = checked_number(budget, "budget", 0.0, open_low=True)
        self.max_epochs = checked_number(max_epochs, "max_epochs", 0.0, open_low=True)
        self._domains = tuple(domains)
        self._weights = uniform_weights(num_domains)

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of the last sizes."""
        return self._weights.copy()

    def update(self, sizes: ArrayLike, /) -> Vector:
        """(K,) float64, the weights for domains of these sizes.

        Raises:
            WeightsError: NaN, negative, all zero or the wrong shape; the weights stay then.
        """
        rows = _checked_sizes(sizes, len(self._weights), self._domains)
        self._weights = unimax_weights(rows, self.budget, self.max_epochs)
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("unimax", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "unimax", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))


class TemperatureSampling:
    """Weights in proportion to size^(1 / temperature).

    Signal: (K,) sizes, any unit.
    Cost a step: none; asked once. Absent (empty) domain: weight 0, neither absorbing nor floored.
    NaN, negative or all-zero sizes: WeightsError, and the weights stay.
    K = 1: [1.0]. K = 10,000: under 0.1 ms.

    Source: Arivazhagan et al. 2019, arXiv:1907.05019.
    """

    def __init__(self, num_domains: int, *, temperature: float, domains: Sequence[str] = ()):
        """Uniform weights until the sizes are known.

        Args:
            num_domains: K.
            temperature: tau > 0.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting is out of range.
        """
        self.temperature = checked_number(temperature, "temperature", 0.0, open_low=True)
        self._domains = tuple(domains)
        self._weights = uniform_weights(num_domains)

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of the last sizes."""
        return self._weights.copy()

    def update(self, sizes: ArrayLike, /) -> Vector:
        """(K,) float64, the weights for domains of these sizes.

        Raises:
            WeightsError: NaN, negative, all zero or the wrong shape; the weights stay then.
        """
        rows = _checked_sizes(sizes, len(self._weights), self._domains)
        self._weights = temperature_weights(rows, self.temperature)
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("temperature", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "temperature", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
