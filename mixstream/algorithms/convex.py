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
    until the linear model is too good, and shrinks then.

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
    x = np.maximum(x, np.where(x > 0, 1e-300, 0.0))
    value, gradient = objective(x)
    step = 1.0
    for _ in range(max_steps):
        new, step = _accepted_step(objective, x, value, gradient, caps, pull, kl_weight, step)
        change = float(np.abs(new - x).max())
        x = new
        value, gradient = objective(x)
        if change < tolerance * min(step, 1.0):
            break
        step = min(step * 1.5, 1e6)
    return x


def _accepted_step(
    objective: Objective,
    x: Vector,
    value: float,
    gradient: Vector,
    caps: Vector,
    pull: Vector | None,
    kl_weight: float,
    step: float,
) -> tuple[Vector, float]:
    """The next point, and the step at which the linear model bounds the objective from above."""
    logs = log_weights(x)
    for _ in range(100):
        logits = logs - step * gradient
        if pull is not None and kl_weight > 0:
            with np.errstate(invalid="ignore"):
                logits = (logits + step * kl_weight * pull) / (1 + step * kl_weight)
            logits = np.where(np.isneginf(pull), -np.inf, logits)
        new = capped_weights(normalized(np.exp(logits - logits.max())), caps)
        moved = new > 0
        distance = float((new[moved] * (np.log(new[moved]) - logs[moved])).sum())
        bound = value + float(gradient @ (new - x)) + distance / step
        if objective(new)[0] <= bound + 1e-14 * max(abs(value), 1.0):
            return new, step
        step /= 2
    raise WeightsError("the objective is not convex or not finite here; check the fitted laws.")
