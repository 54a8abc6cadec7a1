"""What every method has in common: `update(signal) -> weights`, and a small JSON-able state.

A method is a pure function with the formula and a class that only remembers. The class never
touches a loader: the training loop measures numbers, calls `update`, and hands the weights on,
`loader.set_weights(algorithm.update(numbers))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.checks import checked_weights
from mixstream.arrays import Vector
from mixstream.errors import StateError, WeightsError

State: TypeAlias = dict[str, object]
"""JSON-able state of a method: version, algorithm, num_domains, and its own fields."""

STATE_VERSION = 1
"""Raised when the meaning of a field changes."""


class Algorithm(Protocol):
    """A method that turns one signal into weights, and can be stopped and resumed.

    Methods that need more than one array (PiKE, R&B, GRAPE) take the others as further arguments
    of `update`; all else is the same.
    """

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights that the last update returned; a copy."""
        ...

    def update(self, signal: ArrayLike, /) -> Vector:
        """New (K,) float64 weights on the simplex; WeightsError leaves the old ones in place."""
        ...

    def state_dict(self) -> State:
        """All that the next update depends on, apart from the settings; JSON-able."""
        ...

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a state of the same method and number of domains; StateError if it is not."""
        ...


def packed_state(algorithm: str, num_domains: int, fields: Mapping[str, ArrayLike | None]) -> State:
    """The fields as JSON-able lists and numbers, under a version and the method's name.

    float64 survives JSON to the bit, since Python writes the shortest text that reads back.
    -inf (a log-weight of 0) is written as None, which JSON has a word for.
    """
    state: State = {
        "version": STATE_VERSION,
        "algorithm": algorithm,
        "num_domains": num_domains,
    }
    for key, value in fields.items():
        state[key] = None if value is None else _without_infinity(np.asarray(value).tolist())
    return state


def _without_infinity(value: object) -> object:
    """Nested lists with -inf turned into None."""
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    return None if value == -np.inf else value


class StateReader:
    """A saved state, checked field by field; nothing of the method changes until all were read."""

    def __init__(self, state: Mapping[str, object], algorithm: str, num_domains: int):
        """Check version, method and number of domains.

        Raises:
            StateError: one of them differs; both values are named.
        """
        self._state = state
        expected = {
            "version": STATE_VERSION,
            "algorithm": algorithm,
            "num_domains": num_domains,
        }
        for key, wanted in expected.items():
            found = state.get(key)
            if found != wanted:
                raise StateError(
                    f"the state's {key} is {found!r} where {wanted!r} is needed; "
                    f"load it into the method and corpus that saved it."
                )

    def array(self, key: str, *shape: int) -> Vector:
        """A finite float64 array of this shape; -1 stands for any length."""
        array = self._numbers(key, shape)
        if not np.isfinite(array).all():
            raise StateError(f"the state's {key} is not finite; the state is damaged.")
        return array

    def log_weights(self, key: str, num_domains: int) -> Vector:
        """(K,) float64, log-weights; None in the state is -inf, a weight of 0."""
        array = self._numbers(key, (num_domains,))
        array[np.isnan(array)] = -np.inf
        if np.isposinf(array).any() or not np.isfinite(array).any():
            raise StateError(f"the state's {key} are no log-weights; the state is damaged.")
        return array

    def weights(self, key: str, num_domains: int) -> Vector:
        """(K,) float64, a point on the simplex, bit for bit as it was saved."""
        array = self.array(key, num_domains)
        try:
            near = checked_weights(array, source=f"the state's {key}")
        except WeightsError as error:
            raise StateError(f"{error} The state is damaged.") from error
        if abs(float(array.sum()) - 1.0) > 1e-6:
            raise StateError(
                f"the state's {key} sum to {float(array.sum())} where 1 is needed; "
                f"the state is damaged ({len(near)} domains)."
            )
        return array

    def number(self, key: str) -> float:
        """A finite number."""
        return float(self.array(key))

    def count(self, key: str) -> int:
        """A whole number, 0 or more."""
        value = self._field(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise StateError(f"the state's {key} is {value!r} where a count is needed.")
        return value

    def is_none(self, key: str) -> bool:
        """Whether the field was saved as None."""
        return self._field(key) is None

    def _field(self, key: str) -> object:
        if key not in self._state:
            raise StateError(
                f"the state has no {key!r}; it holds {', '.join(map(str, self._state))}."
            )
        return self._state[key]

    def _numbers(self, key: str, shape: tuple[int, ...]) -> Vector:
        value = self._field(key)
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise StateError(f"the state's {key} is no array of numbers: {error}.") from error
        if array.size == 0 and shape[:1] == (-1,):  # JSON cannot tell (0,) from (0, K)
            array = array.reshape((0, *shape[1:]))
        fits = len(array.shape) == len(shape) and all(
            wanted in (-1, found) for wanted, found in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise StateError(
                f"the state's {key} has shape {array.shape} where {shape} is needed; "
                f"load it into the method and corpus that saved it."
            )
        return array
