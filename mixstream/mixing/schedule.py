"""Planned weights: stages, ramps and curricula as a finite list of changes by step.

A schedule is made by adding to one; nothing is drawn or decided by it. `Loader(weights=schedule)`
plans all of its changes at once, so they are in the run log and in every state before they happen.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from mixstream.arrays import Vector
from mixstream.errors import StepError, WeightsError
from mixstream.mixing.weights import WeightsLike, simplex_point

__all__ = ["RampShape", "Schedule", "ScheduledWeights", "curriculum"]

RampShape: TypeAlias = Literal["linear", "cosine"]

_GRID = 2.0**30
"""Places on a ramp are rounded to 2^-30: the cosine of one machine is another's to the bit then."""


class ScheduledWeights(NamedTuple):
    """Weights from a step on."""

    step: int
    weights: Vector
    """(K,) float64, sum 1."""
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Weights that change at planned steps, in stages and ramps.

    >>> plan = Schedule.constant({"web": 0.8, "math": 0.1, "code": 0.1})
    >>> plan = plan.boost(900, {"math": 3, "code": 3}, reason="annealing")
    >>> [round(float(share), 3) for share in plan.at(900)]
    [0.571, 0.214, 0.214]
    """

    domains: tuple[str, ...] | None
    """Their names; None where the weights were given as (K,) numbers in manifest order."""
    changes: tuple[ScheduledWeights, ...]
    """By step, the first at step 0."""

    @classmethod
    def constant(cls, weights: WeightsLike) -> Schedule:
        """The same weights from step 0 on, to add to.

        Args:
            weights: a number a domain, by name or (K,) in manifest order.

        Raises:
            WeightsError: weights that are no point on the simplex.
        """
        if not isinstance(weights, Sized):
            raise WeightsError(
                f"the weights of a schedule are {weights!r}; give one number a domain, by name or "
                f"in manifest order."
            )
        domains = tuple(weights) if isinstance(weights, Mapping) else None
        point = _point(weights, domains, len(weights))
        return cls(domains, (ScheduledWeights(0, point, ""),))

    def stage(self, step: int, weights: WeightsLike, *, reason: str = "stage") -> Schedule:
        """And from a step on, these weights.

        Raises:
            WeightsError: weights that are no point on the simplex, or are of other domains.
            StepError: a change at this step or a later one is planned already.
        """
        self._check_next(step)
        point = _point(weights, self.domains, len(self.changes[0].weights))
        return self._with(ScheduledWeights(step, point, reason))

    def ramp(
        self,
        first_step: int,
        last_step: int,
        weights: WeightsLike,
        *,
        shape: RampShape = "linear",
        num_changes: int = 64,
        reason: str = "ramp",
    ) -> Schedule:
        """And from the weights so far to these ones, in small stairs.

        Args:
            first_step: the last step of the weights so far.
            last_step: the first step of the new weights.
            weights: where the ramp ends.
            shape: "linear", or "cosine" for half a wave: slow, fast, slow.
            num_changes: stairs; fewer where there are fewer steps. A state holds K numbers for
                each one that is still to come.
            reason: for the record.

        Raises:
            WeightsError: weights that are no point on the simplex, or are of other domains.
            StepError: last_step is not after first_step, or changes from there on are planned.
        """
        self._check_next(first_step + 1)
        if last_step <= first_step or num_changes < 1:
            raise StepError(
                f"a ramp from step {first_step} to step {last_step} in {num_changes} changes; give "
                f"a last step after the first one, and at least one change."
            )
        if shape not in get_args(RampShape):
            raise WeightsError(f"shape is {shape!r}; give one of {get_args(RampShape)}.")
        start, end = self.at(first_step), _point(weights, self.domains, self.changes[0][1].size)
        num_steps = last_step - first_step
        num_stairs = min(num_changes, num_steps)
        stairs = []
        for stair in range(1, num_stairs + 1):
            offset = stair * num_steps // num_stairs
            share = offset / num_steps
            if shape == "cosine":
                share = round((1 - math.cos(math.pi * share)) / 2 * _GRID) / _GRID
            mixed = start + share * (end - start) if stair < num_stairs else end
            point = _point(mixed, None, end.size)
            stairs.append(ScheduledWeights(first_step + offset, point, f"{reason} {share:.0%}"))
        return self._with(*stairs)

    def boost(self, step: int, factors: Mapping[str, float], *, reason: str = "boost") -> Schedule:
        """And from a step on, the weights so far with some domains times a factor, normalised.

        Raises:
            WeightsError: an unknown domain, a factor that is no finite number of at least 0, or
                a schedule whose domains have no names.
            StepError: a change at this step or a later one is planned already.
        """
        return self.stage(step, self.boosted(step, factors), reason=reason)

    def boosted(self, step: int, factors: Mapping[str, float]) -> WeightsLike:
        """The weights of a step with some domains times a factor: where a ramp may lead.

        Raises:
            WeightsError: as `boost`.
        """
        if self.domains is None:
            raise WeightsError(
                "factors by name need a schedule whose weights are by name; give it a mapping."
            )
        for name, factor in factors.items():
            if name not in self.domains:
                raise WeightsError(
                    f"unknown domain {name!r} in factors; the schedule holds "
                    f"{', '.join(self.domains[:10])}."
                )
            if not isinstance(factor, Real) or not 0 <= factor < math.inf:
                raise WeightsError(
                    f"the factor of domain {name!r} is {factor!r}; give a finite number of at "
                    f"least 0."
                )
        shares = zip(self.domains, self.at(step).tolist(), strict=True)
        return {name: share * factors.get(name, 1.0) for name, share in shares}

    def at(self, step: int) -> Vector:
        """(K,) float64, the weights of a step of at least 0."""
        index = bisect.bisect_right(self.changes, step, key=_step_of)
        return self.changes[max(index - 1, 0)].weights.copy()

    def weights_like(self, change: ScheduledWeights | None = None) -> WeightsLike:
        """The weights of a change as `set_weights` takes them; the first ones if none is given."""
        change = change or self.changes[0]
        if self.domains is None:
            return change.weights
        return dict(zip(self.domains, change.weights.tolist(), strict=True))

    def _check_next(self, step: int) -> None:
        if step <= self.changes[-1].step:
            raise StepError(
                f"step {step} does not come after step {self.changes[-1].step}, for which the "
                f"schedule has weights; add stages and ramps in the order of their steps."
            )

    def _with(self, *changes: ScheduledWeights) -> Schedule:
        return replace(self, changes=(*self.changes, *changes))


def curriculum(num_steps: Mapping[str, int]) -> Schedule:
    """One domain after the other; with `Loader(shuffle=False)` each in the order of its files.

    Args:
        num_steps: steps of each domain, in the order in which they come. 0 leaves a domain out.
            The last one stays.

    Raises:
        WeightsError: no domain has a step, or a number of steps is below 0.
    """
    if not any(num_steps.values()) or min(num_steps.values()) < 0:
        raise WeightsError(
            f"a curriculum of {dict(num_steps)!r:.200} steps; give each domain at least 0 steps, "
            f"and one of them more."
        )
    stages = [name for name, steps in num_steps.items() if steps]
    ends = np.cumsum([num_steps[name] for name in stages]).tolist()
    schedule = Schedule.constant(dict.fromkeys(num_steps, 0.0) | {stages[0]: 1.0})
    for step, name in zip(ends, stages[1:], strict=False):
        schedule = schedule.stage(
            step, dict.fromkeys(num_steps, 0.0) | {name: 1.0}, reason=f"curriculum: {name}"
        )
    return schedule


def _point(weights: WeightsLike, domains: tuple[str, ...] | None, size: int) -> Vector:
    """Checked, normalised weights in the order of the schedule; (size,)."""
    if domains is None and isinstance(weights, Mapping):
        raise WeightsError(
            "the schedule's first weights have no names, these have; give all of them by name."
        )
    names = domains or [str(index) for index in range(size)]
    return simplex_point(weights, names, np.ones(size, np.int64), source="a schedule")


def _step_of(change: ScheduledWeights) -> int:
    return change.step
