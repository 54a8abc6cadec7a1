"""A convex function of the weights -> its minimum on the simplex under caps, with a certificate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mixstream.algorithms.simplex import capped_weights, log_weights, normalized
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Objective = Callable[[Vector], tuple[float, Vector]]
"""(K,) weights -> value and (K,) gradient of a smooth convex function."""


def capped_minimum(
    objective: Objective,
    start: Vector,
    caps: Vector,
    *,
    prior: Vector | None = None,
    kl_weight: float = 0.0,
    tolerance: float = 1e-12,
    max_steps: int = 5000,
) -> Vector:
    """The weights that minimise objective(x) + kl_weight KL(x || prior), sum x = 1, x <= caps.

    Mirror descent in Kullback-Leibler geometry: each step is min over x of the linear model plus
    KL(x || x_t) / step plus the penalty, whose solution is a product of powers capped by
    water-filling (`simplex.capped_weights` is the projection in this geometry). The step grows
    as long as the objective curves less than the geometry does, and is halved where it does not.

    Args:
        objective: value and gradient at a point of the simplex.
        start: (K,) float64, positive where the result may be.
        caps: (K,) float64.
        prior: (K,) float64, needed with a kl_weight; where it is 0 so is the result.
        kl_weight: factor of the penalty.
        tolerance: on the certificate, see `improvement_bound`, relative to the gradient's size.
        max_steps: steps at most; most problems take tens.

    Returns:
        (K,) float64; where the steps run out (several domains equally good at a weight of 0), the
        objective is within about 1e-6 of its minimum.

    Worked example: the linear 0 x_0 + 1 x_1, kl_weight 1, uniform prior: x ~ e^-gradient,
    [e, 1] / (e + 1).

    Source: Beck, Teboulle 2003 (mirror descent); Bauschke, Bolte, Teboulle 2017 (the step rule).

    Raises:
        WeightsError: the caps leave no room, or the objective is not finite.
    """
    pull = None if prior is None else log_weights(np.where(caps > 0, prior, 0.0))
    x = capped_weights(start if pull is None else np.where(np.isneginf(pull), 0.0, start), caps)
    value, gradient = objective(x)
    step = 1.0
    for _ in range(max_steps):
        whole = gradient if pull is None else _with_penalty(gradient, x, pull, kl_weight)
        if not np.isfinite(whole).all():
            raise WeightsError("the objective is not finite on the simplex; check the fitted laws.")
        if improvement_bound(whole, x, caps) <= tolerance * max(1.0, float(np.abs(whole).max())):
            break
        logs = log_weights(x)
        for _ in range(60):
            new = _mirror_step(logs, gradient, step, caps=caps, pull=pull, kl_weight=kl_weight)
            new_value, new_gradient = objective(new)
            fall = value + float(gradient @ (new - x)) - new_value
            turn = new_gradient - gradient
            if _bounded_curvature(x, new, turn=turn, fall=fall, step=step, value=value):
                break
            step /= 2
        else:
            break  # no step tells itself from rounding
        x, value, gradient, step = new, new_value, new_gradient, min(step * 1.5, 1e6)
    return x


def improvement_bound(gradient: Vector, x: Vector, caps: Vector) -> float:
    """How far above the minimum the objective at x can be: max over y of gradient . (x - y).

    The best y fills the domains in the order of their gradients, each to its cap.

    Worked example: gradient [0, 1] at x [1/2, 1/2] without caps: the best y is [1, 0], 1/2.

    Source: Frank, Wolfe 1956; the duality gap of their method.
    """
    order = np.argsort(gradient, kind="stable")
    filled = np.minimum(np.cumsum(np.minimum(caps[order], 1.0)), 1.0)
    best = np.diff(filled, prepend=0.0)
    return float(gradient @ x - gradient[order] @ best)


def _with_penalty(gradient: Vector, x: Vector, pull: Vector, kl_weight: float) -> Vector:
    """Gradient with the penalty's; domains of prior or cap 0 get the largest, to stay out."""
    used = ~np.isneginf(pull)
    whole = gradient.copy()
    whole[used] += kl_weight * (np.log(x[used]) - pull[used])
    whole[~used] = whole[used].max()
    return whole


def _mirror_step(
    logs: Vector,
    gradient: Vector,
    step: float,
    *,
    caps: Vector,
    pull: Vector | None,
    kl_weight: float,
) -> Vector:
    """The capped minimum of gradient . x + KL(x || exp(logs)) / step + the penalty."""
    logits = logs - step * gradient
    if pull is not None:
        barred = np.isneginf(pull)
        blend = logits + step * kl_weight * np.where(barred, 0.0, pull)
        logits = np.where(barred, -np.inf, blend / (1 + step * kl_weight))
    return capped_softmax(logits, caps)


def capped_softmax(logits: Vector, caps: Vector) -> Vector:
    """`simplex.capped_weights` of softmax(logits), for logits so far apart that exp underflows.

    A weight that would underflow below the caps comes out as e^-100 of the largest such: nothing,
    but it can come back, where 0 would stay.

    Args:
        logits: (K,) float64; -inf is a weight of 0.
        caps: (K,) float64; those of the domains that are not at -inf sum to 1 at least.

    Returns:
        (K,) float64.

    Worked example: logits [0, -1000, -1000], caps [0.5, 1, 1]: [0.5, 0.25, 0.25].
    """
    x = np.zeros_like(logits)
    index = np.flatnonzero(~np.isneginf(logits) & (caps > 0))
    order = index[np.argsort(log_weights(caps[index]) - logits[index], kind="stable")]
    before = np.concatenate(([0.0], np.cumsum(caps[order][:-1])))
    rest = np.logaddexp.accumulate(logits[order][::-1])[::-1]
    wanted = np.maximum(1.0 - before, 0.0) * np.exp(logits[order] - rest)
    under = np.flatnonzero(wanted <= caps[order])
    num_capped = int(under[0]) if under.size else len(order)
    capped, free = order[:num_capped], order[num_capped:]
    x[capped] = caps[capped]
    if free.size:
        shares = normalized(np.exp(np.maximum(logits[free] - logits[free].max(), -100.0)))
        left = max(1.0 - float(x[capped].sum()), 0.0)
        x[free] = np.minimum(left * shares, caps[free])
    return x


def _bounded_curvature(
    x: Vector, new: Vector, *, turn: Vector, fall: float, step: float, value: float
) -> bool:
    """Whether the objective curves less between two points than the geometry over the step.

    Of values: it is at most the linear model plus KL(new || x) / step. Near the minimum values
    differ by rounding alone, so gradients are compared as well.
    """
    moved = (x > 0) & (new > 0)
    logs = np.log(new[moved]) - np.log(x[moved])
    divergence = float((new[moved] * logs - (new - x)[moved]).sum())
    both_ways = float((logs * (new - x)[moved]).sum())
    slack = 1e-14 * max(abs(value), 1.0)
    return (
        -fall <= divergence / step + slack and float(turn @ (new - x)) <= both_ways / step + 1e-300
    )
