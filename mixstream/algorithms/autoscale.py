"""AutoScale: optimal counts of each domain at two budgets -> counts and weights at any budget.

`ddo.py` finds the optimal counts at a budget that one can afford; do so at two. The optimum of a
domain is then affine in log space, N_i(s) = N1_i (N2_i / N1_i)^s, and s is solved for so that the
counts fill the target budget.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import as_float64, checked_number, checked_signal, domain_label
from mixstream.algorithms.simplex import normalized
from mixstream.arrays import Vector
from mixstream.errors import WeightsError


class AutoScaleWarning(UserWarning):
    """A domain sat at its bound at one of the two scales: its law is that of the bound."""


def autoscale_counts(first: Vector, second: Vector, exponent: float) -> Vector:
    """The optimal counts on the line through two optima: N1_i (N2_i / N1_i)^s.

    Args:
        first: (K,) float64, optimal counts N1 at the smaller budget.
        second: (K,) float64, optimal counts N2 at the larger; 0 exactly where N1 is.
        exponent: s; 0 gives N1, 1 gives N2, 2 gives N2 (N2 / N1), the paper's next step.

    Returns:
        (K,) float64.

    Worked example: N1 [1, 1], N2 [2, 8], s = 2: [4, 64].

    Source: Kang et al. 2024, arXiv:2407.20177, theorem on scaling of the optimal composition.
    """
    return np.asarray(np.exp(_log_counts(first, second, exponent)), dtype=np.float64)


def _log_counts(first: Vector, second: Vector, exponent: float) -> Vector:
    with np.errstate(divide="ignore"):
        start = np.log(first)
        slope = np.log(second) - np.where(first > 0, start, 0.0)
    return np.where(first > 0, start + exponent * np.where(first > 0, slope, 0.0), -np.inf)


def autoscale_exponent(first: Vector, second: Vector, budget: float) -> float:
    """The s at which the counts of `autoscale_counts` sum to the budget.

    The sum is convex in s. Where a domain shrinks with scale it has a minimum, and s is taken on
    the rising branch, to the right of it.

    Args:
        first: (K,) float64, N1.
        second: (K,) float64, N2; sums to more than N1.
        budget: the target, in the unit of the counts.

    Returns:
        s, negative below the first budget.

    Worked example: N1 [1, 1], N2 [2, 8], budget 68 = 4 + 64: 2.

    Raises:
        WeightsError: the budget lies below the least that the line ever sums to.
    """

    def log_sum(s: float) -> float:
        logs = _log_counts(first, second, s)
        top = float(logs.max())
        return top + float(np.log(np.exp(logs - top).sum()))

    def rising(s: float) -> bool:
        logs = _log_counts(first, second, s)
        used = first > 0
        growth = np.log(second[used]) - np.log(first[used])
        return float((np.exp(logs[used] - logs.max()) * growth).sum()) > 0

    target = float(np.log(budget))
    low, high = 0.0, 1.0
    while log_sum(high) < target:
        high *= 2
    while log_sum(low) > target and rising(low) and low > -1e6:
        low = low * 2 - 1
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        below = not rising(middle) or log_sum(middle) < target
        low, high = (middle, high) if below else (low, middle)
    if abs(log_sum(high) - target) > 1e-6:
        raise WeightsError(
            f"budget {budget:.6g} is out of reach: along the law of these two scales the counts "
            f"never sum to less than {np.exp(log_sum(high)):.6g}. Ask for a larger budget."
        )
    return high


class AutoScale:
    """Weights of a run of any budget from the optimal counts at two smaller ones.

    Signal: the budget of the run, one number in the unit of the counts (tokens, rows).
    Cost a step: none; it is asked once before a run, and costs a few hundred passes over K. What
    the loop supplies: 2 (2 K + 1) short runs for `ddo.fit_power_laws`, at two budgets.
    Absent domain: none is absent; a domain that is 0 at both scales stays 0 at all.
    Weight 0: 0 at one scale alone has no law and is refused.
    NaN or a budget out of reach: WeightsError, and the weights stay.
    K = 1: weights [1.0]. K = 10,000: 7 ms.

    A domain that sat at its bound at one scale follows the line of the bound, not of its optimum;
    give the bounds and an AutoScaleWarning names it. (In the published example github is at its
    lower bound at both scales and keeps that bound's share; arxiv is at it at the larger, and
    shrinks to 0.07 % at 412 B tokens for that reason alone.)

    Deviations: the notebook steps by whole powers and stops near the budget (5.0005 B for 5 B);
    here s is solved for and the counts sum to the budget. That the law holds with offsets
    a_i > 0 in the loss is an approximation of the paper's own; it is exact for a = 0.

    Source: Kang et al. 2024, arXiv:2407.20177; github.com/feiyang-k/AutoScale at f3cae22,
    AutoScale_example.ipynb. The paper's proof was not read.
    """

    def __init__(
        self,
        first: ArrayLike,
        second: ArrayLike,
        *,
        first_lower: ArrayLike | None = None,
        second_lower: ArrayLike | None = None,
        domains: Sequence[str] = (),
    ):
        """Take two optima; the weights are those at the second until `update`.

        Args:
            first: (K,) optimal counts at the smaller budget.
            second: (K,) optimal counts at the larger budget.
            first_lower: lower bounds of the first optimisation, one number or (K,), if there were.
            second_lower: those of the second.
            domains: (K,) names, for warnings and error messages.

        Raises:
            WeightsError: a count is negative, NaN, or 0 at one scale alone, or the second budget is
                not larger.
        """
        self._domains = tuple(domains)
        shape = as_float64(first, "first").shape
        self._first = checked_signal(first, shape, source="first", domains=self._domains)
        self._second = checked_signal(second, shape, source="second", domains=self._domains)
        self._check_counts()
        for counts, lower, name in (
            (self._first, first_lower, "first"),
            (self._second, second_lower, "second"),
        ):
            if lower is not None:
                self._warn_at_bound(counts, as_float64(lower, f"{name}_lower"), name)
        self._weights = normalized(self._second)

    def _check_counts(self) -> None:
        both = np.stack((self._first, self._second))
        if both.ndim != 2 or both.shape[1] == 0 or (both < 0).any() or not both.any():
            raise WeightsError(
                f"counts have shape {both.shape[1:]} or are negative; give (K,) >= 0."
            )
        odd = np.flatnonzero((self._first > 0) != (self._second > 0))
        if odd.size:
            raise WeightsError(
                f"{domain_label(int(odd[0]), self._domains)} is 0 at one scale alone, so it has no "
                f"law; give DDO a positive lower bound, or leave the domain out."
            )
        if not self._second.sum() > self._first.sum():
            raise WeightsError(
                f"the second budget {self._second.sum():.6g} is not above the first "
                f"{self._first.sum():.6g}; give the smaller scale first."
            )

    def _warn_at_bound(self, counts: Vector, lower: Vector, name: str) -> None:
        bound = np.broadcast_to(lower, counts.shape)
        stuck = np.flatnonzero((bound > 0) & (counts <= bound * (1 + 1e-6)))
        if stuck.size:
            labels = ", ".join(domain_label(int(i), self._domains) for i in stuck)
            warnings.warn(
                f"at its lower bound at the {name} scale: {labels}; what the law says of it at "
                f"other scales follows the bound, not an optimum.",
                AutoScaleWarning,
                stacklevel=3,
            )

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights at the last budget asked for."""
        return self._weights.copy()

    def counts(self, budget: float) -> Vector:
        """(K,) float64, optimal counts at this budget; they sum to it."""
        target = checked_number(budget, "budget", 0.0, open_low=True)
        exponent = autoscale_exponent(self._first, self._second, target)
        return autoscale_counts(self._first, self._second, exponent)

    def update(self, budget: float, /) -> Vector:
        """(K,) float64, the weights of a run of this budget.

        Args:
            budget: what the run draws, in the unit of the counts.

        Raises:
            WeightsError: NaN, not positive, or below what the law can reach.
        """
        self._weights = normalized(self.counts(budget))
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights; the two optima are settings."""
        return packed_state("autoscale", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "autoscale", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
