"""Data Mixing Laws: losses of small runs on a few mixtures -> the best mixture.

`mixing_law_fit.py` fits a law for each validation domain; their weighted sum is convex in the
weights, so that its minimum is exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    as_float64,
    checked_number,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.convex import capped_minimum
from mixstream.algorithms.mixing_law_fit import MixingLaws, fit_mixing_laws
from mixstream.algorithms.simplex import uniform_weights
from mixstream.arrays import Vector
from mixstream.errors import WeightsError


def best_mixture(laws: MixingLaws, importance: Vector, caps: Vector) -> Vector:
    """The mixture of the least predicted total loss, sum_m importance_m L_m(r), under caps.

    Args:
        laws: M laws over K domains.
        importance: (M,) float64, share of each validation domain in the total.
        caps: (K,) float64, `simplex.epoch_caps`, or 1 / inf for none.

    Returns:
        (K,) float64.

    Worked example: one law, slope [0, log 2]: everything on the first domain, [1, 0].

    Source: Ye et al. 2024, arXiv:2403.16952, which takes the best of a grid; here exact, as the
    total is convex.
    """
    num_domains = laws.slope.shape[1]

    def total(x: Vector) -> tuple[float, Vector]:
        terms = importance * np.exp(laws.slope @ x)
        return float(terms.sum()), np.asarray(terms @ laws.slope, dtype=np.float64)

    return capped_minimum(total, uniform_weights(num_domains), caps)


class DataMixingLaws:
    """The best mixture for losses of runs on other mixtures.

    Signal: (P, M) losses of P runs on M validation domains, nats per token.
    Cost a step: none; asked once. Before: P >= K + 1 short runs, one a mixture.
    Absent domain: one that no run held has no law; give it a cap of 0. Weight 0: reached where a
    domain does not pay; neither absorbing nor floored.
    NaN: WeightsError, and the weights stay. A fit that explains too little shows in
    `laws.degenerate`.
    K = 1: [1.0]. K = 10,000: no, P exceeds K.

    Deviations: fit and search are exact and in float64, see `fit_mixing_laws`, `best_mixture`. The
    nested laws over steps and model size are not here.

    Source: Ye et al. 2024, arXiv:2403.16952; github.com/yegcjs/mixinglaws at 8ad3e12.
    """

    def __init__(
        self,
        mixtures: ArrayLike,
        *,
        importance: ArrayLike | None = None,
        caps: ArrayLike | None = None,
        huber_delta: float = 0.02,
    ):
        """Uniform weights until the runs are done.

        Args:
            mixtures: (P, K), the weights of the runs.
            importance: (M,) share of each validation domain in the total; None counts all alike.
            caps: (K,) from `simplex.epoch_caps`; None for none.
            huber_delta: of the fit, nats.

        Raises:
            WeightsError: a setting is out of range or shapes do not fit.
        """
        runs = as_float64(mixtures, "mixtures")
        if runs.ndim != 2:
            raise WeightsError(f"mixtures have shape {runs.shape}; give (P, K), one row a run.")
        self._runs = checked_signal(mixtures, runs.shape, source="mixtures")
        self.huber_delta = checked_number(huber_delta, "huber_delta", 0.0, open_low=True)
        self._importance = None
        if importance is not None:
            self._importance = checked_weights(importance, source="importance")
        num_domains = runs.shape[1]
        self._caps = np.full(num_domains, np.inf)
        if caps is not None:
            self._caps = np.broadcast_to(as_float64(caps, "caps"), (num_domains,))
        self._weights = uniform_weights(num_domains)
        self._laws: MixingLaws | None = None

    @property
    def weights(self) -> Vector:
        """(K,) float64, the best mixture of the last fit."""
        return self._weights.copy()

    @property
    def laws(self) -> MixingLaws | None:
        """The laws of the last fit; None before it, and after a state was loaded."""
        return self._laws

    def update(self, losses: ArrayLike, /) -> Vector:
        """The best mixture by the laws of these losses.

        Args:
            losses: (P, M), one row a run, one column a validation domain; (P,) for one.

        Returns:
            (K,) float64, nowhere above the caps.

        Raises:
            WeightsError: NaN, the wrong shape, too few runs, or infeasible caps; the weights stay.
        """
        laws = fit_mixing_laws(self._runs, losses, huber_delta=self.huber_delta)
        num_targets = len(laws.floor)
        importance = self._importance
        if importance is None:
            importance = uniform_weights(num_targets)
        if len(importance) != num_targets:
            raise WeightsError(
                f"importance holds {len(importance)} numbers for {num_targets} validation domains."
            )
        self._weights = best_mixture(laws, importance, self._caps)
        self._laws = laws
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("mixing_laws", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "mixing_laws", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
        self._laws = None
