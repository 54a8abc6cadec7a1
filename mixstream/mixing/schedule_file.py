"""A TOML file -> a Schedule.

num_steps = 10000                                     # for steps in percent, may be left out
weights = { web = 0.8, math = 0.1, code = 0.1 }       # from step 0 on

[[change]]                                            # a stage
step = 2000
weights = { web = 0.6, math = 0.2, code = 0.2 }
reason = "after warm-up"

[[change]]                                            # a ramp: `until` and, if you like, shape
step = "90%"
until = "100%"
shape = "cosine"
factors = { math = 3, code = 3 }                      # times the weights before, normalised
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from mixstream.errors import RecipeError, StepError, WeightsError
from mixstream.mixing.schedule import RampShape, Schedule
from mixstream.tomlfile import read_toml

__all__ = ["read_schedule"]

_TOP = ("num_steps", "weights", "change")
_CHANGE = ("step", "until", "shape", "num_changes", "weights", "factors", "reason")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "num_steps": ((int,), "a whole number above 0"),
    "num_changes": ((int,), "a whole number above 0"),
    "weights": ((dict, list), "a table of numbers by domain, or a list of them"),
    "factors": ((dict,), "a table of numbers by domain"),
    "change": ((list,), "tables under [[change]]"),
    "reason": ((str,), "text"),
}
"""What a key holds, and how a message says so; steps have a check of their own."""


def read_schedule(path: str | os.PathLike[str], *, num_steps: int | None = None) -> Schedule:
    """Reads a schedule.

    Args:
        path: of the TOML file.
        num_steps: what "90%" is a share of; the file's own num_steps if not given.

    Raises:
        RecipeError: naming the file, the key and the mend.
    """
    where = str(path)
    top = read_toml(Path(path))
    _check_keys(top, _TOP, where)
    total = top.get("num_steps") if num_steps is None else num_steps
    try:
        schedule = Schedule.constant(_wanted(top, "weights", where))
        for number, change in enumerate(top.get("change", []), 1):
            schedule = _with_change(schedule, change, total, f"{where}, change {number}")
    except (WeightsError, StepError) as error:
        raise RecipeError(f"{where}: {error}") from error
    return schedule


def _with_change(
    schedule: Schedule, change: Mapping[str, Any], total: int | None, where: str
) -> Schedule:
    """The schedule with one more stage or ramp."""
    _check_keys(change, _CHANGE, where)
    if ("weights" in change) == ("factors" in change):
        raise RecipeError(f"{where}: give either 'weights' or 'factors', one of the two.")
    step = _step(change, "step", total, where)
    if "weights" in change:
        weights = change["weights"]
    else:
        weights = schedule.boosted(step, change["factors"])
    if "until" not in change:
        for key in ("shape", "num_changes"):
            if key in change:
                raise RecipeError(f"{where}: {key!r} has no effect without 'until'; give both.")
        return schedule.stage(step, weights, reason=change.get("reason", "stage"))
    shape = change.get("shape", "linear")
    if shape not in get_args(RampShape):
        raise RecipeError(f"{where}: 'shape' is {shape!r}; give one of {get_args(RampShape)}.")
    return schedule.ramp(
        step,
        _step(change, "until", total, where),
        weights,
        shape=shape,
        num_changes=change.get("num_changes", 64),
        reason=change.get("reason", "ramp"),
    )


def _step(change: Mapping[str, Any], key: str, total: int | None, where: str) -> int:
    """A step: a whole number, or a share of all steps in percent."""
    value = _wanted(change, key, where)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    try:
        share = float(value.removesuffix("%")) / 100 if value.endswith("%") else -1.0
    except (AttributeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise RecipeError(f"{where}: {key!r} is {value!r}; give a step, or a share as in '90%'.")
    if total is None:
        raise RecipeError(
            f"{where}: {key!r} is {value!r}, a share of a number of steps that nobody gave; add "
            f"num_steps to the file."
        )
    return round(share * total)


def _wanted(values: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in values:
        raise RecipeError(f"{where}: key {key!r} is missing; add it.")
    return values[key]


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuses keys that are not known, and values of another kind than the key's."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where}: a change is {values!r}; give {_KINDS['change'][1]}.")
    for key, value in values.items():
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}; it knows {', '.join(known)}.")
        kinds, wanted = _KINDS.get(key, ((object,), ""))
        is_wrong = not isinstance(value, kinds)
        if is_wrong or (kinds == (int,) and (value < 1 or value is True)):
            raise RecipeError(f"{where}: {key!r} is {value!r}; give {wanted}.")
