"""R&B: gradients that training computes anyway, summed by domain -> sampling weights.

Regroup is the clustering of the corpus into domains (`mixstream cluster`); Balance is here: the
Gram matrix of the domains' mean gradients says what training on one does for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import checked_number, checked_signal, checked_weights
from mixstream.algorithms.simplex import softmax
from mixstream.arrays import Vector

Matrix = NDArray[np.float64]
"""(K, K) or (K, D) float64."""


def gradient_gram(gradient_sums: Matrix, num_rows: Vector) -> Matrix:
    """Inner products of the domains' mean gradients.

    Args:
        gradient_sums: (K, D) float64, sum of the rows' gradients since the last update.
        num_rows: (K,) float64, rows summed; 0 gives an absent domain a gradient of 0.

    Returns:
        (K, K) float64.

    Worked example: sums [[2, 0], [3, 3]], rows [2, 3]: means [[1, 0], [1, 1]], [[1, 1], [1, 2]].

    Source: Ge et al. 2025, arXiv:2505.00358, Algorithm 1.
    """
    means = gradient_sums / np.maximum(num_rows, 1.0)[:, np.newaxis]
    return np.asarray(means @ means.T, dtype=np.float64)


def rnb_weights(gram: Matrix, eval_weights: Vector, *, step_size: float) -> Vector:
    """Weights softmax(lambda G q / ||G q||_2), q the mixture that one wants to be good at.

    Args:
        gram: (K, K) float64, G: inner products of the domains' mean gradients.
        eval_weights: (K,) float64, q on the simplex.
        step_size: lambda; as the argument has norm 1, no two weights differ by more than a factor
            exp(sqrt(2) lambda).

    Returns:
        (K,) float64; uniform where G q is 0.

    Worked example: G the identity, q [1, 0], lambda log 3: [3/4, 1/4].

    Source: Ge et al. 2025, arXiv:2505.00358, Algorithm 1, lines 13 and 14.
    """
    gain = gram @ eval_weights
    norm = float(np.linalg.norm(gain))
    return softmax(step_size * gain / norm if norm > 0 else np.zeros_like(gain))


class RnB:
    """Sampling weights from the Gram matrix of the domains' gradients.

    Signal: (K, K) Gram matrix of mean gradients since the last update (`gradient_gram`; over the
    last layer alone where all parameters are too many).
    Cost a step: no further passes; the loop keeps K running sums of gradients, K^2 D products an
    update. Not multiplied by the previous weights: each update starts afresh.
    Absent domain: a gradient of 0, row and column 0, the weight of a gain of 0.
    Weight 0: none, the ratio of any two weights is bounded by exp(sqrt(2) lambda).
    NaN or infinity: WeightsError, and the weights stay.
    K = 1: [1.0]. K = 10,000: the Gram matrix has 10^8 numbers; this method is for tens to hundreds.

    Deviation: none known. No code is public and the paper's text was not opened here; the rule is
    checked against an independent derivation.

    Source: Ge et al. 2025, arXiv:2505.00358, Algorithm 1.
    """

    def __init__(self, eval_weights: ArrayLike, *, step_size: float, domains: Sequence[str] = ()):
        """Start by sampling as one evaluates.

        Args:
            eval_weights: (K,) share of each domain in what the model should be good at.
            step_size: lambda.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting or weight is out of range.
        """
        self.step_size = checked_number(step_size, "step_size", 0.0)
        self._domains = tuple(domains)
        self._eval_weights = checked_weights(
            eval_weights, source="eval_weights", domains=self._domains
        )
        self._weights = self._eval_weights.copy()

    @property
    def weights(self) -> Vector:
        """(K,) float64, what to sample by."""
        return self._weights.copy()

    def update(self, gram: ArrayLike, /) -> Vector:
        """(K,) float64, new weights from a (K, K) Gram matrix.

        Raises:
            WeightsError: NaN, infinite, or the wrong shape; the weights stay then.
        """
        num_domains = len(self._weights)
        matrix = checked_signal(
            gram, (num_domains, num_domains), source="gram", domains=self._domains
        )
        self._weights = rnb_weights(matrix, self._eval_weights, step_size=self.step_size)
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("rnb", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "rnb", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
