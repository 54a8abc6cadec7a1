"""Several micro-batches of each domain -> size and variance of its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.arrays import Counts, Vector
from mixstream.feedback.gradients import Batch, Gradient, GradientProbe, inner_product
from mixstream.feedback.ranks import sum_over_ranks
from mixstream.feedback.undisturbed import undisturbed

__all__ = ["GradientNoise", "gradient_noise"]


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientNoise:
    """What PiKE eats: `update(noise.squared_norms, noise.variances, present=noise.present)`."""

    squared_norms: Vector
    """(K,) float64, ||g||^2 of the mean over the micro-batches; NaN without one."""
    variances: Vector
    """(K,) float64, E ||g - E g||^2 of *one row's* gradient; NaN with fewer than two batches."""
    num_batches: Counts
    """(K,) int64, micro-batches of all ranks with a counted token."""
    rows_per_batch: int
    """Rows of each micro-batch."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """(K,) bool, the domains with two micro-batches or more."""
        return self.num_batches >= 2

    @property
    def unbiased_squared_norms(self) -> Vector:
        """(K,) float64: `squared_norms` less what noise alone adds; may be below 0.

        ||mean||^2 of n micro-batches of b rows expects ||E g||^2 + variance / (n b).
        """
        num_rows = np.maximum(self.num_batches, 1) * self.rows_per_batch
        return self.squared_norms - self.variances / num_rows


def gradient_noise(
    probe: GradientProbe,
    domain_batches: Iterable[Iterable[Batch]],
    *,
    rows_per_batch: int = 1,
) -> GradientNoise:
    """Squared norm of each domain's gradient, and its variance from row to row.

    Args:
        probe: model, loss, parameters.
        domain_batches: for each domain its micro-batches on this rank; none for an absent domain.
            The micro-batches of all ranks are one sample, and need not be as many on each.
        rows_per_batch: b, rows of every micro-batch; rows count alike, however many tokens each
            has. The variance of a micro-batch's gradient, times b, is that of a row's.

    Returns:
        Both for each domain, equal on all ranks. K = 1: one number each.

    Cost: a forward and backward pass for each micro-batch; two gradients held (one running sum and
    one of the micro-batch; squared norms are summed as numbers); an all-reduce of one gradient a
    domain.
    """
    sums: list[torch.Tensor] = []
    with undisturbed(probe.inner_model, mode=probe.mode):
        for batches in domain_batches:
            total, squares, num_batches = _gradient_sums(probe, batches)
            for part in total:
                sum_over_ranks(part, probe.group)
            numbers = torch.stack([squares, squares.new_tensor(num_batches)])
            sum_over_ranks(numbers, probe.group)
            sums.append(torch.cat([numbers, inner_product(total, total)[None]]))
    if not sums:
        raise ValueError("there is no domain; give one list of micro-batches a domain.")
    squares_of, counts, square_of_sum = torch.stack(sums).cpu().numpy().T
    mean_square = _divided(square_of_sum, counts**2)
    # n / (n - 1) (mean of ||g||^2 - ||mean g||^2); rounding may leave it a hair below 0
    spread = np.maximum(squares_of - counts * mean_square, 0.0)
    return GradientNoise(
        squared_norms=mean_square,
        variances=_divided(spread * rows_per_batch, counts - 1),
        num_batches=counts.astype(np.int64),
        rows_per_batch=rows_per_batch,
    )


def _gradient_sums(
    probe: GradientProbe, batches: Iterable[Batch]
) -> tuple[Gradient, torch.Tensor, int]:
    """Of this rank: sum of the mean gradients, sum of their squared norms, how many."""
    total, _ = probe.gradient_sum(None)
    squares = inner_product(total, total)
    num_batches = 0
    for batch in batches:
        gradient, count = probe.gradient_sum(batch)
        if count == 0:
            continue
        mean = tuple(part / count for part in gradient)
        squares = squares + inner_product(mean, mean)
        total = tuple(a + b for a, b in zip(total, mean, strict=True))
        num_batches += 1
    return total, squares, num_batches


def _divided(numbers: Vector, counts: Vector) -> Vector:
    return np.divide(numbers, counts, out=np.full(len(numbers), np.nan), where=counts > 0)
