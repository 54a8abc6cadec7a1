"""Numbers a domain -> points on the simplex: the maths that the methods share; pure functions.

All take and return (K,) float64 and cost O(K) or O(K log K): 10,000 domains stay under 10 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.checks import Mask, as_float64, domain_label
from mixstream.arrays import Vector
from mixstream.errors import WeightsError


def uniform_weights(num_domains: int) -> Vector:
    """(K,) float64, 1 / K each.

    Raises:
        WeightsError: K is below 1.
    """
    if num_domains < 1:
        raise WeightsError(f"num_domains is {num_domains}; weights need at least one domain.")
    return np.full(num_domains, 1.0 / num_domains)


def normalized(values: Vector) -> Vector:
    """Non-negative values over their sum.

    Worked example: [1, 3] gives [0.25, 0.75].
    """
    return np.asarray(values / values.sum(), dtype=np.float64)


def log_weights(weights: Vector) -> Vector:
    """log(weights), with -inf for a weight of 0 and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(weights)


def softmax(logits: Vector) -> Vector:
    """exp(logits) / sum(exp(logits)), without overflow; -inf gives a weight of exactly 0.

    Worked example: softmax([0, log 3, -inf]) is [0.25, 0.75, 0].

    Raises:
        WeightsError: a logit is NaN or +inf, or all are -inf.
    """
    top = logits.max()
    if not np.isfinite(top):
        raise WeightsError(
            f"the largest logit is {float(top)}; the signal times the step size is too large for "
            f"float64. Take a smaller step size."
        )
    return normalized(np.exp(logits - top))


def log_normalized(logits: Vector) -> Vector:
    """Logits shifted so that their exp sums to 1: log-weights that never underflow to -inf.

    Raises:
        WeightsError: as `softmax`.
    """
    top = logits.max()
    if not np.isfinite(top):
        raise WeightsError(
            f"the largest logit is {float(top)}; the signal times the step size is too large for "
            f"float64. Take a smaller step size."
        )
    shifted = logits - top
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def exponentiated_gradient(
    logits: Vector, gain: Vector, *, step_size: float, present: Mask | None = None
) -> Vector:
    """One mirror-ascent step on the simplex, in log space: w_i <- w_i exp(step_size gain_i) / Z.

    In log space a weight may fall to e^-100000 and come back; as a plain product it would
    underflow to 0 and stay there.

    Args:
        logits: (K,) float64, log-weights; -inf is a weight of 0, which stays 0 (absorbing).
        gain: (K,) float64, what grows the weight of a domain.
        step_size: factor on the gain.
        present: (K,) bool; the weight of an absent domain stays as it is, and the present ones
            share what they had together. None means that all are present.

    Returns:
        (K,) float64, the new log-weights; their exp sums to 1.

    Worked example: weights [1/2, 1/2], gain [log 3, 0], step size 1 give [3/4, 1/4].

    Raises:
        WeightsError: the step leaves float64.
    """
    with np.errstate(over="ignore"):
        moved = logits + step_size * gain
    if present is None:
        return log_normalized(moved)
    moved[~present] = -np.inf
    if np.isneginf(moved).all():  # only domains of weight 0 were present: nothing to share out
        return log_normalized(logits)
    old = logits[present]
    mass = np.log(np.exp(old - old.max()).sum()) + old.max()
    return log_normalized(np.where(present, log_normalized(moved) + mass, logits))


def smoothed(weights: Vector, smoothing: float) -> Vector:
    """(1 - smoothing) weights + smoothing / K: no weight below smoothing / K.

    Worked example: [1, 0] with smoothing 0.1 gives [0.95, 0.05].
    """
    mixed: Vector = (1.0 - smoothing) * weights + smoothing / len(weights)
    return mixed


def bounded_projection(
    point: Vector,
    *,
    lower: ArrayLike = 0.0,
    upper: ArrayLike = np.inf,
    total: float = 1.0,
    domains: Sequence[str] = (),
) -> Vector:
    """The nearest x (Euclid) with sum x = total and lower <= x <= upper.

    x_i = clip(point_i - t, lower_i, upper_i) for one t. The sum falls piecewise linearly in t,
    with breaks at point - lower and point - upper: sort them, find the piece, solve it. Exact,
    O(K log K).

    Args:
        point: (K,) float64, finite.
        lower: the least of each, one number or (K,); finite.
        upper: the most of each, one number or (K,); inf for none.
        total: what x sums to.
        domains: (K,) names, for the error.

    Returns:
        (K,) float64.

    Worked example: [0.8, 0.6] onto the simplex: t = 0.2, [0.6, 0.4]. With upper = 0.55 the first
    stops there: [0.55, 0.45].

    Source: Held, Wolfe, Crowder 1974; Duchi et al. 2008 for lower = 0 and no upper.

    Raises:
        WeightsError: the bounds leave no room for the total.
    """
    low = np.broadcast_to(as_float64(lower, "lower"), point.shape)
    high = np.broadcast_to(as_float64(upper, "upper"), point.shape)
    _check_room(low, high, total, domains)
    # Above point - lower a domain sits at its lower bound, below point - upper at its upper one.
    breaks = np.sort(np.concatenate((point - low, (point - high)[np.isfinite(high)])))
    first, last = 0, len(breaks) - 1  # sum(breaks[first]) >= total > sum(breaks[last])
    while last - first > 1:
        middle = (first + last) // 2
        if np.clip(point - breaks[middle], low, high).sum() >= total:
            first = middle
        else:
            last = middle
    if np.clip(point - breaks[0], low, high).sum() < total:  # t lies below every break
        free = np.isinf(high)
        x: Vector = np.where(free, point, high)
    else:
        moved = point - (breaks[first] + breaks[last]) / 2
        free = (moved > low) & (moved < high)
        x = np.clip(moved, low, high)
    if free.any():
        excess = (point[free].sum() - (total - x[~free].sum())) / free.sum()
        x[free] = np.clip(point[free] - excess, low[free], high[free])
    return x


def _check_room(low: Vector, high: Vector, total: float, domains: Sequence[str]) -> None:
    """WeightsError unless low <= high and sum(low) <= total <= sum(high)."""
    crossed = np.flatnonzero(~(low <= high))
    if crossed.size:
        index = int(crossed[0])
        raise WeightsError(
            f"the lower bound {low[index]} of {domain_label(index, domains)} is above its upper "
            f"bound {high[index]}; lower one or raise the other."
        )
    slack = 1e-9 * max(abs(total), 1.0)
    if low.sum() > total + slack or high.sum() < total - slack:
        raise WeightsError(
            f"the bounds are infeasible: lower bounds sum to {low.sum():.6g} and upper bounds to "
            f"{high.sum():.6g}, and {total:.6g} must lie between. Loosen them."
        )


def epoch_caps(sizes: ArrayLike, budget: float, max_epochs: ArrayLike) -> Vector:
    """The largest weight of each domain that repeats none of its rows too often.

    A run of `budget` rows draws weight_i * budget rows of domain i, which is
    weight_i * budget / size_i epochs.

    Args:
        sizes: (K,) rows (or tokens) that each domain holds, >= 0.
        budget: rows (or tokens, the same unit) that the run will draw, > 0.
        max_epochs: the most epochs, one number or (K,), > 0; inf for no cap.

    Returns:
        (K,) float64, max_epochs_i * size_i / budget; 0 for an empty domain, even without a cap.

    Worked example: sizes [50, 2000], budget 1000, 4 epochs: caps [0.2, 8].

    Raises:
        WeightsError: a size, the budget or max_epochs is out of range.
    """
    rows = as_float64(sizes, "sizes")
    epochs = as_float64(max_epochs, "max_epochs")
    if not (np.isfinite(rows).all() and (rows >= 0).all()):
        raise WeightsError(f"sizes hold {rows.min()}; they are finite and not negative.")
    if not (np.isfinite(budget) and budget > 0):
        raise WeightsError(f"budget is {budget}; give the rows that the run will draw.")
    if not (epochs > 0).all() or epochs.shape not in ((), rows.shape):
        raise WeightsError(
            f"max_epochs is {epochs}; give one positive number, or one for each of the "
            f"{rows.size} domains."
        )
    with np.errstate(invalid="ignore"):
        caps = np.where(rows == 0, 0.0, epochs * rows / budget)
    return np.asarray(caps, dtype=np.float64)


def capped_weights(
    weights: Vector, caps: Vector, *, total: float = 1.0, domains: Sequence[str] = ()
) -> Vector:
    """Weights no larger than their caps: x_i = min(cap_i, level * weight_i), by water-filling.

    What the capped domains give up goes to the others in proportion to their weights, again and
    again until none is above its cap. This is the nearest point under the caps in Kullback-Leibler
    divergence. Exact, by one sort. This is the one function for caps: every method's weights pass
    through it with the caps of `epoch_caps`.

    Args:
        weights: (K,) float64, >= 0, not all 0; a domain of weight 0 stays at 0.
        caps: (K,) float64, >= 0; inf for none.
        total: what the result sums to.
        domains: (K,) names, for the error.

    Returns:
        (K,) float64; sums to `total`, and is nowhere above the caps.

    Worked example: weights [0.6, 0.3, 0.1], caps [0.3, 1, 1]: the 0.3 that the first gives up is
    split 3 : 1, [0.3, 0.525, 0.175].

    Raises:
        WeightsError: the caps of the domains with weight sum to less than the total.
    """
    open_domains = weights > 0
    room = float(caps[open_domains].sum())
    if not room >= total * (1 - 1e-12):
        raise WeightsError(
            f"infeasible: the caps of the {int(open_domains.sum())} domains with a positive weight "
            f"sum to {room:.6g}, below {total:.6g}"
            f"{_tightest(caps, open_domains, domains)}. Shrink the budget, allow more epochs, or "
            f"give other domains a weight."
        )
    x: Vector = np.zeros_like(weights)
    index = np.flatnonzero(open_domains)
    with np.errstate(over="ignore"):
        index = index[np.argsort(caps[index] / weights[index], kind="stable")]
    share, cap = weights[index], caps[index]
    # If the first n in this order are capped, the level is (total - their caps) / (the others'
    # weights). n is right at the first domain that the level leaves under its cap.
    before = np.concatenate(([0.0], np.cumsum(cap[:-1])))
    after = np.cumsum(share[::-1])[::-1]
    under = np.flatnonzero((total - before) * share <= cap * after)
    num_capped = int(under[0]) if under.size else len(index)
    x[index[:num_capped]] = cap[:num_capped]
    if num_capped < len(index):
        rest = max(total - float(cap[:num_capped].sum()), 0.0)
        shared = rest * normalized(share[num_capped:])  # not rest / sum first: that may overflow
        x[index[num_capped:]] = np.minimum(shared, cap[num_capped:])
    return x


def _tightest(caps: Vector, open_domains: Mask, domains: Sequence[str]) -> str:
    """Where the smallest cap among the domains with weight is, in words; "" where there is none."""
    if not open_domains.any():
        return ""
    index = int(np.flatnonzero(open_domains)[np.argmin(caps[open_domains])])
    return f" (the tightest at {domain_label(index, domains)}, {caps[index]:.6g})"
