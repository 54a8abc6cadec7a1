"""Domain weights as users give them -> a point on the simplex, and the record of a change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, SupportsFloat, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts, Vector
from mixstream.errors import WeightsError

__all__ = ["WeightChange", "WeightsLike", "natural_weights", "simplex_point", "weights_among"]


class SupportsArray(Protocol):
    """Anything numpy can read as an array; a torch tensor on any device, too."""

    def __array__(self) -> NDArray[np.generic]:
        """The values as a numpy array."""


WeightsLike: TypeAlias = Mapping[str, float] | Sequence[float] | SupportsArray
"""One number a domain: by name, or (K,) in manifest order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightChange:
    """A change of the weights that has been decided, and from where it is felt."""

    at_row: int
    """The first global row drawn by the new weights."""
    weights: Vector
    """(K,) float64, the new weights; they sum to 1."""
    reason: str = ""
    """Why, in the words of the caller."""
    at_step: int | None = None
    """The first step that holds such a row; None where nobody counts steps."""
    among: tuple[str, ...] | None = None
    """The domains that there were when it was decided, where the corpus has changed since."""
    num_batches_in_flight: int = 0
    """Batches drawn by the old weights and not delivered when the change was decided."""


def natural_weights(num_rows: Counts) -> Vector:
    """Each domain's share of all rows: (K,) int64 -> (K,) float64."""
    return np.asarray(num_rows / num_rows.sum(), dtype=np.float64)


def weights_among(
    weights: Vector, domains: Sequence[str], among: Sequence[str]
) -> tuple[Vector, Counts]:
    """The weights of domains that rows are drawn among, and where each of these stands today.

    Args:
        weights: (K,) float64.
        domains: K names.
        among: m names.

    Returns:
        (m,) float64 weights, 0 for a domain that is gone, and (m,) int64 indices into `domains`,
        -1 for one that is gone.
    """
    place = {name: index for index, name in enumerate(domains)}
    columns = np.array([place.get(name, -1) for name in among], dtype=np.int64)
    return np.where(columns < 0, 0.0, weights[columns]), columns


def simplex_point(
    weights: WeightsLike, domains: Sequence[str], num_rows: Counts, *, source: str
) -> Vector:
    """Checked, normalised weights in manifest order.

    Args:
        weights: a number a domain, by name or (K,) in manifest order; non-negative, finite, with a
            positive sum.
        domains: the K names.
        num_rows: (K,) int64, rows of each domain; a domain without rows takes weight 0 alone.
        source: who gave them, for the message.

    Returns:
        (K,) float64, sum 1. The sum is rounded once (math.fsum), so that every machine normalises
        to the same bits.

    Raises:
        WeightsError: naming the domain or the value.
    """
    values = _in_order(weights, domains, source)
    for index in np.flatnonzero(~np.isfinite(values) | (values < 0))[:1]:
        raise WeightsError(
            f"weight of domain {domains[index]!r} in {source} is {values[index]}; "
            f"give a finite number of at least 0."
        )
    for index in np.flatnonzero((values > 0) & (num_rows == 0))[:1]:
        raise WeightsError(
            f"weight of domain {domains[index]!r} in {source} is {values[index]}, but the domain "
            f"holds no rows; give it weight 0."
        )
    # a power of two near the largest first, so that neither the sum nor the shares overflow
    values = np.ldexp(values, -math.frexp(values.max(initial=0.0))[1])
    total = math.fsum(values.tolist())
    if total <= 0:
        raise WeightsError(
            f"all weights in {source} are 0; give a positive one to at least one of "
            f"{_names(domains)}."
        )
    return np.asarray(values / total, dtype=np.float64)


def _in_order(weights: WeightsLike, domains: Sequence[str], source: str) -> Vector:
    """The raw numbers as (K,) float64 in manifest order."""
    if isinstance(weights, Mapping):
        known = set(domains)
        unknown = [name for name in weights if name not in known]
        if unknown:
            raise WeightsError(
                f"unknown domain {unknown[0]!r} in {source}; the corpus holds {_names(domains)}. "
                f"Rename it, or convert it first."
            )
        missing = [name for name in domains if name not in weights]
        if missing:
            raise WeightsError(
                f"domain {missing[0]!r} is missing in {source}; name every domain of "
                f"{_names(domains)} (weight 0 leaves one out)."
            )
        weights = [weights[name] for name in domains]
    try:
        values = _as_array(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{source} is {weights!r}, which is not one number a domain: {error}."
        ) from error
    if values.shape != (len(domains),):
        raise WeightsError(
            f"{source} has shape {values.shape}; the corpus holds {len(domains)} domains: "
            f"{_names(domains)}. Give one number a domain, shape ({len(domains)},)."
        )
    return values


def _as_array(weights: Sequence[float] | SupportsArray) -> Vector:
    """The numbers as float64, whatever holds them; text and complex numbers are no numbers here."""
    if isinstance(weights, (list, tuple)):
        values = np.array([_as_number(value) for value in weights], dtype=np.float64)
    elif hasattr(
        weights, "detach"
    ):  # a torch tensor, which this wing does not know: off its device
        values = np.asarray(weights.detach().cpu().double())
    else:
        values = np.asarray(weights)
    if values.dtype.kind not in "biuf":
        message = f"its values have dtype {values.dtype}"
        raise TypeError(message)
    return values.astype(np.float64)


def _as_number(value: SupportsFloat) -> float:
    """One number: Python's, numpy's, or a tensor of no axes, with or without a gradient."""
    if isinstance(value, (str, bytes)):
        message = f"{value!r} is text"
        raise TypeError(message)
    return float(value.detach() if hasattr(value, "detach") else value)


def _names(domains: Sequence[str]) -> str:
    """The domains for a message, the first ten by name."""
    rest = f" and {len(domains) - 10} more" if len(domains) > 10 else ""
    return ", ".join(domains[:10]) + rest
