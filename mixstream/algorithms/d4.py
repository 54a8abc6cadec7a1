"""D4: embeddings of documents and their clusters -> which to keep: no doubles, few prototypes.

Two steps, each within the clusters of `mixstream cluster`: SemDeDup drops what nearly repeats
another document, SSL prototypes then drops what lies nearest to the middle of its cluster. Whoever
converts keeps the documents that are left; weights follow from how many those are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.checks import as_float64, checked_number
from mixstream.arrays import Counts, Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(N, D) float64, one row a document, each of length 1."""

_BLOCK = 1024
"""Documents compared at a time: 8 MB for each 1,000 documents of a cluster."""


def semantic_duplicates_dropped(
    embeddings: ArrayLike, labels: ArrayLike, centroids: ArrayLike, *, eps: float
) -> Counts:
    """The documents without those that nearly repeat one before them, hard ones first.

    In each cluster the documents are ordered from the farthest from the centroid to the nearest.
    One goes if its cosine to any that stands before it, kept or not, exceeds 1 - eps.

    Args:
        embeddings: (N, D), of length 1.
        labels: (N,) whole numbers in [0, C), the cluster of each.
        centroids: (C, D), not 0.
        eps: how unlike two documents must be, in [0, 2].

    Returns:
        (n,) int64, the documents that are kept, rising. Ties of distance are in their order.

    Cost: the pairs of each cluster, O(N^2 D / C).

    Worked example: [1, 0], [1, 0] and [0, 1] in one cluster with centroid [1, 0]: the third is the
    farthest, the first the first of the doubles; kept are 0 and 2.

    Source: Abbas et al. 2023, arXiv:2303.09540 (SemDeDup); step 1 of D4, Tirumala et al. 2023,
    arXiv:2308.12284. The papers were not opened here; the rule is that of the oracle case.

    Raises:
        WeightsError: arrays that do not fit, or eps out of range.
    """
    points, cluster, middles = _checked(embeddings, labels, centroids)
    checked_number(eps, "eps", 0.0, 2.0)
    near = _closeness(points, cluster, middles)
    kept = [np.empty(0, dtype=np.int64)]
    for label in np.unique(cluster):
        members = np.flatnonzero(cluster == label)
        order = members[np.argsort(near[members], kind="stable")]
        closest = np.full(order.size, -np.inf)  # largest cosine to one that stands before
        for first in range(0, order.size, _BLOCK):
            places = np.arange(first, min(first + _BLOCK, order.size))
            cosines = points[order[places]] @ points[order[: places[-1] + 1]].T
            is_before = np.arange(cosines.shape[1]) < places[:, np.newaxis]
            closest[places] = np.where(is_before, cosines, -np.inf).max(axis=1)
        kept.append(order[closest <= 1 - eps])
    return np.sort(np.concatenate(kept)).astype(np.int64)


def prototypes_dropped(
    embeddings: ArrayLike, labels: ArrayLike, centroids: ArrayLike, *, keep: float
) -> Counts:
    """The share of the documents that lies farthest from the centroids of their clusters.

    Args:
        embeddings: (N, D), of length 1.
        labels: (N,) whole numbers in [0, C).
        centroids: (C, D), not 0.
        keep: R, share of the documents that is kept, in (0, 1].

    Returns:
        (round(keep N),) int64, rising; half a document is rounded up.

    Worked example: [1, 0] and [0, 1] in a cluster with centroid [1, 0], R 1/2: the second is kept.

    Source: Sorscher et al. 2022, arXiv:2206.14486 (SSL prototypes); step 2 of D4, Tirumala et al.
    2023, arXiv:2308.12284. The papers were not opened here.

    Raises:
        WeightsError: arrays that do not fit, or keep out of range.
    """
    points, cluster, middles = _checked(embeddings, labels, centroids)
    share = checked_number(keep, "keep", 0.0, 1.0, open_low=True)
    order = np.argsort(_closeness(points, cluster, middles), kind="stable")
    return np.sort(order[: int(share * len(points) + 0.5)]).astype(np.int64)


def d4_kept(
    embeddings: ArrayLike, labels: ArrayLike, centroids: ArrayLike, *, eps: float, keep: float
) -> Counts:
    """Both steps: the documents that are kept, rising; `keep` is a share of what step 1 left.

    D4 clusters anew between the steps; give the new clusters to `prototypes_dropped` yourself for
    that. Here both take the same ones.

    Source: Tirumala et al. 2023, arXiv:2308.12284; the re-clustering is left to the caller.

    Raises:
        WeightsError: as the two steps.
    """
    first = semantic_duplicates_dropped(embeddings, labels, centroids, eps=eps)
    points, cluster = as_float64(embeddings, "embeddings"), np.asarray(labels)
    return first[prototypes_dropped(points[first], cluster[first], centroids, keep=keep)]


def _closeness(points: Matrix, cluster: Counts, middles: Matrix) -> Vector:
    """(N,) cosine of each document with the centroid of its cluster."""
    of_each = middles[cluster]
    return np.asarray((points * of_each).sum(axis=1) / np.linalg.norm(of_each, axis=1))


def _checked(
    embeddings: ArrayLike, labels: ArrayLike, centroids: ArrayLike
) -> tuple[Matrix, Counts, Matrix]:
    """The three arrays, of shapes and values that fit."""
    points, middles = as_float64(embeddings, "embeddings"), as_float64(centroids, "centroids")
    cluster = np.asarray(labels)
    fits = points.ndim == 2 and middles.ndim == 2 and points.shape[1] == middles.shape[1]
    if not (fits and np.isfinite(points).all() and np.isfinite(middles).all()):
        raise WeightsError(
            f"embeddings have shape {points.shape} and centroids {middles.shape}; give finite "
            f"(N, D) and (C, D)."
        )
    is_number = cluster.shape == (len(points),) and np.issubdtype(cluster.dtype, np.integer)
    if not is_number or (cluster < 0).any() or (cluster >= len(middles)).any():
        raise WeightsError(
            f"labels have shape {cluster.shape} and dtype {cluster.dtype}; give one cluster in "
            f"[0, {len(middles)}) for each of the {len(points)} documents."
        )
    lengths = np.linalg.norm(points, axis=1)
    if not (np.abs(lengths - 1) < 1e-3).all() or not np.linalg.norm(middles, axis=1).all():
        raise WeightsError("an embedding is not of length 1, or a centroid is 0; normalise them.")
    return points, cluster.astype(np.int64), middles
