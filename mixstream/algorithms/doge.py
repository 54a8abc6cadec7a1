"""DoGE: inner products of the domains' gradients with the targets' -> loss weights of a proxy.

The proxy draws every domain and weighs the domains' mean losses (or gradients) by alpha_t: these
are *loss* weights, not for `loader.set_weights`. What the main run samples by is their average,
`average_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    Mask,
    checked_number,
    checked_present,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.simplex import exponentiated_gradient, log_weights, smoothed
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(K, D) float64, one gradient a row."""


def clipped_gradients(gradients: Matrix, max_norm: float) -> Matrix:
    """Each row shortened to `max_norm`: times min(1, max_norm / (norm + 1e-6)), as torch clips.

    Worked example: [[3, 4]] with max_norm 1: [[0.6, 0.8]] to a part in 10^7.

    Source: github.com/Olivia-fsm/DoGE at 88400e9; not in the paper.
    """
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return np.asarray(gradients * np.minimum(1.0, max_norm / (norms + 1e-6)), dtype=np.float64)


def doge_scores(
    alignment: Vector,
    *,
    learning_rate: float,
    gradient_norms: Vector | None = None,
    clip: tuple[float, float] | None = None,
) -> Vector:
    """How much a step of this learning rate on each domain lowers the targets' loss.

    Args:
        alignment: (K,) float64, W_j = <g_j, sum over the targets of g>.
        learning_rate: of the proxy at this step.
        gradient_norms: (n,) float64, of the domains that have a gradient; W is divided by their
            mean plus 1e-6 (the code only).
        clip: bounds of the score before the learning rate (the code's dw_min, dw_max: 0 and 5).

    Returns:
        (K,) float64.

    Worked example: alignment [2, -1], rate 0.1, norms [3, 1], clip (0, 5): [0.1, 0].

    Source: Fan, Pagliardini, Jaggi 2024, arXiv:2310.15393, equation of the alpha update; norm and
    clip from github.com/Olivia-fsm/DoGE at 88400e9, update_domain_weights_distributed.
    """
    scores = alignment
    if gradient_norms is not None:
        scores = scores / (gradient_norms.mean() + 1e-6)
    if clip is not None:
        scores = np.clip(scores, *clip)
    return learning_rate * scores


def doge_update(
    weights: Vector,
    scores: Vector,
    *,
    mu: float,
    smoothing: float = 0.0,
    present: Mask | None = None,
) -> Vector:
    """One mirror-ascent step: alpha_j ~ alpha_j exp(score_j / mu), then smoothing.

    Args:
        weights: (K,) float64, alpha.
        scores: (K,) float64, from `doge_scores`.
        mu: the Bregman coefficient; smaller moves faster. The shipped configurations use 0.01
            and, out of domain, 0.05.
        smoothing: share of the uniform weights mixed in (the code's reweight_eps, 0 as shipped).
        present: (K,) bool; absent domains keep their weights (before the smoothing).

    Returns:
        (K,) float64.

    Worked example: weights [1/2, 1/2], scores [log 3, 0], mu 1: [3/4, 1/4].

    Source: Fan, Pagliardini, Jaggi 2024, arXiv:2310.15393.
    """
    logits = exponentiated_gradient(
        log_weights(weights), scores, step_size=1.0 / mu, present=present
    )
    return smoothed(np.exp(logits), smoothing)


class DoGE:
    """Loss weights alpha_t of the DoGE proxy, and their average, which the main run samples by.

    Signal: (K,) inner products of each domain's gradient with the sum of the targets' gradients
    (all domains' for the universal setting, the target's out of domain), nats squared per squared
    parameter unit.
    Cost a step: one backward pass a domain, K gradients held (or their running inner products).
    Absent domain: keeps its weight. (The code reuses its stored gradient of an earlier step against
    the new ones; to do so, keep it in the alignment that you give.)
    Weight 0: absorbing without smoothing, else lifted to smoothing / K. A weight that underflows in
    a step is 0: the state is the weights, as each step's smoothing acts on them.
    NaN or infinity: WeightsError, and weights and average stay.
    K = 1: [1.0]. K = 10,000: under 0.1 ms an update; measuring K gradients is what will not do.

    Deviations: as the paper by default; the code clips the score to [0, 5] and divides it by the
    mean norm of the gradients, which are options here (`clip`, and `gradient_norms` of `update`).
    The code means to leave a domain's own gradient out of its targets' sum, and does not, as it
    compares sets of tensors; decide in the alignment that you give.

    Source: Fan, Pagliardini, Jaggi 2024, arXiv:2310.15393; github.com/Olivia-fsm/DoGE at 88400e9.
    """

    def __init__(
        self,
        weights: ArrayLike,
        *,
        mu: float,
        smoothing: float = 0.0,
        clip: tuple[float, float] | None = None,
        domains: Sequence[str] = (),
    ):
        """Start from given weights; the paper starts uniform.

        Args:
            weights: (K,) initial weights.
            mu: Bregman coefficient, > 0.
            smoothing: in [0, 1).
            clip: (0.0, 5.0) as in the code; None as in the paper.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting or weight is out of range.
        """
        self.mu = checked_number(mu, "mu", 0.0, open_low=True)
        self.smoothing = checked_number(smoothing, "smoothing", 0.0, 1.0, open_high=True)
        if clip is not None and not clip[0] <= clip[1]:
            raise WeightsError(f"clip is {clip}; give (least, most).")
        self.clip = clip
        self._domains = tuple(domains)
        self._weights = checked_weights(weights, domains=self._domains)
        self._average = self._weights.copy()
        self._num_averaged = 0

    @property
    def weights(self) -> Vector:
        """(K,) float64, alpha_t: weights of the proxy's loss."""
        return self._weights.copy()

    @property
    def average_weights(self) -> Vector:
        """(K,) float64, the result: mean of alpha over the updates."""
        return self._average.copy()

    def update(
        self,
        alignment: ArrayLike,
        /,
        *,
        learning_rate: float = 1.0,
        gradient_norms: ArrayLike | None = None,
        present: ArrayLike | None = None,
    ) -> Vector:
        """Alpha_t from one step's gradients.

        Args:
            alignment: (K,) inner products with the sum of the targets' gradients.
            learning_rate: of the proxy at this step; 1 if mu holds it already.
            gradient_norms: (K,), to divide by the mean of those present as the code does.
            present: (K,) bool, the domains with a gradient; None means all.

        Returns:
            (K,) float64, weights of this step's loss.

        Raises:
            WeightsError: NaN, infinite, or the wrong shape; nothing has changed then.
        """
        shape = (len(self._weights),)
        seen = checked_present(present, shape[0])
        signal = checked_signal(
            alignment, shape, source="alignment", domains=self._domains, present=seen
        )
        norms = None
        if gradient_norms is not None:
            norms = checked_signal(
                gradient_norms,
                shape,
                source="gradient_norms",
                domains=self._domains,
                present=seen,
            )
            norms = norms if seen is None else norms[seen]
        rate = checked_number(learning_rate, "learning_rate", 0.0)
        scores = doge_scores(signal, learning_rate=rate, gradient_norms=norms, clip=self.clip)
        weights = doge_update(
            self._weights, scores, mu=self.mu, smoothing=self.smoothing, present=seen
        )
        self._weights = weights
        self._num_averaged += 1
        self._average = self._average + (weights - self._average) / self._num_averaged
        return weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: weights, their average and how many it holds."""
        fields: dict[str, ArrayLike | None] = {
            "weights": self._weights,
            "average": self._average,
            "num_averaged": self._num_averaged,
        }
        return packed_state("doge", len(self._weights), fields)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        num_domains = len(self._weights)
        reader = StateReader(state, "doge", num_domains)
        weights = reader.weights("weights", num_domains)
        average = reader.weights("average", num_domains)
        self._num_averaged = reader.count("num_averaged")
        self._weights, self._average = weights, average
