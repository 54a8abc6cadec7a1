"""Places where labels want to stand -> places where they can, without covering each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixstream.arrays import Vector

__all__ = ["spread"]


def spread(wanted: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> Vector:
    """Places at least a gap apart, in the wanted order, with the least sum of squared moves.

    >>> spread([0.5, 0.5], 0.25).tolist()
    [0.375, 0.625]

    Args:
        wanted: (n,) numbers in any order; equal ones keep theirs.
        gap: the least distance; less where (n - 1) gaps do not fit.
        low: the least place.
        high: the largest place.

    Returns:
        (n,) float64 in [low, high].

    Source: isotonic regression by pooling adjacent violators, of `wanted - rank * gap`.
    """
    count = len(wanted)
    if count == 0:
        return np.empty(0)
    gap = min(gap, (high - low) / max(count - 1, 1))
    order = np.argsort(wanted, kind="stable")
    shifted = np.asarray(wanted, dtype=np.float64)[order] - gap * np.arange(count)
    blocks: list[tuple[float, int]] = []  # mean, size; rising means
    for value in shifted.tolist():
        mean, size = value, 1
        while blocks and blocks[-1][0] > mean:
            before, number = blocks.pop()
            mean, size = (mean * size + before * number) / (size + number), size + number
        blocks.append((mean, size))
    level = np.concatenate([np.full(size, mean) for mean, size in blocks])
    places = np.empty(count)
    places[order] = np.clip(level, low, high - gap * (count - 1)) + gap * np.arange(count)
    return places
