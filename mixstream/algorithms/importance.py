"""CRISP: how a small target set falls into the corpus's clusters -> sampling weights.

The corpus is clustered, one domain a cluster; the target documents are assigned to the same
clusters; sample each cluster as often as the target holds it: p(c) = P(c | target). That is
importance sampling of the generic corpus with weight P(c | target) / P(c | generic) a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    as_float64,
    checked_number,
    checked_signal,
    domain_label,
)
from mixstream.algorithms.simplex import normalized, uniform_weights
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Parents = NDArray[np.int64]
"""(K,) int64, index of the coarse cluster that holds each fine one."""


def target_histogram(counts: Vector, *, smoothing: float = 0.0) -> Vector:
    """Share of each cluster in a target set: (n_c + smoothing) / (n + smoothing K).

    Args:
        counts: (K,) float64, target documents (or tokens) in each cluster; or (T, K), one row for
            each of T tasks, whose histograms are averaged: every task counts the same.
        smoothing: pseudo-documents added to each cluster (1 is Laplace's rule); above 0 no cluster
            has weight 0.

    Returns:
        (K,) float64.

    Worked example: counts [3, 1], smoothing 1: [4/6, 2/6].

    Source: Grangier et al. 2024, arXiv:2410.03735, P(c | D^s) and the multi-task mean; the
    smoothing is ours.

    Raises:
        WeightsError: a task without documents and no smoothing.
    """
    rows = np.atleast_2d(counts) + smoothing
    totals = rows.sum(axis=1)
    if not (totals > 0).all():
        raise WeightsError(
            f"target set {int(np.argmin(totals))} has no document in any cluster; give it "
            f"documents, or a smoothing above 0."
        )
    return np.asarray((rows / totals[:, np.newaxis]).mean(axis=0), dtype=np.float64)


def importance_ratios(target: Vector, generic: Vector) -> Vector:
    """How much more often than in the corpus a document of each cluster is drawn.

    Args:
        target: (K,) float64, the weights, P(c | target).
        generic: (K,) float64, documents of the corpus in each cluster.

    Returns:
        (K,) float64, P(c | target) / P(c | generic); 0 where neither is, inf where the target lies
        in a cluster that the corpus lacks.

    Worked example: target [0.3, 0.7], generic [10, 90]: [3, 7/9].

    Source: Grangier et al. 2024, arXiv:2410.03735, w(x).
    """
    share = generic / generic.sum()
    ratios = np.where(target > 0, np.inf, 0.0)
    return np.divide(target, share, out=ratios, where=share > 0)


def expected_epochs(weights: Vector, sizes: Vector, budget: float) -> Vector:
    """How often a run of `budget` rows (tokens) repeats each domain: budget * w_i / size_i.

    CRISP overfits where this is large: cap it (`simplex.epoch_caps`, `simplex.capped_weights`).

    Worked example: weights [0.3, 0.7], sizes [1000, 4000], budget 20000: [6, 3.5].
    """
    epochs = np.where(weights > 0, np.inf, 0.0)
    return np.divide(weights * budget, sizes, out=epochs, where=sizes > 0)


def coarsened(values: Vector, parents: Parents) -> Vector:
    """Sums of the fine clusters' values over each coarse cluster: (K,) -> (number of parents,).

    Worked example: [1, 2, 4] with parents [0, 1, 0]: [5, 2].
    """
    return np.asarray(np.bincount(parents, weights=values), dtype=np.float64)


def hierarchical_histogram(
    counts: Vector, generic: Vector, parents: Parents, *, concentration: float
) -> Vector:
    """Coarse clusters by the target; inside one, the target as far as it goes, else the corpus.

    p(c) = P(parent | target) * (n_c + s q_c) / (n_parent + s), where q_c is c's share of its coarse
    cluster in the corpus: a small target set decides among thousands of fine clusters only where it
    has documents.

    Args:
        counts: (K,) float64, target documents in each fine cluster.
        generic: (K,) float64, documents of the corpus in each fine cluster.
        parents: (K,) int64, the coarse cluster of each fine one.
        concentration: s, pseudo-documents a coarse cluster; 0 is the fine histogram, inf is
            importance sampling at the coarse level alone.

    Returns:
        (K,) float64. A coarse cluster without generic documents falls back to the target alone.

    Worked example: counts [2, 0], generic [1, 3], one parent, s = 2: [(2 + 0.5) / 4, 1.5 / 4].

    Source: Grangier et al. 2024, arXiv:2410.03735, samples at one level of a hierarchical k-means;
    the blend between two levels is ours.

    Raises:
        WeightsError: a target without documents.
    """
    if not counts.any():
        raise WeightsError("the target set has no document in any cluster; give it documents.")
    group_counts = coarsened(counts, parents)[parents]
    group_generic = coarsened(generic, parents)[parents]
    empty = group_generic == 0
    inside = np.divide(generic, group_generic, out=np.zeros_like(counts), where=~empty)
    fine = np.divide(counts, group_counts, out=np.zeros_like(counts), where=group_counts > 0)
    trust = np.where(empty, 1.0, 0.0)
    if np.isfinite(concentration):
        total = group_counts + concentration
        trust = np.divide(group_counts, total, out=trust, where=(total > 0) & ~empty)
    return normalized(group_counts * (trust * fine + (1 - trust) * inside))


class ImportanceSampling:
    """CRISP's weights: the target's histogram over the clusters, held for a whole run.

    Signal: (K,) counts of target documents by cluster, or (T, K) for T tasks. Documents, not nats.
    Cost a step: none. Before the run: the corpus and the target set are embedded and clustered
    (`mixstream cluster`). The loop supplies nothing; a new target set is one more `update`.
    Absent domain: a cluster without target documents gets weight 0, or its share of the smoothing;
    a cluster that the corpus lacks (generic 0) gets weight 0 and the others share its mass.
    Weight 0: neither absorbing nor floored; each update starts afresh.
    NaN, a negative or an all-zero count: WeightsError, and the weights stay.
    K = 1: weights [1.0]. K = 10,000: 0.1 ms.

    Deviations: smoothing, generic counts of 0 and the two-level blend are ours.

    Source: Grangier, Fan, Seto, Ablin 2024, arXiv:2410.03735. No code is public and the abstract
    alone could be opened here; the equations are checked against two independent derivations.
    """

    def __init__(
        self,
        num_domains: int,
        *,
        smoothing: float = 0.0,
        generic: ArrayLike | None = None,
        domains: Sequence[str] = (),
    ):
        """Uniform weights until the first update (over the clusters that the corpus has).

        Args:
            num_domains: K, the clusters.
            smoothing: pseudo-documents a cluster and task.
            generic: (K,) documents or rows of the corpus in each cluster; None takes all as there.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting is out of range.
        """
        self.smoothing = checked_number(smoothing, "smoothing", 0.0)
        self._domains = tuple(domains)
        self._held = np.ones(len(uniform_weights(num_domains)), dtype=bool)
        if generic is not None:
            counts = checked_signal(
                generic, (num_domains,), source="generic", domains=self._domains
            )
            self._held = counts > 0
            if (counts < 0).any() or not self._held.any():
                raise WeightsError("generic holds a negative count, or no document at all.")
        self._weights = normalized(self._held.astype(np.float64))

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of the last target set."""
        return self._weights.copy()

    def update(self, counts: ArrayLike, /) -> Vector:
        """Weights for a target set.

        Args:
            counts: (K,) target documents by cluster, or (T, K).

        Returns:
            (K,) float64.

        Raises:
            WeightsError: NaN, negative, the wrong shape, a task without documents, or a target that
                lies wholly in clusters that the corpus lacks; the weights stay then.
        """
        target = as_float64(counts, "counts")
        num_domains = len(self._weights)
        if target.ndim not in (1, 2) or target.shape[-1] != num_domains or target.size == 0:
            raise WeightsError(
                f"counts have shape {target.shape}; give ({num_domains},) or (T, {num_domains})."
            )
        bad = np.argwhere(~(np.isfinite(target) & (target >= 0)))
        if bad.size:
            raise WeightsError(
                f"counts hold {float(target[tuple(bad[0])])} at "
                f"{domain_label(int(bad[0][-1]), self._domains)}; counts are finite, 0 or more."
            )
        weights = np.where(self._held, target_histogram(target, smoothing=self.smoothing), 0.0)
        if not weights.any():
            raise WeightsError(
                "the target lies wholly in clusters that the corpus lacks; add a smoothing, or "
                "cluster more coarsely."
            )
        self._weights = normalized(weights)
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("importance", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "importance", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
