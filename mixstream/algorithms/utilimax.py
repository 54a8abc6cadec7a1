"""UtiliMax: utility of each domain for each task, and sizes -> weights by a convex programme.

MEDU's step before it: labels that a language model gave to sample documents -> utilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import checked_number, checked_signal
from mixstream.algorithms.simplex import bounded_projection, epoch_caps, normalized
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(K, T) float64, one row a domain, one column a task."""

MEDU_SCORES = (5.0, 4.0, 3.0, 2.0, 1.0)
"""Scores of the labels Great, Good, Okay, Poor, Useless."""


def medu_utilities(label_counts: ArrayLike, scores: Sequence[float] = MEDU_SCORES) -> Vector:
    """Utility in [0, 1] of each domain from how often its sample documents got each label.

    Args:
        label_counts: (K, L), documents of each domain with each label; unparseable answers left
            out, not counted as Useless. Several tasks: call once a task and stack the columns.
        scores: (L,), the score of each label; the default is for Great, Good, Okay, Poor, Useless.

    Returns:
        (K,) float64, (mean score - least) / (largest - least).

    Worked example: 1 Great and 3 Useless: mean 2, utility 0.25.

    Source: Held et al. 2025, arXiv:2501.11747 (MEDU); the labels and scores as in marin's
    MEDU_DOCUMENT_LABELING_PROMPT and SCORE_OPTIONS_DICT. The paper's text was not opened here.

    Raises:
        WeightsError: a domain without a labelled document, or counts that do not fit the scores.
    """
    counts = np.array(label_counts, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[1] != len(scores):
        raise WeightsError(
            f"label_counts have shape {counts.shape}; give (K, {len(scores)}), one column a label."
        )
    counts = checked_signal(label_counts, counts.shape, source="label_counts")
    totals = counts.sum(axis=1)
    if (counts < 0).any() or not (totals > 0).all():
        raise WeightsError(
            f"domain {int(np.argmin(totals))} has no labelled document, or a negative count; "
            f"label some, or leave it out."
        )
    points = np.asarray(scores, dtype=np.float64)
    mean = counts @ points / totals
    return np.asarray((mean - points.min()) / (points.max() - points.min()), dtype=np.float64)


def utilimax_objective(
    weights: Vector, utilities: Matrix, *, risk: float, squared: bool = False
) -> float:
    """What `utilimax_weights` minimises: ||w U - 1|| (or its square) + risk K ||w||^2.

    Worked example: w [1/2, 1/2], U [[1], [0]], risk 1: 1/2 + 2 * 1/2 = 1.5.
    """
    distance = float(np.linalg.norm(weights @ utilities - 1.0))
    spread = risk * len(weights) * float(weights @ weights)
    return (distance**2 if squared else distance) + spread


def utilimax_weights(
    utilities: Matrix, caps: Vector, *, risk: float = 1.0, squared: bool = False
) -> Vector:
    """Weights of the highest utility on all tasks at the least concentration, under caps.

    min over w in the simplex, w <= caps: ||w U - 1||_2 + risk K ||w||_2^2.

    Args:
        utilities: (K, T) float64, in [0, 1]: how good domain i is for task t.
        caps: (K,) float64, from `simplex.epoch_caps`.
        risk: factor on the second term; the paper's is 1. With few tasks it decides the result:
            the first term is at most sqrt(T), the second at least 1.
        squared: minimise the square of the first term.

    Returns:
        (K,) float64, to about 1e-10 of the optimum.

    How: the squared problem is a quadratic programme, solved by accelerated projected gradient;
    the other equals min over s > 0 of (||r||^2 / s + s) / 2 + risk K ||w||^2, a quadratic programme
    for each s, whose root s = ||r(s)|| is bracketed and found.

    Source: Held et al. 2025, arXiv:2501.11747; no first-party code was found, the objective is that
    of a third-party implementation (rishabhranawat/DataMixer), solved here without cvxpy.

    Raises:
        WeightsError: the caps sum to less than 1.
    """
    curvature = risk * len(utilities)
    if squared:
        return _quadratic(utilities, caps, curvature, np.full(len(utilities), 1 / len(utilities)))
    start = normalized(np.minimum(caps, 1.0))

    def solve(scale: float) -> Vector:
        """Minimise ||r||^2 + 2 scale curvature ||w||^2."""
        return _quadratic(utilities, caps, 2.0 * scale * curvature, start)

    def surplus(scale: float) -> float:
        return float(np.linalg.norm(solve(scale) @ utilities - 1.0)) - scale

    return solve(_falling_root(surplus, 1e-9, float(np.sqrt(utilities.shape[1])) + 1.0))


def _falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a continuous function that starts at or above 0 and ends below 0 crosses it."""
    from scipy.optimize import brentq

    if function(low) <= 0:
        return low
    while function(high) > 0:
        high *= 2
    return float(brentq(function, low, high, xtol=1e-13, rtol=1e-12))


def _quadratic(utilities: Matrix, caps: Vector, curvature: float, start: Vector) -> Vector:
    """Minimise ||w U - 1||^2 + curvature ||w||^2 on the capped simplex, by projected gradient.

    Accelerated, with a restart whenever a step turns against the gradient; the steepest curvature
    is the top eigenvalue of U U^T, computed from the smaller Gram matrix.
    """
    small = utilities.T @ utilities if utilities.shape[1] <= len(utilities) else None
    gram = utilities @ utilities.T if small is None else small
    steepest = 2.0 * (float(np.linalg.eigvalsh(gram)[-1]) + curvature)
    if steepest == 0:
        return bounded_projection(start, upper=caps)
    weights = bounded_projection(start, upper=caps)
    ahead, momentum = weights, 1.0
    for _ in range(20_000):
        gradient = 2.0 * (utilities @ (ahead @ utilities - 1.0) + curvature * ahead)
        new = bounded_projection(ahead - gradient / steepest, upper=caps)
        step = new - weights
        if float((ahead - new) @ step) > 0:
            momentum = 1.0
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        settled = float(np.abs(new - ahead).max()) < 1e-14
        ahead, momentum = new + (momentum - 1) / grown * step, grown
        weights = new
        if settled:
            break
    return weights


class UtiliMax:
    """Weights from utilities by domain and task, for a budget and sizes.

    Signal: (K, T) utilities in [0, 1]; (K,) for one task.
    Cost a step: none; asked once. Before: T small evaluations of K small runs, or MEDU's labels.
    Absent (empty) domain: cap 0, weight 0. Weight 0: neither absorbing nor floored.
    NaN or caps below 1 in sum: WeightsError, and the weights stay.
    K = 1: [1.0]. K = 10,000: 9 s of one core for four tasks and a budget of half the sizes;
    where the budget is far from that, minutes.

    Deviation: `risk` and `squared` are exposed; the defaults are the paper's as restated by the
    third-party code. No first-party code was found and the paper's text was not opened.

    Source: Held et al. 2025, arXiv:2501.11747.
    """

    def __init__(
        self,
        sizes: ArrayLike,
        *,
        budget: float,
        max_epochs: ArrayLike = 4.0,
        risk: float = 1.0,
        squared: bool = False,
        domains: Sequence[str] = (),
    ):
        """Weights of utility 0 everywhere (the most even ones under the caps) until `update`.

        Args:
            sizes: (K,) rows or tokens that each domain holds.
            budget: what the run draws, in the same unit.
            max_epochs: the most epochs, one number or (K,).
            risk: factor on the concentration term.
            squared: square the utility term.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting is out of range, or the caps sum to less than 1.
        """
        self.risk = checked_number(risk, "risk", 0.0)
        self.squared = squared
        self._domains = tuple(domains)
        self._caps = epoch_caps(sizes, budget, max_epochs)
        num_domains = len(self._caps)
        self._weights = bounded_projection(
            np.full(num_domains, 1 / num_domains), upper=self._caps, domains=self._domains
        )

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of the last utilities."""
        return self._weights.copy()

    def update(self, utilities: ArrayLike, /) -> Vector:
        """Weights for these utilities.

        Args:
            utilities: (K, T) in [0, 1], or (K,).

        Returns:
            (K,) float64, nowhere above the caps.

        Raises:
            WeightsError: NaN or the wrong shape; the weights stay then.
        """
        num_domains = len(self._weights)
        columns = np.shape(utilities)[1:]
        shape = (num_domains, *columns) if len(columns) < 2 else (num_domains,)
        values = checked_signal(utilities, shape, source="utilities", domains=self._domains)
        matrix = values.reshape(num_domains, -1)
        self._weights = utilimax_weights(matrix, self._caps, risk=self.risk, squared=self.squared)
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights; sizes and budget are settings."""
        return packed_state("utilimax", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "utilimax", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
