"""Olmix: log-linear laws of many validation losses, a prior and caps -> the exact best mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    as_float64,
    checked_number,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.convex import capped_minimum
from mixstream.algorithms.simplex import capped_weights
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(M, K) float64, one row a validation loss, one column a domain."""


def olmix_objective(weights: Vector, slopes: Matrix, prior: Vector, kl_weight: float) -> float:
    """What `olmix_weights` minimises: mean_m exp(A_m . x) + kl_weight KL(x || prior).

    Worked example: slopes 0 and x the prior: 1.
    """
    used = weights > 0
    divergence = float((weights[used] * np.log(weights[used] / prior[used])).sum())
    return float(np.exp(slopes @ weights).mean()) + kl_weight * divergence


def olmix_weights(
    slopes: Matrix,
    prior: Vector,
    *,
    kl_weight: float = 0.05,
    caps: Vector | None = None,
    importance: Vector | None = None,
) -> Vector:
    """The mixture of the least mean predicted loss near a prior, under caps.

    min over x in the simplex, x <= caps: sum_m v_m exp(A_m . x) + kl_weight KL(x || prior).

    Args:
        slopes: (M, K) float64, A: from `mixing_law_fit.fit_mixing_laws` (its slope; the floors
            do not matter here).
        prior: (K,) float64, on the simplex; a domain at 0 stays at 0.
        kl_weight: how much a move away from the prior must pay; 0.05 is the code's default.
        caps: (K,) float64, from `simplex.epoch_caps`; the code's are 4 epochs. None for none.
        importance: (M,) float64, v on the simplex; None is 1 / M each.

    Returns:
        (K,) float64.

    Worked example: slopes 0: the prior, whatever the kl_weight.

    Source: github.com/allenai/olmix at 9586977, olmix/fit/utils.py, LogLinearExactProposer, solved
    here by mirror descent in place of cvxpy.

    Raises:
        WeightsError: the caps leave no room.
    """
    num_losses = len(slopes)
    shares = np.full(num_losses, 1 / num_losses) if importance is None else importance

    def total(x: Vector) -> tuple[float, Vector]:
        terms = shares * np.exp(slopes @ x)
        return float(terms.sum()), np.asarray(terms @ slopes, dtype=np.float64)

    limits = np.full(len(prior), np.inf) if caps is None else caps
    return capped_minimum(total, prior, limits, prior=prior, kl_weight=kl_weight)


class Olmix:
    """The best mixture near a prior under caps, for fitted log-linear laws.

    Signal: (M, K) slopes of M log-linear laws (`mixing_law_fit.fit_mixing_laws` fits them).
    Cost a step: none; asked once. Before: a swarm of short runs, some 3 to 5 a domain.
    Absent domain: prior 0 or cap 0. Weight 0: a domain of prior 0 stays out; else weights are
    positive, if tiny.
    NaN or infeasible caps: WeightsError, and the weights stay.
    K = 1: [1.0]. K = 10,000: 60 ms for ten laws, once their slopes are known.

    Deviation: none in the problem; the fit of the laws is `mixing_law_fit`'s (the code's starts are
    random). With `kl_weight=0` the prior is but the start.

    Source: allenai/olmix at 9586977, LogLinearExactProposer. The paper's text was not opened here.
    """

    def __init__(
        self,
        prior: ArrayLike,
        *,
        kl_weight: float = 0.05,
        caps: ArrayLike | None = None,
        domains: Sequence[str] = (),
    ):
        """Start from the prior, capped.

        Args:
            prior: (K,) natural weights, the domains' shares of all tokens.
            kl_weight: factor of the divergence.
            caps: (K,) from `simplex.epoch_caps`; None for none.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting is out of range or the caps leave no room.
        """
        self.kl_weight = checked_number(kl_weight, "kl_weight", 0.0)
        self._domains = tuple(domains)
        self._prior = checked_weights(prior, source="prior", domains=self._domains)
        self._caps = np.full(len(self._prior), np.inf)
        if caps is not None:
            self._caps = as_float64(caps, "caps")
        if self._caps.shape != self._prior.shape:
            raise WeightsError(
                f"caps have shape {self._caps.shape}; give one for each of the "
                f"{len(self._prior)} domains."
            )
        self._weights = capped_weights(self._prior, self._caps, domains=self._domains)

    @property
    def weights(self) -> Vector:
        """(K,) float64, the best mixture of the last slopes."""
        return self._weights.copy()

    def update(self, slopes: ArrayLike, /, *, importance: ArrayLike | None = None) -> Vector:
        """The best mixture for these laws.

        Args:
            slopes: (M, K); (K,) for one law.
            importance: (M,) share of each validation loss; None counts all alike.

        Returns:
            (K,) float64, nowhere above the caps.

        Raises:
            WeightsError: NaN or the wrong shape; the weights stay then.
        """
        matrix = np.atleast_2d(as_float64(slopes, "slopes"))
        shape = (len(self._prior), len(matrix))
        by_domain = checked_signal(matrix.T, shape, source="slopes", domains=self._domains)
        shares = None
        if importance is not None:
            shares = checked_weights(importance, source="importance")
            if len(shares) != len(matrix):
                raise WeightsError(
                    f"importance holds {len(shares)} numbers for {len(matrix)} validation losses."
                )
        self._weights = olmix_weights(
            by_domain.T,
            self._prior,
            kl_weight=self.kl_weight,
            caps=self._caps,
            importance=shares,
        )
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("olmix", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "olmix", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
