"""What a caller gives -> float64 arrays that are finite and of the right shape, or WeightsError.

Every method checks its whole input here before it changes a single number of its state: a refused
signal leaves the old weights as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Mask = NDArray[np.bool_]
"""(K,) bool, one truth a domain."""


def domain_label(index: int, domains: Sequence[str] = ()) -> str:
    """How an error names a domain: its index, and its name where the caller gave names."""
    return f"domain {index} ({domains[index]!r})" if domains else f"domain {index}"


def checked_signal(
    values: ArrayLike,
    shape: tuple[int, ...],
    *,
    source: str,
    domains: Sequence[str] = (),
    present: Mask | None = None,
) -> Vector:
    """A float64 copy of `values`: of this shape, and finite wherever `present`.

    Args:
        values: numbers to check.
        shape: the shape they must have; the first axis counts domains.
        source: what the numbers are, for the error ("excess_loss").
        domains: (K,) names, for the error; empty where only the index is known.
        present: (K,) bool, the domains that were measured; None means all. Absent rows are not
            read and come back as 0, so they may hold anything, NaN too.

    Raises:
        WeightsError: not numbers, the wrong shape, NaN or infinite.
    """
    signal = as_float64(values, source)
    if signal.shape != shape:
        raise WeightsError(
            f"{source} has shape {signal.shape} where {shape} is needed; "
            f"give one number for each of the {shape[0]} domains, in manifest order."
        )
    if present is not None:
        signal[~present] = 0.0
    good = np.isfinite(signal)
    if good.all():
        return signal
    place = np.argwhere(~good)[0]
    raise WeightsError(
        f"{source} is {float(signal[tuple(place)])} at {domain_label(int(place[0]), domains)}; "
        f"the update is refused and the old weights stay. Say what was not measured, where "
        f"update takes present=, or skip this one."
    )


def as_float64(values: ArrayLike, source: str) -> Vector:
    """A new float64 array with these values; WeightsError if they are no real numbers."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{source} is no array of real numbers: {error}.") from error


def checked_present(present: ArrayLike | None, num_domains: int) -> Mask | None:
    """(K,) bool mask of the measured domains, or None where all were; at least one must be.

    Raises:
        WeightsError: the wrong shape, not bool, or no domain present.
    """
    if present is None:
        return None
    mask = np.array(present)
    if mask.dtype != np.bool_ or mask.shape != (num_domains,):
        raise WeightsError(
            f"present has dtype {mask.dtype} and shape {mask.shape}; "
            f"give one bool for each of the {num_domains} domains."
        )
    if not mask.any():
        raise WeightsError("present names no domain; skip this update instead.")
    return None if mask.all() else mask


def checked_weights(
    weights: ArrayLike, *, source: str = "weights", domains: Sequence[str] = ()
) -> Vector:
    """A copy of `weights` as a point on the simplex: non-negative, divided by its sum.

    Raises:
        WeightsError: not (K,) with K >= 1, or a value that is NaN, infinite or negative, or all 0.
    """
    point = as_float64(weights, source)
    if point.ndim != 1 or point.size == 0:
        raise WeightsError(f"{source} has shape {point.shape}; give one number a domain.")
    if domains and len(domains) != point.size:
        raise WeightsError(
            f"{source} holds {point.size} numbers for {len(domains)} domains; give one a domain."
        )
    bad = np.flatnonzero(~(np.isfinite(point) & (point >= 0)))
    if bad.size:
        raise WeightsError(
            f"{source} is {float(point[bad[0]])} at {domain_label(int(bad[0]), domains)}; "
            f"weights are finite and not negative."
        )
    top = float(point.max())
    if top == 0:
        raise WeightsError(f"{source} is 0 in every domain; give one a positive weight.")
    point /= top  # so that neither a sum of huge nor of tiny numbers leaves float64
    point /= point.sum()
    return point


def checked_number(
    value: float,
    name: str,
    low: float,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """`value` as a float, if it is finite and in the range; WeightsError if not.

    Args:
        value: the setting.
        name: its name, for the error.
        low: the least value.
        high: the largest value.
        open_low: refuse `low` itself.
        open_high: refuse `high` itself.
    """
    number = float(value)
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if np.isfinite(number) and above and below:
        return number
    left, right = "(" if open_low else "[", ")" if open_high or np.isinf(high) else "]"
    raise WeightsError(f"{name} is {value}; it must be in {left}{low}, {high}{right}.")
