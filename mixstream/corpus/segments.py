"""Rows of ids -> what they tell of themselves: where padding stands, and where segments begin.

An end id right after an end id is padding, for every document holds an id before its end id
(packing.py); so an end id in column 0 is always the end of a document that began in an earlier row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Rows

__all__ = ["num_padding", "padding_mask", "segment_starts"]

_BLOCK_IDS = 2**18
"""Looked at together: what is made of them lies in a cache, where fresh memory takes ten times as
long (a shard's rows have 32 Mi ids)."""


def padding_mask(rows: Rows, end_id: int) -> NDArray[np.bool_]:
    """True where an id is padding: an end id right after an end id.

    Args:
        rows: (B, S) ids of any integer dtype.
        end_id: the end-of-text id.

    Returns:
        (B, S) bool. Column 0 is never padding.

    >>> padding_mask(np.array([[5, 0, 6, 0, 0, 0], [0, 7, 8, 9, 8, 7]]), end_id=0).astype(int)
    array([[0, 0, 0, 0, 1, 1],
           [0, 0, 0, 0, 0, 0]])
    """
    is_end = rows == end_id
    mask = np.zeros(rows.shape, np.bool_)
    np.logical_and(is_end[:, 1:], is_end[:, :-1], out=mask[:, 1:])
    return mask


def num_padding(rows: Rows, end_id: int) -> int:
    """How many ids of the rows are padding.

    >>> num_padding(np.array([[5, 0, 6, 0, 0, 0], [0, 7, 8, 9, 8, 7]]), end_id=0)
    2
    """
    found, rows_at_once = 0, max(1, _BLOCK_IDS // max(1, rows.shape[1]))
    for first in range(0, len(rows), rows_at_once):
        is_end = rows[first : first + rows_at_once] == end_id
        found += int(np.count_nonzero(is_end[:, 1:] & is_end[:, :-1]))
    return found


def segment_starts(rows: Rows, end_id: int) -> NDArray[np.bool_]:
    """True where a segment begins: what attention masked by document must not look past.

    A segment is the part of one document in a row, its end id included, or the row's whole run of
    padding. So one begins in column 0 and after every end id, but not between padding and padding.

    Args:
        rows: (B, S) ids of any integer dtype.
        end_id: the end-of-text id.

    Returns:
        (B, S) bool. Column 0 is always True.

    >>> segment_starts(np.array([[5, 0, 6, 0, 0, 0], [0, 7, 8, 9, 8, 7]]), end_id=0).astype(int)
    array([[1, 0, 1, 0, 1, 0],
           [1, 1, 0, 0, 0, 0]])
    """
    padding = padding_mask(rows, end_id)
    starts = np.ones(rows.shape, np.bool_)
    np.logical_and(rows[:, :-1] == end_id, ~(padding[:, :-1] & padding[:, 1:]), out=starts[:, 1:])
    return starts
