"""PiKE: norm and variance of each domain's gradient -> sampling weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    Mask,
    checked_number,
    checked_present,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.simplex import exponentiated_gradient, log_weights
from mixstream.arrays import Vector


def pike_update(
    logits: Vector,
    squared_norms: Vector,
    variances: Vector,
    *,
    zeta1: float,
    zeta2: float,
    batch_size: int,
    present: Mask | None = None,
) -> Vector:
    """One step: w_i ~ w_i exp(zeta1 ||g_i||^2 - zeta2 sigma_i^2 / (2 b)).

    Domains with a large gradient promise progress; a noisy gradient takes it back, the more the
    smaller the batch.

    Args:
        logits: (K,) float64, log-weights.
        squared_norms: (K,) float64, ||E g_i||^2 of each domain's mean gradient.
        variances: (K,) float64, sigma_i^2 = E ||g_i - E g_i||^2 of one row's gradient.
        zeta1: factor on the norms.
        zeta2: factor on the variances.
        batch_size: b, rows a step.
        present: (K,) bool; absent domains keep their weights.

    Returns:
        (K,) float64, log-weights whose exp sums to 1.

    Worked example: weights [1/2, 1/2], norms [log 3, 0], variances 0, zeta1 1: [3/4, 1/4].

    Source: Li et al. 2025, arXiv:2502.06244, Algorithm 1.
    """
    gain = zeta1 * squared_norms - zeta2 * variances / (2 * batch_size)
    return exponentiated_gradient(logits, gain, step_size=1.0, present=present)


class PiKE:
    """Sampling weights by size and noise of the gradients; for domains that do not conflict.

    Signals: (K,) squared norms of the mean gradients and (K,) variances of a row's gradient.
    Cost a step: none between updates; an update costs the loop a few micro-batches a domain, as the
    variance needs at least two.
    Absent domain: keeps its weight.
    Weight 0: absorbing; kept in logarithms, so that no positive weight becomes 0.
    NaN or infinity: WeightsError, and the weights stay.
    K = 1: [1.0]. K = 10,000: under 0.1 ms an update; measuring is what will not do.

    Deviation: log space and absent domains. The paper's text was not opened here and no code is
    public; zeta1 and zeta2 have no default, as they are in the inverse unit of squared gradients.

    Source: Li et al. 2025, arXiv:2502.06244, Algorithm 1.
    """

    def __init__(
        self,
        weights: ArrayLike,
        *,
        zeta1: float,
        zeta2: float,
        batch_size: int,
        domains: Sequence[str] = (),
    ):
        """Start from given weights.

        Args:
            weights: (K,) initial weights.
            zeta1: factor on the squared norms, >= 0.
            zeta2: factor on the variances, >= 0.
            batch_size: b, rows a step over all ranks.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting or weight is out of range.
        """
        self.zeta1 = checked_number(zeta1, "zeta1", 0.0)
        self.zeta2 = checked_number(zeta2, "zeta2", 0.0)
        self.batch_size = int(checked_number(batch_size, "batch_size", 1))
        self._domains = tuple(domains)
        self._logits = log_weights(checked_weights(weights, domains=self._domains))

    @property
    def weights(self) -> Vector:
        """(K,) float64, what to sample by."""
        return np.asarray(np.exp(self._logits), dtype=np.float64)

    def update(
        self,
        squared_norms: ArrayLike,
        variances: ArrayLike,
        /,
        *,
        present: ArrayLike | None = None,
    ) -> Vector:
        """New weights from one measurement.

        Args:
            squared_norms: (K,) squared norm of each domain's mean gradient.
            variances: (K,) variance of a row's gradient.
            present: (K,) bool, the domains that were measured; None means all.

        Returns:
            (K,) float64.

        Raises:
            WeightsError: NaN, infinite, or the wrong shape; the weights stay then.
        """
        shape = (len(self._logits),)
        seen = checked_present(present, shape[0])
        norms = checked_signal(
            squared_norms, shape, source="squared_norms", domains=self._domains, present=seen
        )
        noise = checked_signal(
            variances, shape, source="variances", domains=self._domains, present=seen
        )
        self._logits = pike_update(
            self._logits,
            norms,
            noise,
            zeta1=self.zeta1,
            zeta2=self.zeta2,
            batch_size=self.batch_size,
            present=seen,
        )
        return self.weights

    def state_dict(self) -> State:
        """JSON-able state: the log-weights."""
        return packed_state("pike", len(self._logits), {"logits": self._logits})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "pike", len(self._logits))
        self._logits = reader.log_weights("logits", len(self._logits))
