"""Simulated epoching: rows of each domain and two budgets -> the rows that a small run may use.

A small run that stands for a large one must repeat its rare domains as often as the large one will.
So each domain is cut down as far as the budget is: a run of 1 % of the budget sees 1 % of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.checks import as_float64, domain_label
from mixstream.arrays import Counts
from mixstream.errors import WeightsError


def simulated_rows(
    sizes: ArrayLike, budget: int, target_budget: int, *, domains: Sequence[str] = ()
) -> Counts:
    """Rows of each domain that a run of `budget` may draw from, to repeat them as a large one will.

    Args:
        sizes: (K,) whole numbers, rows (or tokens) that each domain holds.
        budget: what the small run draws, in the unit of the sizes.
        target_budget: what the large run will draw, no less.
        domains: (K,) names, for error messages.

    Returns:
        (K,) int64, floor(size_i * budget / target_budget), in whole numbers without rounding; 0 for
        a domain that is empty already.

    Worked example: sizes [3000, 250], budgets 2 and 1000: [6, 0], and the second is refused.

    Source: marin, LmDataConfig: int(true_length * experiment_budget / target_budget).

    Raises:
        WeightsError: budgets or sizes out of range; or a domain of which no row would be left, so
            that the small run could not tell what it is worth.
    """
    numbers = as_float64(sizes, "sizes")
    bad = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0) & (numbers % 1 == 0)).ravel())
    if numbers.ndim != 1 or bad.size:
        said = f"hold {numbers[bad[0]]}" if numbers.ndim == 1 else f"have shape {numbers.shape}"
        raise WeightsError(f"sizes {said}; give a whole number of rows for each domain.")
    if not 0 < budget <= target_budget:
        raise WeightsError(
            f"budget is {budget} and target_budget {target_budget}; give what the small run draws, "
            f"and what the run that it stands for will, which is no less."
        )
    rows = [int(size) for size in np.asarray(sizes).tolist()]
    left = np.array([size * int(budget) // int(target_budget) for size in rows], dtype=np.int64)
    lost = np.flatnonzero((left == 0) & (numbers > 0))
    if lost.size:
        index = int(lost[0])
        raise WeightsError(
            f"of the {rows[index]} rows of {domain_label(index, domains)} none is left at "
            f"{budget} / {target_budget} of them; take a larger budget, or leave the domain out."
        )
    return left
