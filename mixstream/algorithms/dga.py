"""DGA: inner products of the domains' gradients with a target's gradient -> sampling weights.

Every T_r steps the loop measures a_i = <g_i, g_target>: how far a small step on domain i lowers
the target's loss. Weights move by mirror descent, w_i <- w_i exp(eta a_i) / Z, and one samples by
their exponential moving average, which `update` returns: hand it to `loader.set_weights`.

With thousands of domains one gradient each is too dear. Then a basis: N histograms over the K
domains (say, the cluster histograms of N small target sets, see `importance.py`), of which the
weights are a mixture. The loop measures N gradients, on batches drawn by each histogram.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    Mask,
    as_float64,
    checked_number,
    checked_present,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.simplex import exponentiated_gradient, log_weights, normalized
from mixstream.arrays import Vector
from mixstream.errors import WeightsError


def gradient_alignment(domain_gradients: Vector, target_gradient: Vector) -> Vector:
    """Inner product of each domain's gradient with the target's: (K, D), (D,) -> (K,) float64.

    In a training loop `feedback` measures this without holding K gradients.

    Worked example: gradients [[1, 0], [1, 2]], target [3, -1]: [3, 1].

    Source: Fan, Grangier, Ablin 2024, arXiv:2410.02498, Algorithm 1.
    """
    domain = np.asarray(domain_gradients, dtype=np.float64)
    return np.asarray(domain @ np.asarray(target_gradient, np.float64), dtype=np.float64)


def dga_update(
    logits: Vector, alignment: Vector, *, step_size: float, present: Mask | None = None
) -> Vector:
    """One mirror-descent step on the target's loss: log w_i <- log w_i + eta a_i - log Z.

    Args:
        logits: (K,) float64, log-weights; -inf is a weight of 0 and stays.
        alignment: (K,) float64, a_i = <g_i, g_target>, nats squared per squared parameter unit.
        step_size: eta.
        present: (K,) bool; absent domains keep their weights.

    Returns:
        (K,) float64, log-weights whose exp sums to 1.

    Worked example: weights [1/2, 1/2], alignment [log 3, 0], eta 1: weights [3/4, 1/4].

    Source: Fan, Grangier, Ablin 2024, arXiv:2410.02498, Algorithm 1; as logarithms, because as
    plain products a weight underflows to 0 and never comes back.
    """
    return exponentiated_gradient(logits, alignment, step_size=step_size, present=present)


class DGA:
    """Sampling weights that follow the gradient of a target set.

    Signal: (K,) inner products <g_i, g_target>, or (N,) with a basis; each gradient is of a mean
    loss in nats per token on a small batch at the current parameters. Not cosines: eta is in the
    inverse unit, so it depends on the model's size.
    Cost a step: one update every `update_every` steps costs the loop K + 1 small backward passes
    (N + 1 with a basis): with batches of the training's size, (K + 1) / update_every of a step.
    Absent domain (no gradient this time): keeps its weight; the present ones share the rest.
    Weight 0: absorbing, by the formula. A weight of e^-1000 is not 0 and comes back, as the state
    is kept in logarithms.
    NaN or infinity: WeightsError, and weights and average stay. Measure the gradients with AMP
    unscaled.
    K = 1: weights [1.0]. K = 10,000: under 0.1 ms an update; measuring is what needs the basis.

    No public code exists and the paper's text could not be opened here: its values of eta, beta
    and T_r are not known to us, so all three are required. As our own starting point: beta 0.1,
    T_r 100, and eta so that eta times the spread of the alignments is about 0.1.
    `mirror_weights` are alpha of the paper, `weights` its average.

    Deviations: log space; absent domains; both ours.

    Source: Fan, Grangier, Ablin 2024, arXiv:2410.02498, Algorithm 1 and its distribution
    reweighting; the rule as restated by two independent derivations.
    """

    def __init__(
        self,
        weights: ArrayLike,
        *,
        step_size: float,
        ema: float,
        update_every: int,
        basis: ArrayLike | None = None,
        domains: Sequence[str] = (),
    ):
        """Start from given weights.

        Args:
            weights: (K,) initial weights; (N,) over the histograms with a basis.
            step_size: eta.
            ema: beta in (0, 1], the share of the new weights in the average; 1 is no average.
            update_every: T_r, steps between updates; `due` tells which.
            basis: (N, K) histograms over the domains, each of which sums to 1 (they are divided by
                their sums); None gives each domain a weight of its own.
            domains: (K,) names, for error messages (without a basis).

        Raises:
            WeightsError: a setting, a weight or the basis is out of range.
        """
        self.step_size = checked_number(step_size, "step_size", 0.0)
        self.ema = checked_number(ema, "ema", 0.0, 1.0, open_low=True)
        self.update_every = int(checked_number(update_every, "update_every", 1))
        self._domains = tuple(domains) if basis is None else ()
        start = checked_weights(weights, domains=self._domains)
        self._basis = None if basis is None else _checked_basis(basis, len(start))
        self._logits = log_weights(start)
        self._average = start

    def due(self, step: int) -> bool:
        """Whether the gradients should be measured at this step: each `update_every`-th one."""
        return step % self.update_every == 0

    @property
    def weights(self) -> Vector:
        """(K,) float64, what to sample by: the moving average, through the basis if any."""
        if self._basis is None:
            return self._average.copy()
        return normalized(self._average @ self._basis)

    @property
    def mirror_weights(self) -> Vector:
        """(K,) float64, or (N,) with a basis: alpha, before the average."""
        return normalized(np.exp(self._logits))

    def update(self, alignment: ArrayLike, /, *, present: ArrayLike | None = None) -> Vector:
        """Move the weights along one measurement.

        Args:
            alignment: (K,) inner products with the target's gradient; (N,) with a basis.
            present: same shape, bool: what was measured; None means all.

        Returns:
            (K,) float64, the weights to sample by.

        Raises:
            WeightsError: NaN, infinite, or the wrong shape; nothing has changed then.
        """
        size = len(self._logits)
        seen = checked_present(present, size)
        signal = checked_signal(
            alignment, (size,), source="alignment", domains=self._domains, present=seen
        )
        logits = dga_update(self._logits, signal, step_size=self.step_size, present=seen)
        self._average = (1 - self.ema) * self._average + self.ema * np.exp(logits)
        self._logits = logits
        return self.weights

    def state_dict(self) -> State:
        """JSON-able state: log-weights and their average; the basis is a setting."""
        fields: dict[str, ArrayLike | None] = {"logits": self._logits, "average": self._average}
        return packed_state("dga", len(self._logits), fields)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        size = len(self._logits)
        reader = StateReader(state, "dga", size)
        logits = reader.log_weights("logits", size)
        self._average = reader.weights("average", size)
        self._logits = logits


def _checked_basis(basis: ArrayLike, num_histograms: int) -> Vector:
    """(N, K) float64, rows on the simplex."""
    rows = as_float64(basis, "basis")
    if rows.ndim != 2 or len(rows) != num_histograms:
        raise WeightsError(
            f"basis has shape {rows.shape}; give ({num_histograms}, K), one histogram a weight."
        )
    return np.stack(
        [checked_weights(row, source=f"histogram {n} of the basis") for n, row in enumerate(rows)]
    )
