"""Points -> clusters: mini-batch k-means, balanced, flat or in two levels.

Balance is a price: a point goes to the cluster with the least squared distance plus price, and the
prices are set so that on the sample all clusters take about as many points. So a point's cluster
depends on the point alone, and target documents are assigned by the rule of the corpus's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts
from mixstream.cluster.embedding import Points
from mixstream.errors import RecipeError

__all__ = ["Centres", "fit_centres", "fit_tree", "nearest", "prices_for_balance"]

Prices = NDArray[np.float32]
"""(K,) float32, in squared distance."""

_ROUNDS = 3  # of prices and means in turn; more change no share by more than a tenth
_PRICE_STEPS = 60
_MAX_NUMBERS = 2**24  # of a block of distances: 64 MiB


@dataclass(frozen=True, eq=False, slots=True)
class Centres:
    """One level of clusters."""

    points: Points
    """(K, D) float32."""
    prices: Prices
    """(K,) float32; all 0 without balance."""


def nearest(points: Points, centres: Centres) -> Counts:
    """(n,) int64, the cluster of each point: least squared distance plus price; ties to the first.

    Worked example: centres 0 and 4 on a line with prices 0 and 8: the point 3 has 9 + 0 and 1 + 8,
    a tie, and goes to the first; 3.5 goes to the second.
    """
    found = np.empty(len(points), dtype=np.int64)
    step = max(1, _MAX_NUMBERS // len(centres.points))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        found[part] = (_squared_distances(points[part], centres.points) + centres.prices).argmin(1)
    return found


def _squared_distances(points: Points, centres: Points) -> Points:
    """(n, K) float32, without the points' own squared length, which decides nothing."""
    distances = (centres * centres).sum(axis=1) - 2 * (points @ centres.T)
    return np.asarray(distances, dtype=np.float32)


def prices_for_balance(points: Points, centres: Points) -> Prices:
    """Prices at which every centre takes about 1 / K of the points.

    Args:
        points: (n, D), a sample.
        centres: (K, D).

    Returns:
        (K,) float32, the least of them 0.

    Equal points all go to one cluster, whatever the price. K = 1: [0].

    Source: the dual of optimal transport from the points to K equal masses, by Sinkhorn's update
    price_k += t log(K share_k) with soft shares, t falling by halves (Cuturi 2013,
    arXiv:1306.0895; Peyre and Cuturi 2019, arXiv:1803.00567, chapter 5).
    """
    chosen = points[:: max(1, len(points) * len(centres) // _MAX_NUMBERS)]
    distances = _squared_distances(chosen, centres).astype(np.float64)
    prices = np.zeros(len(centres))
    spread = float((distances - distances.min(axis=1, keepdims=True)).mean())
    if spread == 0:
        return prices.astype(np.float32)
    for step in range(_PRICE_STEPS):
        heat = spread * 0.5 ** (1 + 6 * step / _PRICE_STEPS)
        logits = -(distances + prices) / heat
        soft = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = (soft / soft.sum(axis=1, keepdims=True)).mean(axis=0)
        prices += heat * np.log(np.maximum(shares * len(centres), 1e-3))
    return np.asarray(prices - prices.min(), dtype=np.float32)


def fit_centres(points: Points, num_clusters: int, *, balanced: bool, seed: int) -> Centres:
    """Clusters of a sample.

    Args:
        points: (n, D).
        num_clusters: K; fewer come back where fewer points differ.
        balanced: whether all shall take about as many points.
        seed: of scikit-learn's MiniBatchKMeans.

    Raises:
        RecipeError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped, import-not-found, unused-ignore]  # fmt: skip
    except ImportError as error:
        raise RecipeError(
            "clusters need scikit-learn: pip install 'mixstream[cluster]', or 'scikit-learn>=1.4'."
        ) from error
    num_clusters = min(num_clusters, len(np.unique(points, axis=0)))
    fit = MiniBatchKMeans(
        num_clusters, batch_size=max(1024, 4 * num_clusters), n_init=3, random_state=seed
    ).fit(points)
    centres = Centres(
        np.asarray(fit.cluster_centers_, dtype=np.float32), np.zeros(num_clusters, np.float32)
    )
    for _ in range(_ROUNDS if balanced else 0):
        centres = Centres(centres.points, prices_for_balance(points, centres.points))
        centres = Centres(_means(points, centres), centres.prices)
    if balanced:
        centres = Centres(centres.points, prices_for_balance(points, centres.points))
    return centres


def _means(points: Points, centres: Centres) -> Points:
    """(K, D) mean of each cluster's points; the old centre for a cluster without one."""
    places = nearest(points, centres)
    sums = np.zeros(centres.points.shape)
    np.add.at(sums, places, points)
    counts = np.bincount(places, minlength=len(sums))[:, np.newaxis]
    means = np.where(counts > 0, sums / np.maximum(counts, 1), centres.points)
    return np.asarray(means, dtype=np.float32)


def fit_tree(
    points: Points, num_coarse: int, num_fine: int, *, balanced: bool, seed: int
) -> tuple[Centres, list[Centres]]:
    """Coarse clusters, and the fine ones inside each.

    A coarse cluster with fewer different points than `num_fine` has fewer fine ones, at least one.
    """
    coarse = fit_centres(points, num_coarse, balanced=balanced, seed=seed)
    places = nearest(points, coarse)
    inside = []
    for index, centre in enumerate(coarse.points):
        own = points[places == index]
        own = own if len(own) else centre[np.newaxis]
        inside.append(fit_centres(own, num_fine, balanced=balanced, seed=seed))
    return coarse, inside
