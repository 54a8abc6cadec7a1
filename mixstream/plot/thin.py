"""Series of any length -> series that fit the width of a picture, and say how they were thinned."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts, Vector

__all__ = ["Thinned", "thinned", "thinned_changes"]


class Thinned(NamedTuple):
    """A series of (K,) values, a point for some values on end."""

    steps: Vector
    """(n,) float64, the mean step of each point's values."""
    mean: Vector
    """(n, K) float64; NaN where there was no value."""
    low: Vector
    """(n, K) float64, the smallest of each point's values."""
    high: Vector
    """(n, K) float64, the largest."""
    per_point: int
    """Values a point stands for, at most; 1 where nothing was thinned."""


def thinned(steps: Counts, values: Vector, max_points: int) -> Thinned:
    """A series in at most `max_points` points.

    >>> thinned(np.array([0, 1, 2]), np.array([[1.0], [3.0], [9.0]]), 2).mean.tolist()
    [[2.0], [9.0]]

    Args:
        steps: (m,) int64, rising.
        values: (m, K) float64; NaN where there was none.
        max_points: at least 1.
    """
    per_point = max(-(-len(steps) // max_points), 1)
    if per_point == 1:
        return Thinned(steps.astype(np.float64), values, values, values, 1)
    size = -(-len(steps) // per_point) * per_point
    padded = np.full((size, values.shape[1]), np.nan)
    padded[: len(values)] = values
    places = np.full(size, np.nan)
    places[: len(steps)] = steps
    blocks = padded.reshape(-1, per_point, values.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a point without any value is NaN
        return Thinned(
            np.nanmean(places.reshape(-1, per_point), axis=1),
            np.nanmean(blocks, axis=1),
            np.nanmin(blocks, axis=1),
            np.nanmax(blocks, axis=1),
            per_point,
        )


def thinned_changes(
    steps: Counts, weights: Vector, end: float, max_points: int
) -> tuple[Vector, Vector, bool]:
    """A step function in at most `max_points` pieces; the area below it stays the same.

    Args:
        steps: (m,) int64, rising; weights[i] hold from steps[i] to before steps[i + 1].
        weights: (m, K) float64.
        end: where the last piece ends, > steps[0].
        max_points: at least 1.

    Returns:
        (n + 1,) float64 edges, (n, K) float64 values between them, and whether they are means.
    """
    inside = max(int(np.searchsorted(steps, end, side="left")), 1)
    steps, weights = steps[:inside], weights[:inside]
    edges = np.append(np.asarray(steps, dtype=np.float64), max(end, float(steps[-1])))
    if len(steps) <= max_points:
        return edges, weights, False
    integral = np.zeros((len(edges), weights.shape[1]))
    np.cumsum(weights * np.diff(edges)[:, None], axis=0, out=integral[1:])
    even = np.linspace(edges[0], edges[-1], max_points + 1)
    at = np.stack([np.interp(even, edges, column) for column in integral.T], axis=1)
    return even, np.diff(at, axis=0) / np.diff(even)[:, None], True
