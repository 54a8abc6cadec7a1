"""MixMin: how likely small models, one a domain, find target documents -> weights.

The mixture of the domains' models is a model of the mixture of the domains. So the weights under
which the models together predict the target best are found without training any mixture; the
problem is convex.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import as_float64, checked_signal
from mixstream.algorithms.convex import capped_minimum
from mixstream.algorithms.simplex import exponentiated_gradient, log_weights, uniform_weights
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(K, T) float64, one row a domain's model, one column a target document."""


def mixmin_loss(
    weights: Vector, log_probabilities: Matrix, lengths: Vector
) -> tuple[float, Vector]:
    """Mean loss per token of the mixed models on the target, and its gradient.

    -mean_t log(sum_i w_i p_i(x_t)) / length_t.

    Args:
        weights: (K,) float64.
        log_probabilities: (K, T) float64, log p_i(x_t) of each whole document, nats.
        lengths: (T,) float64, tokens of each document; ones to count documents alike.

    Returns:
        Nats per token, and (K,) float64; sum_i w_i gradient_i is -mean(1 / lengths) always.

    Worked example: p [1/2, 1/4] for one document of one token, w [1/2, 1/2]: -log(3/8).

    Source: Thudi et al. 2025, arXiv:2502.10510; github.com/Anvith-Thudi/MixMin,
    LLM_DataMixing/mixmin_gen.py. The paper's text was not opened here.
    """
    top = log_probabilities.max(axis=0)
    shares = np.exp(log_probabilities - top)
    mixed = weights @ shares
    loss = -float(((np.log(mixed) + top) / lengths).mean())
    return loss, np.asarray(-(shares / (mixed * lengths)).mean(axis=1), dtype=np.float64)


def mixmin_step(
    weights: Vector, log_probabilities: Matrix, lengths: Vector, *, step_size: float = 1.0
) -> Vector:
    """One step of the code's descent: w_i ~ w_i exp(-step_size gradient_i), (K,) float64.

    `MixMin` does not walk it but solves for where it ends; the code's stopping rule (a small
    gradient) never fires, as w . gradient is a constant.

    Worked example: equal models leave the weights as they are.

    Source: github.com/Anvith-Thudi/MixMin, LLM_DataMixing/mixmin_gen.py, update_with_stop.
    """
    gradient = mixmin_loss(weights, log_probabilities, lengths)[1]
    return np.exp(exponentiated_gradient(log_weights(weights), gradient, step_size=-step_size))


class MixMin:
    """Weights under which the domains' small models together predict a target best.

    Signal: (K, T) log-probabilities of T target documents under K small models, nats, and (T,)
    tokens of each.
    Cost a step: none; asked once. Before: K small runs, one a domain, and K T forward passes.
    Absent domain: one without a model gets no row: leave it out, or give it a cap of 0.
    Weight 0: reached in the limit where a domain does not help; neither absorbing nor floored.
    NaN: WeightsError, and the weights stay. A log-probability of -inf is refused as well: a model
    that rules a document out should be smoothed.
    K = 1: [1.0]. K = 10,000: minutes, once (K = 1,000 with 100 documents: 0.3 to 10 s).

    Deviation: solved to the optimum under caps, see `mixmin_step`.

    Source: Thudi et al. 2025, arXiv:2502.10510; github.com/Anvith-Thudi/MixMin.
    """

    def __init__(self, num_domains: int, *, caps: ArrayLike | None = None):
        """Uniform weights until the first update.

        Args:
            num_domains: K.
            caps: (K,) from `simplex.epoch_caps`; None for none.

        Raises:
            WeightsError: K is below 1 or the caps do not fit.
        """
        self._weights = uniform_weights(num_domains)
        self._caps = np.full(num_domains, np.inf)
        if caps is not None:
            self._caps = as_float64(caps, "caps")
        if self._caps.shape != (num_domains,):
            raise WeightsError(f"caps have shape {self._caps.shape}; give ({num_domains},).")

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights for the last target."""
        return self._weights.copy()

    def update(self, log_probabilities: ArrayLike, lengths: ArrayLike | None = None, /) -> Vector:
        """Weights for a target.

        Args:
            log_probabilities: (K, T) of each target document under each domain's model, nats.
            lengths: (T,) tokens of each document; None counts documents alike.

        Returns:
            (K,) float64, nowhere above the caps.

        Raises:
            WeightsError: NaN, infinite, the wrong shape, or infeasible caps; the weights stay.
        """
        num_domains = len(self._weights)
        table = as_float64(log_probabilities, "log_probabilities")
        shape = (num_domains, *table.shape[1:2])
        table = checked_signal(table, shape, source="log_probabilities")
        if table.ndim != 2 or table.size == 0:
            raise WeightsError(f"log_probabilities have shape {table.shape}; give (K, T).")
        tokens = np.ones(table.shape[1])
        if lengths is not None:
            tokens = checked_signal(lengths, tokens.shape, source="lengths")
        if not (tokens > 0).all():
            raise WeightsError(f"lengths hold {tokens.min()}; every document has a token.")
        start = uniform_weights(num_domains)
        self._weights = capped_minimum(lambda w: mixmin_loss(w, table, tokens), start, self._caps)
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("mixmin", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "mixmin", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
