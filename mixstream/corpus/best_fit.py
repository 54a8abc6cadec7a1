"""Sizes of pieces -> bins by best-fit decreasing; pieces and bins -> rows of ids.

Nothing here is done once a document: bins are chosen once a size and a room that bins have left,
and the rows of a window are made by one gather.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts, Rows

__all__ = ["best_fit_bins", "rows_of_bins"]

ARROW_BELOW_BYTES = 512
"""Mean size of a window's pieces below which Arrow puts them into rows."""


def best_fit_bins(sizes: Counts, capacity: int) -> Counts:
    """The bin of each item: largest item first, into the fullest bin that still has room.

    At most one item of size 1 goes into a bin (see BestFitPacker). Equal sizes go in input order;
    among equally full bins the choice is a fixed one.

    Items of one size are placed together: with r the least room that some bins have left and that
    is wide enough, every such bin takes r // size of them, because after its first item it is the
    fullest that still has room. So the steps are as many as pairs of sizes and rooms that meet.

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
    bins_of_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set while bins with room for r more stand open
    num_bins = 0
    chosen: list[int] = []  # the bin of each item, items from the largest on
    counts = np.bincount(sizes, minlength=1)
    for size in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[size])
        while left:
            wide_enough = rooms >> size
            if wide_enough:
                room = size + (wide_enough & -wide_enough).bit_length() - 1  # the lowest set bit
                bins = bins_of_room.pop(room)
                rooms ^= 1 << room
            else:
                room, num_new = capacity, -(-left // (1 if size == 1 else capacity // size))
                bins = list(range(num_bins, num_bins + num_new))
                num_bins += num_new
            each = 1 if size == 1 else room // size
            num_full, over = divmod(min(left, each * len(bins)), each)
            full, rest = bins[:num_full], bins[num_full:]
            chosen += full if each == 1 else [bin_ for bin_ in full for _ in range(each)]
            moved = [(room - each * size, full)]
            if over:  # the last bin takes fewer than the others
                chosen += rest[:1] * over
                moved.append((room - over * size, rest[:1]))
                rest = rest[1:]
            moved = [(room, rest)] if size == 1 else [*moved, (room, rest)]
            for new_room, those in moved:
                if new_room and those:
                    bins_of_room.setdefault(new_room, []).extend(those)
                    rooms |= 1 << new_room
            left -= num_full * each + over
    result = np.empty(len(sizes), np.int64)
    result[_stable_order(capacity - sizes)] = chosen
    return result


def rows_of_bins(ids: Rows, num_ids: int, sizes: Counts, bins: Counts, seq_len: int) -> Rows:
    """The rows of the bins, ordered by the earliest piece in each, filled up with the last id.

    Args:
        ids: (m,) the pieces one after the other, and behind them room for padding, or not.
        num_ids: ids of all pieces.
        sizes: (n,) int64, ids of each piece.
        bins: (n,) int64, each of 0 to r - 1 at least once.
        seq_len: S, at least the sum of the sizes in a bin.

    Returns:
        (r, S). A piece of one id stands first in its row, all others in their order.
    """
    num_rows = int(bins.max()) + 1
    first_piece = np.empty(num_rows, np.int64)
    first_piece[bins[::-1]] = np.arange(len(bins))[::-1]  # what is written last stays: the first
    row_of_bin = np.empty(num_rows, np.int64)
    row_of_bin[np.argsort(first_piece)] = np.arange(num_rows)
    row = row_of_bin[bins]
    padding = seq_len - np.bincount(row, weights=sizes).astype(np.int64)
    padded = np.flatnonzero(padding)
    num_all = num_rows * seq_len
    if num_all > len(ids):
        ids = np.concatenate([ids[:num_ids], np.empty(num_all - num_ids, ids.dtype)])
    ids[num_ids:num_all] = ids[num_ids - 1]  # the padding of all rows, one after the other
    order = _stable_order(np.concatenate([3 * row + (sizes > 1), 3 * padded + 2]))
    sizes = np.concatenate([sizes, padding[padded]])
    return _taken(ids[:num_all], sizes, order).reshape(-1, seq_len)


def _stable_order(keys: Counts) -> Counts:
    """argsort; keys below 2**16 are sorted by their digits, which takes a tenth of the time."""
    narrow = np.min_scalar_type(keys.max(initial=0))
    return np.argsort(keys.astype(narrow), kind="stable")


def _taken(values: Rows, sizes: Counts, order: Counts) -> NDArray[Any]:
    """The pieces of an array in another order; Arrow copies short ones, Python long ones.

    A piece takes 0.3 us in Python and a third of that in Arrow, which takes 0.25 s to import
    (benchmarks/convert.py): a piece of 512 bytes is not worth it.
    """
    ends = np.cumsum(sizes) * values.itemsize
    if values.nbytes >= ARROW_BELOW_BYTES * len(sizes):
        starts = (ends - sizes * values.itemsize)[order].tolist()
        stops = ends[order].tolist()
        held = values.data.cast("B")
        joined = b"".join([held[start:stop] for start, stop in zip(starts, stops, strict=True)])
        return np.frombuffer(joined, values.dtype)
    import pyarrow as pa

    offsets = np.concatenate([[0], ends])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    pieces = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), buffers)
    return np.frombuffer(pieces.take(pa.array(order)).buffers()[2], values.dtype)
