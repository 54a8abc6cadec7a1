"""A function of step and metrics -> new weights at the end of a trainer's step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from mixstream.loader import Loader
from mixstream.mixing.weights import WeightsLike

__all__ = ["Steer", "apply_steer"]

Steer: TypeAlias = Callable[[int, Mapping[str, float]], WeightsLike | None]
"""(optimizer steps done, newest value of each metric the trainer has reported) -> weights, or None
to leave them. Every rank calls it and must decide alike *whether* to change; rank 0's numbers are
taken."""


def apply_steer(
    steer: Steer | None, loader: Loader, step: int, metrics: Mapping[str, float]
) -> None:
    """Asks for weights and sets them; the next undrawn batch feels them."""
    weights = None if steer is None else steer(step, metrics)
    if weights is not None:
        name = getattr(steer, "__name__", type(steer).__name__)
        loader.set_weights(weights, reason=f"{name} at the trainer's step {step}")
