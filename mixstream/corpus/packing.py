"""Token ids of documents -> rows of seq_len ids; and what a row tells: its padding and segments.

Every document comes with its end id, holds at least one id before it, and no end id inside. So
inside a row an end id right after an end id is always padding, while an end id in column 0 is
always the end of a document that began in an earlier row. Padding is the end id itself: rows stay
readable by anyone who knows the end-of-text id alone.

To add a policy: a class that fulfils Packer, and its line in open_packer.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts, Rows, Tokens
from mixstream.errors import RecipeError

__all__ = [
    "BestFitPacker",
    "ConcatPacker",
    "Packer",
    "best_fit_bins",
    "num_padding",
    "open_packer",
    "padding_mask",
    "segment_starts",
]

DEFAULT_WINDOW_TOKENS = 2**23
"""Tokens that BestFitPacker holds at once: 32 MiB."""


class Packer(Protocol):
    """Turns documents into rows; no token is lost and none is added but padding."""

    def pack(self, ids: Tokens, lengths: Counts) -> Rows:
        """Takes documents, gives the rows that are ready.

        Args:
            ids: (T,) uint32, the ids of all documents one after the other, end ids included.
            lengths: (n,) int64, ids of each document, all >= 2; they sum to T.

        Returns:
            (r, S) uint32, r >= 0.
        """
        ...

    def flush(self) -> Rows:
        """The rows of all that is still held, (r, S) uint32; the packer is as new afterwards."""
        ...


def open_packer(
    name: str, seq_len: int, end_id: int, *, window_tokens: int | None = None
) -> Packer:
    """The packer of that name: "concat" or "best_fit".

    Args:
        name: the policy.
        seq_len: S, ids in a row, >= 1.
        end_id: the tokenizer's end-of-text id.
        window_tokens: see BestFitPacker; None is its default.

    Raises:
        RecipeError: unknown name, seq_len or window_tokens below 1, or window_tokens for "concat".
    """
    if name == "best_fit":
        window = DEFAULT_WINDOW_TOKENS if window_tokens is None else window_tokens
        return BestFitPacker(seq_len, end_id, window_tokens=window)
    if name != "concat":
        raise RecipeError(f"packing is {name!r}; mixstream has 'concat' and 'best_fit'.")
    if window_tokens is not None:
        raise RecipeError(
            f"window_tokens is {window_tokens}, but packing 'concat' has no window. "
            f"Leave it out, or set packing to 'best_fit'."
        )
    return ConcatPacker(seq_len, end_id)


class ConcatPacker:
    """Documents one after the other, cut where a row is full; only the last row is padded.

    The rows do not depend on how the documents are spread over calls of pack.

    >>> packer = ConcatPacker(seq_len=4, end_id=0)
    >>> packer.pack(np.array([5, 6, 0, 7, 8, 0], np.uint32), np.array([3, 3]))
    array([[5, 6, 0, 7]], dtype=uint32)
    >>> packer.flush()
    array([[8, 0, 0, 0]], dtype=uint32)
    """

    def __init__(self, seq_len: int, end_id: int) -> None:
        _check_at_least_one("seq_len", seq_len)
        self._seq_len = seq_len
        self._end_id = end_id
        self._rest: Tokens = np.empty(0, np.uint32)

    def pack(self, ids: Tokens, lengths: Counts) -> Rows:
        """See Packer."""
        _check_documents(ids, lengths, self._end_id)
        held = np.concatenate([self._rest, ids])
        num_whole = len(held) // self._seq_len * self._seq_len
        self._rest = held[num_whole:].copy()  # a view would keep all of `held` alive
        return held[:num_whole].reshape(-1, self._seq_len)

    def flush(self) -> Rows:
        """See Packer."""
        rows = np.full((-(-len(self._rest) // self._seq_len), self._seq_len), self._end_id)
        rows = rows.astype(np.uint32)
        rows.flat[: len(self._rest)] = self._rest
        self._rest = np.empty(0, np.uint32)
        return rows


class BestFitPacker:
    """Best-fit decreasing inside a window of documents: fewer documents cut than concat cuts.

    A document that fits a row (with its end id) is never cut. A longer one is cut into pieces of S,
    and its last piece is placed like a document. A window is the fewest documents, in input order,
    that hold `window_tokens` ids; so the rows do not depend on how the documents are spread over
    calls of pack. Rows of a window stand in the order of their earliest piece, pieces of a row in
    the order of the input, except that the last piece of a long document, when it is its end id
    alone, stands in column 0: elsewhere it would read as padding. A row holds one such at most.

    >>> packer = BestFitPacker(seq_len=4, end_id=0)
    >>> packer.pack(np.array([5, 0, 6, 7, 0, 8, 0], np.uint32), np.array([2, 3, 2]))
    array([], shape=(0, 4), dtype=uint32)
    >>> packer.flush()
    array([[5, 0, 8, 0],
           [6, 7, 0, 0]], dtype=uint32)

    Source: Ding et al. 2024, arXiv:2404.10830, section 3. Deviations: a window instead of the whole
        corpus; bins by remaining room in one list and one bit mask instead of a segment tree (the
        same choice, up to ties); the rule for an end id alone.
    """

    def __init__(
        self, seq_len: int, end_id: int, *, window_tokens: int = DEFAULT_WINDOW_TOKENS
    ) -> None:
        _check_at_least_one("seq_len", seq_len)
        _check_at_least_one("window_tokens", window_tokens)
        self._seq_len = seq_len
        self._end_id = end_id
        self._window_tokens = window_tokens
        self._ids: list[Tokens] = []
        self._lengths: list[Counts] = []
        self._num_held = 0

    def pack(self, ids: Tokens, lengths: Counts) -> Rows:
        """See Packer."""
        _check_documents(ids, lengths, self._end_id)
        ready: list[Rows] = [np.empty((0, self._seq_len), np.uint32)]
        ends = np.cumsum(lengths)
        begin = first = 0  # tokens and documents of this call that are already in a window
        while self._num_held + len(ids) - begin >= self._window_tokens:
            room = self._window_tokens - self._num_held
            last = int(np.searchsorted(ends, begin + room))  # the document that fills the window
            self._hold(ids[begin : ends[last]], lengths[first : last + 1])
            ready.append(self.flush())
            begin, first = int(ends[last]), last + 1
        self._hold(ids[begin:].copy(), lengths[first:].copy())
        return np.concatenate(ready)

    def _hold(self, ids: Tokens, lengths: Counts) -> None:
        self._ids.append(ids)
        self._lengths.append(lengths)
        self._num_held += len(ids)

    def flush(self) -> Rows:
        """See Packer."""
        if not self._num_held:
            return np.empty((0, self._seq_len), np.uint32)
        ids, lengths = np.concatenate(self._ids), np.concatenate(self._lengths)
        self._ids, self._lengths, self._num_held = [], [], 0
        starts, sizes = _pieces(lengths, self._seq_len)
        bins = best_fit_bins(sizes, self._seq_len)
        return _rows_of_bins(ids, starts, sizes, bins, self._seq_len, self._end_id)


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise RecipeError(f"{name} is {value}; give at least 1.")


def _check_documents(ids: Tokens, lengths: Counts, end_id: int) -> None:
    """A slip here would turn tokens into padding, so it is worth its one pass over `lengths`."""
    assert int(lengths.sum()) == len(ids), "lengths sum to the number of ids"
    assert (lengths >= 2).all(), "a document holds an id before its end id"
    assert (ids[np.cumsum(lengths) - 1] == end_id).all(), "every document ends with its end id"


def _pieces(lengths: Counts, seq_len: int) -> tuple[Counts, Counts]:
    """Start and size of every piece of at most seq_len ids, in input order.

    >>> _pieces(np.array([3, 9]), 4)
    (array([ 0,  3,  7, 11]), array([3, 4, 4, 1]))
    """
    ends = np.cumsum(lengths)
    num_pieces = -(-lengths // seq_len)
    firsts = np.cumsum(num_pieces) - num_pieces
    in_document = np.arange(num_pieces.sum()) - np.repeat(firsts, num_pieces)
    starts = np.repeat(ends - lengths, num_pieces) + in_document * seq_len
    return starts, np.minimum(seq_len, np.repeat(ends, num_pieces) - starts)


def best_fit_bins(sizes: Counts, capacity: int) -> Counts:
    """The bin of each item: largest item first, into the fullest bin that still has room.

    At most one item of size 1 goes into a bin (see BestFitPacker). Equal sizes go in input order;
    of equally full bins the one touched last is taken.

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
    bins = np.empty(len(sizes), np.int64)
    bins_of_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set while a bin with room for r more stands open
    num_bins = 0
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        wide_enough = rooms >> size
        if wide_enough:
            room = size + (wide_enough & -wide_enough).bit_length() - 1  # the lowest set bit
            chosen = bins_of_room[room].pop()
            rooms ^= (not bins_of_room[room]) << room
        else:
            room, chosen, num_bins = capacity, num_bins, num_bins + 1
        bins[item] = chosen
        if room > size > 1:
            bins_of_room[room - size].append(chosen)
            rooms |= 1 << (room - size)
    return bins


def _rows_of_bins(
    ids: Tokens, starts: Counts, sizes: Counts, bins: Counts, seq_len: int, end_id: int
) -> Rows:
    """The rows of the bins, ordered by the earliest piece in each."""
    _, first_piece, bins = np.unique(bins, return_index=True, return_inverse=True)
    row_of_bin = np.argsort(np.argsort(first_piece))
    row = row_of_bin[bins]
    order = np.lexsort((np.arange(len(sizes)), sizes > 1, row))  # an end id alone comes first
    filled = np.bincount(row, weights=sizes).astype(np.int64)
    rows = np.full((len(filled), seq_len), end_id, np.uint32)
    pieces = [ids[at : at + size] for at, size in zip(starts[order], sizes[order], strict=True)]
    rows[np.arange(seq_len) < filled[:, None]] = np.concatenate(pieces)
    return rows


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
    return int(np.count_nonzero(padding_mask(rows, end_id)))


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
