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
    max_steps: int = 20_000,
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
        tolerance: on the largest change of a weight in a step.
        max_steps: steps at most.

    Returns:
        (K,) float64.

    Worked example: the linear 0 x_0 + 1 x_1, kl_weight 1, uniform prior: x ~ e^-gradient,
    [e, 1] / (e + 1).

    Source: Beck, Teboulle 2003 (mirror descent); Bauschke, Bolte, Teboulle 2017 (the step rule).

    Raises:
        WeightsError: the caps leave no room.
    """
    pull = None if prior is None else log_weights(prior)
    x = capped_weights(start if pull is None else np.where(np.isneginf(pull), 0.0, start), caps)
    gradient = objective(x)[1]
    step = 1.0
    for _ in range(max_steps):
        logs = log_weights(x)
        for _ in range(100):
            new = _mirror_step(logs, gradient, step, caps, pull, kl_weight)
            new_gradient = objective(new)[1]
            if _bounded_curvature(x, new, gradient, new_gradient, step):
                break
            step /= 2
        else:
            raise WeightsError("the objective is not smooth or not finite; check the fitted laws.")
        change = float(np.abs(new - x).max())
        x, gradient = new, new_gradient
        if change < tolerance * min(step, 1.0):
            break
        step = min(step * 1.5, 1e6)
    return x


def _mirror_step(
    logs: Vector,
    gradient: Vector,
    step: float,
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
    return capped_weights(normalized(np.exp(logits - logits.max())), caps)


def _bounded_curvature(
    x: Vector, new: Vector, gradient: Vector, new_gradient: Vector, step: float
) -> bool:
    """Whether the gradient changed by less than the geometry's between the points, over the step.

    Compared are gradients, not values: near the minimum values differ by rounding alone.
    """
    if not np.isfinite(new_gradient).all():
        return False
    moved = (x > 0) & (new > 0)
    distance = float(((np.log(new[moved]) - np.log(x[moved])) * (new - x)[moved]).sum())
    return float((new_gradient - gradient) @ (new - x)) <= 0.9 * distance / step
