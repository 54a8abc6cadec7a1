"""Token ids of documents -> rows of seq_len ids.

Every document comes with its end id, holds at least one id before it, and no end id inside. So
inside a row an end id right after an end id is always padding, while an end id in column 0 is
always the end of a document that began in an earlier row. Padding is the end id itself: rows stay
readable by anyone who knows the end-of-text id alone.

To add a policy: a class that fulfils Packer, and its line in open_packer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from mixstream.arrays import Counts, Rows, Tokens
from mixstream.corpus.best_fit import best_fit_bins, rows_of_bins
from mixstream.corpus.places import OnPlaces, bin_places, concat_places, cut_pieces, pad_places
from mixstream.errors import RecipeError

__all__ = [
    "DEFAULT_WINDOW_TOKENS",
    "POLICIES",
    "BestFitPacker",
    "ConcatPacker",
    "Packer",
    "PadPacker",
    "open_packer",
]

POLICIES = ("concat", "best_fit", "pad")

DEFAULT_WINDOW_TOKENS = 2**24
"""Tokens that BestFitPacker holds at once, 32 or 64 MiB. Of 80,000 documents of real text and code
it pads 0.014 % of rows of 2,048 ids and 0.068 % of 8,192; with 2**22, 0.038 % and 0.115 %."""

_BLOCK_BYTES = 2**24
"""Of the rows that PadPacker gives at a time: a short text may become a long row."""


class Packer(Protocol):
    """Turns documents into rows; no token is lost and none is added but padding."""

    num_cut: int
    """Documents so far that do not stand whole in one row."""

    def pack(self, ids: Tokens, lengths: Counts) -> Iterator[Rows]:
        """Takes documents, gives the rows that are ready, block by block.

        Args:
            ids: (T,) uint32, the ids of all documents one after the other, end ids included.
            lengths: (n,) int64, ids of each document, all >= 2; they sum to T.

        Yields:
            (r, S) in the packer's dtype, r >= 0; the next block may be written over it. The
            documents are taken when all is read.
        """
        ...

    def flush(self) -> Iterator[Rows]:
        """The rows of all that is still held; the packer is as new afterwards, but for num_cut."""
        ...


def open_packer(
    name: str,
    seq_len: int,
    end_id: int,
    *,
    window_tokens: int | None = None,
    dtype: DTypeLike = np.uint32,
    on_places: OnPlaces | None = None,
) -> Packer:
    """The packer of that name, one of POLICIES.

    Args:
        name: the policy.
        seq_len: S, ids in a row, >= 1.
        end_id: the tokenizer's end-of-text id.
        window_tokens: see BestFitPacker; None is its default.
        dtype: of the rows; it holds every id.
        on_places: takes where each piece stands, before its row is given.

    Raises:
        RecipeError: unknown name, seq_len or window_tokens below 1, or window_tokens for another
            policy than "best_fit".
    """
    if name not in POLICIES:
        raise RecipeError(f"packing is {name!r}; mixstream has {', '.join(map(repr, POLICIES))}.")
    if name == "best_fit":
        window = DEFAULT_WINDOW_TOKENS if window_tokens is None else window_tokens
        return BestFitPacker(
            seq_len, end_id, window_tokens=window, dtype=dtype, on_places=on_places
        )
    if window_tokens is not None:
        raise RecipeError(
            f"the packing window is {window_tokens}, but packing {name!r} has no window. "
            f"Leave it out, or set packing to 'best_fit'."
        )
    kind = ConcatPacker if name == "concat" else PadPacker
    return kind(seq_len, end_id, dtype=dtype, on_places=on_places)


class ConcatPacker:
    """Documents one after the other, cut where a row is full; only the last row is padded.

    The rows do not depend on how the documents are spread over calls of pack.

    >>> packer = ConcatPacker(seq_len=4, end_id=0)
    >>> list(packer.pack(np.array([5, 6, 0, 7, 8, 0], np.uint32), np.array([3, 3])))
    [array([[5, 6, 0, 7]], dtype=uint32)]
    >>> list(packer.flush())
    [array([[8, 0, 0, 0]], dtype=uint32)]
    """

    def __init__(
        self,
        seq_len: int,
        end_id: int,
        *,
        dtype: DTypeLike = np.uint32,
        on_places: OnPlaces | None = None,
    ) -> None:
        _check_at_least_one("seq_len", seq_len)
        self._seq_len, self._end_id = seq_len, end_id
        self._rest: Rows = np.empty(0, dtype)
        self._on_places, self._num_rows = on_places, 0
        self.num_cut = 0

    def pack(self, ids: Tokens, lengths: Counts) -> Iterator[Rows]:
        """See Packer."""
        _check_documents(ids, lengths, self._end_id)
        ends = len(self._rest) + np.cumsum(lengths)
        rows = (ends - lengths) // self._seq_len, (ends - 1) // self._seq_len
        self.num_cut += int(np.count_nonzero(rows[0] != rows[1]))
        if self._on_places is not None:
            first_token = self._num_rows * self._seq_len + len(self._rest)
            self._on_places(concat_places(lengths, first_token, self._seq_len))
        held = np.concatenate([self._rest, ids], dtype=self._rest.dtype, casting="unsafe")
        num_whole = len(held) // self._seq_len * self._seq_len
        self._rest = held[num_whole:].copy()  # a view would keep all of `held` alive
        if num_whole:
            self._num_rows += num_whole // self._seq_len
            yield held[:num_whole].reshape(-1, self._seq_len)

    def flush(self) -> Iterator[Rows]:
        """See Packer."""
        if len(self._rest):
            row = np.full((1, self._seq_len), self._end_id, self._rest.dtype)
            row[0, : len(self._rest)] = self._rest
            self._rest = self._rest[:0]
            self._num_rows += 1
            yield row


class PadPacker:
    """One document a row, filled up with padding; a longer one is cut into pieces of seq_len.

    >>> packer = PadPacker(seq_len=3, end_id=0)
    >>> list(packer.pack(np.array([5, 0, 6, 7, 8, 0], np.uint32), np.array([2, 4])))
    [array([[5, 0, 0],
           [6, 7, 8],
           [0, 0, 0]], dtype=uint32)]
    """

    def __init__(
        self,
        seq_len: int,
        end_id: int,
        *,
        dtype: DTypeLike = np.uint32,
        on_places: OnPlaces | None = None,
    ) -> None:
        _check_at_least_one("seq_len", seq_len)
        self._seq_len, self._end_id, self._dtype = seq_len, end_id, np.dtype(dtype)
        self._on_places, self._num_rows = on_places, 0
        self.num_cut = 0

    def pack(self, ids: Tokens, lengths: Counts) -> Iterator[Rows]:
        """See Packer."""
        _check_documents(ids, lengths, self._end_id)
        self.num_cut += int(np.count_nonzero(lengths > self._seq_len))
        _, _, sizes = cut_pieces(lengths, self._seq_len)
        ends = np.cumsum(sizes)
        if self._on_places is not None:
            self._on_places(pad_places(lengths, self._num_rows, self._seq_len))
        self._num_rows += len(sizes)
        rows_per_block = max(1, _BLOCK_BYTES // (self._seq_len * self._dtype.itemsize))
        for first in range(0, len(sizes), rows_per_block):
            some = slice(first, first + rows_per_block)
            rows = np.full((len(sizes[some]), self._seq_len), self._end_id, self._dtype)
            filled = np.arange(self._seq_len) < sizes[some, None]
            rows[filled] = ids[ends[first] - sizes[first] : ends[some][-1]]
            yield rows

    def flush(self) -> Iterator[Rows]:
        """See Packer. Nothing is ever held."""
        yield from ()


class BestFitPacker:
    """Best-fit decreasing inside a window of documents: fewer documents cut than concat cuts.

    A document that fits a row (with its end id) is never cut. A longer one is cut into pieces of S,
    and its last piece is placed like a document. A window is the fewest documents, in input order,
    that hold `window_tokens` ids; so the rows do not depend on how the documents are spread over
    calls of pack. Rows of a window stand in the order of their earliest piece, pieces of a row in
    the order of the input, except that the last piece of a long document, when it is its end id
    alone, stands in column 0: elsewhere it would read as padding. A row holds one such at most.

    >>> packer = BestFitPacker(seq_len=4, end_id=0)
    >>> list(packer.pack(np.array([5, 0, 6, 7, 0, 8, 0], np.uint32), np.array([2, 3, 2])))
    []
    >>> list(packer.flush())
    [array([[5, 0, 8, 0],
           [6, 7, 0, 0]], dtype=uint32)]

    Source: Ding et al. 2024, arXiv:2404.10830, section 3. Deviations: a window instead of the whole
        corpus; bins by remaining room instead of a segment tree (the same choice, up to ties); the
        rule for an end id alone.
    """

    def __init__(
        self,
        seq_len: int,
        end_id: int,
        *,
        window_tokens: int = DEFAULT_WINDOW_TOKENS,
        dtype: DTypeLike = np.uint32,
        on_places: OnPlaces | None = None,
    ) -> None:
        _check_at_least_one("seq_len", seq_len)
        _check_at_least_one("packing_window", window_tokens)
        self._seq_len, self._end_id = seq_len, end_id
        self._window_tokens = window_tokens
        self._dtype = np.dtype(dtype)
        self._ids: Rows = np.empty(0, dtype)  # kept from window to window: new memory is slow
        self._lengths: list[Counts] = []
        self._num_held = 0
        self._on_places, self._num_rows = on_places, 0
        self.num_cut = 0

    def pack(self, ids: Tokens, lengths: Counts) -> Iterator[Rows]:
        """See Packer."""
        _check_documents(ids, lengths, self._end_id)
        self.num_cut += int(np.count_nonzero(lengths > self._seq_len))
        ends = np.cumsum(lengths)
        begin = first = 0  # tokens and documents of this call that are already in a window
        while self._num_held + len(ids) - begin >= self._window_tokens:
            room = self._window_tokens - self._num_held
            last = int(np.searchsorted(ends, begin + room))  # the document that fills the window
            self._hold(ids[begin : ends[last]], lengths[first : last + 1])
            yield from self.flush()
            begin, first = int(ends[last]), last + 1
        self._hold(ids[begin:], lengths[first:])

    def _hold(self, ids: Tokens, lengths: Counts) -> None:
        end = self._num_held + len(ids)
        if end > len(self._ids):
            room = np.empty(end + self._window_tokens, self._dtype)  # takes memory where written
            room[: self._num_held] = self._ids[: self._num_held]
            self._ids = room
        self._ids[self._num_held : end] = ids
        self._lengths.append(lengths)
        self._num_held = end

    def flush(self) -> Iterator[Rows]:
        """See Packer."""
        if not self._num_held:
            return
        num_ids, lengths = self._num_held, np.concatenate(self._lengths)
        self._lengths, self._num_held = [], 0
        _, _, sizes = cut_pieces(lengths, self._seq_len)
        bins = best_fit_bins(sizes, self._seq_len)
        if self._on_places is not None:
            self._on_places(bin_places(lengths, bins, self._num_rows, self._seq_len))
        self._num_rows += int(bins.max()) + 1
        yield from rows_of_bins(self._ids[:num_ids], sizes, bins, self._seq_len, self._end_id)


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise RecipeError(f"{name} is {value}; give at least 1.")


def _check_documents(ids: Tokens, lengths: Counts, end_id: int) -> None:
    """A slip here would turn tokens into padding, so it is worth its one pass over `lengths`."""
    assert int(lengths.sum()) == len(ids), "lengths sum to the number of ids"
    assert (lengths >= 2).all(), "a document holds an id before its end id"
    assert (ids[np.cumsum(lengths) - 1] == end_id).all(), "every document ends with its end id"
