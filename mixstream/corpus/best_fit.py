"""Sizes of pieces -> bins by best-fit decreasing; pieces and bins -> rows of ids.

Nothing here is done once a document: bins are chosen once a size and a room that bins have left,
and pieces are copied a power of two at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts, Rows

__all__ = ["best_fit_bins", "rows_of_bins"]

_BLOCK_BYTES = 2**21
"""Of the rows that are made at a time, all in the same memory: new memory takes as long as what is
done in it (benchmarks/convert.py)."""


def best_fit_bins(sizes: Counts, capacity: int) -> Counts:
    """The bin of each item: largest item first, into the fullest bin that still has room.

    At most one item of size 1 goes into a bin (see BestFitPacker). Among equally full bins, and
    among items of one size, the choice is a fixed one.

    Items of one size are placed together: with r the least room that some bins have left and that
    is wide enough, every such bin takes r // size of them, because after its first item it is the
    fullest that still has room. So the steps are as many as pairs of sizes and rooms that meet:
    3,600 for 44,000 pieces of real text.

    Args:
        sizes: (n,) int64, 1 <= size <= capacity.
        capacity: of every bin.

    Returns:
        (n,) int64, bins numbered from 0 in the order in which they were opened.

    >>> best_fit_bins(np.array([2, 3, 2, 5]), 6)
    array([1, 1, 2, 0])
    >>> best_fit_bins(np.array([1, 1, 4]), 6)
    array([0, 1, 0])
    """
    bins_of_room: dict[int, array[int]] = {}
    rooms = 0  # bit r is set while bins with room for r more stand open
    counts = np.bincount(sizes, minlength=1)
    num_bins = int(counts[capacity // 2 + 1 :].sum())
    chosen = array("q", range(num_bins))  # the bin of each item, items from the largest on
    placed = 0
    present = np.flatnonzero(counts)[::-1]
    for size, left in zip(present.tolist(), counts[present].tolist(), strict=True):
        if 2 * size > capacity:  # no two of them share a bin
            if size < capacity:
                bins_of_room[capacity - size] = chosen[placed : placed + left]
                rooms |= 1 << capacity - size
            placed += left
            continue
        while left:
            wide_enough = rooms >> size
            if wide_enough:
                room = size + (wide_enough & -wide_enough).bit_length() - 1  # the lowest set bit
                bins = bins_of_room[room]
            else:
                room, num_new = capacity, -(-left // (1 if size == 1 else capacity // size))
                bins = bins_of_room[room] = array("q", range(num_bins, num_bins + num_new))
                num_bins += num_new
                rooms |= 1 << room
            each = min(left, 1 if size == 1 else room // size)
            if len(bins) <= left // each:
                taken = bins
                del bins_of_room[room]
                rooms ^= 1 << room
            else:
                taken = bins[: left // each]
                del bins[: len(taken)]
            chosen.extend(taken if each == 1 else taken * each)
            left -= len(taken) * each
            after = room - each * size
            if after and size > 1:
                if after in bins_of_room:
                    bins_of_room[after].extend(taken)
                else:
                    bins_of_room[after] = taken
                    rooms |= 1 << after
    result = np.empty(len(sizes), np.int64)
    result[_stable_order(capacity - sizes)] = np.frombuffer(chosen, np.int64)
    return result


def rows_of_bins(
    ids: Rows, sizes: Counts, bins: Counts, seq_len: int, end_id: int
) -> Iterator[Rows]:
    """The rows of the bins, ordered by the earliest piece in each, filled up with end ids.

    Args:
        ids: (T,) the pieces one after the other.
        sizes: (n,) int64, ids of each piece; they sum to T.
        bins: (n,) int64, each of 0 to r - 1 at least once.
        seq_len: S, at least the sum of the sizes in a bin.
        end_id: the padding.

    Yields:
        (b, S), r rows in all; they are overwritten when more are asked for. A piece of one id
        stands first in its row, others in their order.
    """
    row = _rows_by_earliest_piece(bins)
    order = _stable_order(2 * row + (sizes > 1))
    starts = (np.cumsum(sizes) - sizes)[order]
    row, sizes = row[order], sizes[order]
    filled = np.bincount(row, weights=sizes).astype(np.int64)  # ids of each row
    columns = np.cumsum(sizes) - sizes - (np.cumsum(filled) - filled)[row]
    rows_at_once = max(1, _BLOCK_BYTES // (seq_len * ids.itemsize))
    memory = np.empty((min(rows_at_once, len(filled)), seq_len), ids.dtype)
    edges = [*range(0, len(filled), rows_at_once), len(filled)]
    first_pieces = np.searchsorted(row, edges).tolist()
    for (first, last), of_pieces in zip(pairwise(edges), pairwise(first_pieces), strict=True):
        some, num_ids, block = slice(*of_pieces), filled[first:last], memory[: last - first]
        places = (row[some] - first) * seq_len + columns[some]
        _copy_pieces(ids, starts[some], block.reshape(-1), places, sizes[some], seq_len)
        block.reshape(-1)[_padding_places(num_ids, seq_len)] = end_id
        yield block


def _padding_places(num_ids: Counts, seq_len: int) -> Counts:
    """Where padding stands in rows that begin with so many ids each, one row after the other.

    >>> _padding_places(np.array([3, 4, 2]), 4)
    array([ 3, 10, 11])
    """
    num_padding = seq_len - num_ids
    in_rows = np.cumsum(num_padding)
    before = np.arange(1, len(num_ids) + 1) * seq_len - in_rows  # ids of this row and those above
    places: Counts = np.arange(num_padding.sum()) + np.repeat(before, num_padding)
    return places


def _rows_by_earliest_piece(bins: Counts) -> Counts:
    """The bin of each piece -> its row.

    >>> _rows_by_earliest_piece(np.array([2, 0, 2, 1]))
    array([0, 1, 0, 2])
    """
    num_rows = int(bins.max()) + 1
    first_piece = np.empty(num_rows, np.int64)
    first_piece[bins[::-1]] = np.arange(len(bins))[::-1]  # what is written last stays: the first
    row_of_bin = np.empty(num_rows, np.int64)
    row_of_bin[np.argsort(first_piece)] = np.arange(num_rows)
    rows: Counts = row_of_bin[bins]
    return rows


def _stable_order(keys: Counts) -> Counts:
    """argsort; keys below 2**16 are sorted by their digits, which takes a tenth of the time."""
    narrow = np.min_scalar_type(keys.max(initial=0))
    return np.argsort(keys.astype(narrow), kind="stable")


def _copy_pieces(
    source: Rows, starts: Counts, target: Rows, places: Counts, sizes: Counts, seq_len: int
) -> None:
    """Copies source[start : start + size] to target[place : place + size] for many pieces.

    A piece of w to 2 w - 1 ids, w a power of two, is copied as its first w ids and its last w,
    which overlap; so numpy copies all pieces between two powers of two in two calls. Those of a
    whole row, which are more than half of the ids of long documents, are copied once.
    """
    power = np.frexp(sizes)[1].astype(np.uint8) - 1  # 5, 6 and 7 ids: 2 ** 2
    power[sizes == seq_len] = 255
    order = np.argsort(power, kind="stable")
    counts = np.bincount(power)
    ends = np.cumsum(counts)
    for which in np.flatnonzero(counts).tolist():
        some = order[ends[which] - counts[which] : ends[which]]
        width = seq_len if which == 255 else 2**which
        begin, end = starts[some], places[some]
        from_, to = _windows(source, width), _windows(target, width)
        to[end] = from_[begin]
        if width > 1 and which != 255:
            last = sizes[some] - width
            to[end + last] = from_[begin + last]


def _windows(values: Rows, width: int) -> NDArray[Any]:
    """(m - width + 1,) of opaque items over (m,) values: item i is values[i : i + width]."""
    item = np.dtype(f"V{width * values.itemsize}")
    return np.ndarray((len(values) - width + 1,), item, values, strides=(values.itemsize,))
