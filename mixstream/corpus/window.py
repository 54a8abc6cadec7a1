"""Addresses of mapped rows -> arrays over this process's memory, of which one take gathers rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.corpus.layout import TokenDtype
from mixstream.errors import ShardError

__all__ = ["Window", "memory_array"]

MAX_REACH_BYTES = 1 << 40
"""How far a window looks to either side of the first map; maps lie near each other."""


class Window:
    """Arrays over memory itself, one a dtype, of all rows that could start at their places.

    Places lie `pitch` bytes apart. That is the length of a row while the rows of all maps lie on
    one grid, as those of converted shards do up to 4 kB a row (maps start at a page, and their rows
    at a page of the file): then a view is an ordinary (n, S) array. Where they do not, it is 1,
    and the view's rows overlap, which costs 1 us a batch of 32 more.
    """

    def __init__(self, seq_len: int, dtypes: Sequence[TokenDtype]) -> None:
        self._seq_len, self._dtypes = seq_len, tuple(dtypes)
        self.pitch = seq_len * dtypes[0].itemsize if len(dtypes) == 1 else 1
        """Bytes from one place to the next."""
        self.origin = 0
        """Address of place 0."""
        self._reach = 0
        self.first_bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        """The byte at each place."""
        self.views: list[NDArray[Any]] = [
            np.empty((0, seq_len), dtype)
            if self.pitch > 1
            else np.empty(0, f"V{seq_len * dtype.itemsize}")
            for dtype in dtypes
        ]
        """For each dtype: (n, S) rows of it, or, where pitch is 1, (n,) rows as bytes."""

    def reach_to(self, low: int, high: int, stride: int) -> tuple[int, int] | None:
        """Cover the rows from address `low` to `high`, and all that was covered.

        Returns:
            None if it did already; else (m, a): what was place p is now place m * p + a.
        """
        end = self.origin + self._reach
        fits = self.pitch == 1 or (
            stride == self.pitch
            and low % self._dtypes[0].itemsize == 0
            and (self._reach == 0 or (low - self.origin) % self.pitch == 0)
        )
        if fits and self._reach and self.origin <= low and high <= end:
            return None
        factor = 1 if fits else self.pitch
        if not fits:  # from here on every byte is a place
            self.pitch = 1
        row_bytes = [self._seq_len * dtype.itemsize for dtype in self._dtypes]
        slack = min(MAX_REACH_BYTES, 2**61 // max(row_bytes))  # numpy: length * row_bytes < 2**63
        lowest, highest = (min(low, self.origin), max(high, end)) if self._reach else (low, high)
        origin = low - (low - max(1, lowest - slack)) // self.pitch * self.pitch
        shift = (self.origin - origin) // self.pitch
        self.origin, self._reach = origin, highest + slack - origin
        self._make_views(row_bytes)
        return factor, shift

    def _make_views(self, row_bytes: list[int]) -> None:
        num_places = self._reach // self.pitch
        self.first_bytes = memory_array(self.origin, (num_places,), (self.pitch,), "|u1")
        if self.pitch == 1:
            self.views = [
                memory_array(self.origin, (num_places,), (1,), f"|V{size}") for size in row_bytes
            ]
            return
        (dtype,) = self._dtypes
        shape, strides = (num_places, self._seq_len), (self.pitch, dtype.itemsize)
        self.views = [memory_array(self.origin, shape, strides, dtype.str)]
        flags = self.views[0].flags
        if not (flags.c_contiguous and flags.aligned):
            # take would copy it whole, and it is all of the memory: no `assert`, for python -O
            raise ShardError(f"rows from address {self.origin} on lie on no grid; report this")


class _Memory:
    """Some of this process's memory, as numpy's array interface describes it."""

    def __init__(self, description: dict[str, object]) -> None:
        self.__array_interface__ = description


def memory_array(
    origin: int, shape: tuple[int, ...], strides: tuple[int, ...], typestr: str
) -> NDArray[Any]:
    """A read-only array over this process's memory from address `origin` on.

    Making it reads nothing, and indexing it reads what is there: index only what is mapped.
    """
    description = {
        "version": 3,
        "data": (origin, True),
        "shape": shape,
        "strides": strides,
        "typestr": typestr,
    }
    return np.asarray(_Memory(description))
