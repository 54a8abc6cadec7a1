"""Token ids of documents -> rows of seq_len ids.

Every document comes with its end id, holds at least one id before it, and no end id inside. So
inside a row an end id right after an end id is always padding, while an end id in column 0 is
always the end of a document that began in an earlier row. Padding is the end id itself: rows stay
readable by anyone who knows the end-of-text id alone.

To add a policy: a class that fulfils Packer, and its line in open_packer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from mixstream.arrays import Counts, Rows
from mixstream.corpus.best_fit import best_fit_bins, rows_of_bins
from mixstream.corpus.places import OnPlaces, bin_places, concat_places, pad_places, piece_sizes
from mixstream.errors import RecipeError

__all__ = [
    "DEFAULT_WINDOW_TOKENS",
    "POLICIES",
    "BestFitPacker",
    "ConcatPacker",
    "Packer",
    "PadPacker",
    "RowForm",
    "open_packer",
]

POLICIES = ("concat", "best_fit", "pad")

DEFAULT_WINDOW_TOKENS = 2**25
"""Tokens that BestFitPacker holds at once, 64 or 128 MiB. Of 171,000 documents of real text and
code it pads 0.009 % of rows of 2,048 ids and 0.028 % of 8,192; with 2**22, 0.034 % and 0.129 %, and
packing takes a third longer."""

_BLOCK_BYTES = 2**24
"""Of the rows that PadPacker gives at a time: a short text may become a long row."""


@dataclass(frozen=True, slots=True)
class RowForm:
    """What rows are made of.

    Raises:
        RecipeError: seq_len below 1.
    """

    seq_len: int
    """S, ids in a row."""
    end_id: int
    """The tokenizer's end-of-text id."""
    dtype: DTypeLike = np.uint32
    """Of the rows; it holds every id."""
    on_places: OnPlaces | None = None
    """Takes where each piece stands, before its row is given."""

    def __post_init__(self) -> None:
        _check_at_least_one("seq_len", self.seq_len)


class Packer(Protocol):
    """Turns documents into rows; no token is lost and none is added but padding."""

    num_cut: int
    """Documents so far that do not stand whole in one row."""

    def room(self, num_ids: int) -> Rows:
        """Memory (num_ids,) in the rows' dtype, from where the next call of pack copies no ids."""
        ...

    def pack(self, ids: Rows, lengths: Counts) -> Iterator[Rows]:
        """Takes documents, gives the rows that are ready, block by block.

        Args:
            ids: (T,) the ids of all documents one after the other, end ids included.
            lengths: (n,) int64, ids of each document, all >= 2; they sum to T.

        Yields:
            (r, S) in the packer's dtype, r >= 0; the next block may be written over it. The
            documents are taken when all is read.
        """
        ...

    def flush(self) -> Iterator[Rows]:
        """The rows of all that is still held; the packer is as new afterwards, but for num_cut."""
        ...


def open_packer(name: str, form: RowForm, *, window_tokens: int | None = None) -> Packer:
    """The packer of that name, one of POLICIES.

    Args:
        name: the policy.
        form: of the rows.
        window_tokens: see BestFitPacker; None is its default.

    Raises:
        RecipeError: unknown name, window_tokens below 1, or window_tokens for another policy than
            "best_fit".
    """
    if name not in POLICIES:
        raise RecipeError(f"packing is {name!r}; mixstream has {', '.join(map(repr, POLICIES))}.")
    if name == "best_fit":
        window = DEFAULT_WINDOW_TOKENS if window_tokens is None else window_tokens
        return BestFitPacker(form, window_tokens=window)
    if window_tokens is not None:
        raise RecipeError(
            f"the packing window is {window_tokens}, but packing {name!r} has no window. "
            f"Leave it out, or set packing to 'best_fit'."
        )
    return ConcatPacker(form) if name == "concat" else PadPacker(form)


class ConcatPacker:
    """Documents one after the other, cut where a row is full; only the last row is padded.

    The rows do not depend on how the documents are spread over calls of pack.

    >>> packer = ConcatPacker(RowForm(seq_len=4, end_id=0))
    >>> for rows in packer.pack(np.array([5, 6, 0, 7, 8, 0], np.uint32), np.array([3, 3])):
    ...     print(rows)
    [[5 6 0 7]]
    >>> list(packer.flush())
    [array([[8, 0, 0, 0]], dtype=uint32)]
    """

    def __init__(self, form: RowForm) -> None:
        self._form = form
        self._memory: Rows = np.empty(0, form.dtype)
        self._num_held = self._num_rows = 0
        self.num_cut = 0

    def room(self, num_ids: int) -> Rows:
        """See Packer."""
        self._memory = _grown(self._memory, self._num_held, num_ids)
        return self._memory[self._num_held :][:num_ids]

    def pack(self, ids: Rows, lengths: Counts) -> Iterator[Rows]:
        """See Packer."""
        seq_len = self._form.seq_len
        ends = self._num_held + _checked_ends(ids, lengths, self._form.end_id)
        rows = (ends - lengths) // seq_len, (ends - 1) // seq_len
        self.num_cut += int(np.count_nonzero(rows[0] != rows[1]))
        if self._form.on_places is not None:
            first_token = self._num_rows * seq_len + self._num_held
            self._form.on_places(concat_places(lengths, first_token, seq_len))
        _put(ids, self.room(len(ids)))
        num_ids = self._num_held + len(ids)
        num_whole = num_ids // seq_len * seq_len
        if num_whole:
            self._num_rows += num_whole // seq_len
            yield self._memory[:num_whole].reshape(-1, seq_len)
        self._num_held = num_ids - num_whole
        self._memory[: self._num_held] = self._memory[num_whole:num_ids]

    def flush(self) -> Iterator[Rows]:
        """See Packer."""
        if self._num_held:
            row = np.full((1, self._form.seq_len), self._form.end_id, self._form.dtype)
            row[0, : self._num_held] = self._memory[: self._num_held]
            self._num_held = 0
            self._num_rows += 1
            yield row


class PadPacker:
    """One document a row, filled up with padding; a longer one is cut into pieces of seq_len.

    >>> packer = PadPacker(RowForm(seq_len=3, end_id=0))
    >>> list(packer.pack(np.array([5, 0, 6, 7, 8, 0], np.uint32), np.array([2, 4])))
    [array([[5, 0, 0],
           [6, 7, 8],
           [0, 0, 0]], dtype=uint32)]
    """

    def __init__(self, form: RowForm) -> None:
        self._form = form
        self._memory: Rows = np.empty(0, form.dtype)
        self._num_rows = 0
        self.num_cut = 0

    def room(self, num_ids: int) -> Rows:
        """See Packer."""
        self._memory = _grown(self._memory, 0, num_ids)
        return self._memory[:num_ids]

    def pack(self, ids: Rows, lengths: Counts) -> Iterator[Rows]:
        """See Packer."""
        seq_len, end_id = self._form.seq_len, self._form.end_id
        _checked_ends(ids, lengths, end_id)
        self.num_cut += int(np.count_nonzero(lengths > seq_len))
        sizes = piece_sizes(lengths, seq_len)
        ends = np.cumsum(sizes)
        if self._form.on_places is not None:
            self._form.on_places(pad_places(lengths, self._num_rows, seq_len))
        self._num_rows += len(sizes)
        rows_per_block = max(1, _BLOCK_BYTES // (seq_len * np.dtype(self._form.dtype).itemsize))
        for first in range(0, len(sizes), rows_per_block):
            some = slice(first, first + rows_per_block)
            rows = np.full((len(sizes[some]), seq_len), end_id, self._form.dtype)
            filled = np.arange(seq_len) < sizes[some, None]
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

    >>> packer = BestFitPacker(RowForm(seq_len=4, end_id=0))
    >>> list(packer.pack(np.array([5, 0, 6, 7, 0, 8, 0], np.uint32), np.array([2, 3, 2])))
    []
    >>> list(packer.flush())
    [array([[5, 0, 8, 0],
           [6, 7, 0, 0]], dtype=uint32)]

    Source: Ding et al. 2024, arXiv:2404.10830, section 3. Deviations: a window instead of the whole
        corpus; bins by remaining room instead of a segment tree (the same choice, up to ties); the
        rule for an end id alone.
    """

    def __init__(self, form: RowForm, *, window_tokens: int = DEFAULT_WINDOW_TOKENS) -> None:
        _check_at_least_one("packing_window", window_tokens)
        self._form, self._window_tokens = form, window_tokens
        self._memory: Rows = np.empty(0, form.dtype)  # kept all along: new memory is slow
        self._lengths: list[Counts] = []
        self._num_held = self._num_rows = 0
        self.num_cut = 0

    def room(self, num_ids: int) -> Rows:
        """See Packer."""
        self._memory = _grown(self._memory, self._num_held, num_ids, more=self._window_tokens)
        return self._memory[self._num_held :][:num_ids]

    def pack(self, ids: Rows, lengths: Counts) -> Iterator[Rows]:
        """See Packer."""
        ends = self._num_held + _checked_ends(ids, lengths, self._form.end_id)
        self.num_cut += int(np.count_nonzero(lengths > self._form.seq_len))
        _put(ids, self.room(len(ids)))
        num_ids = self._num_held + len(ids)
        begin = first = 0  # of the window: in the ids that are held, in the documents of this call
        while num_ids - begin >= self._window_tokens:
            last = int(np.searchsorted(ends, begin + self._window_tokens))  # it fills the window
            self._lengths.append(lengths[first : last + 1])
            yield from self._rows(begin, int(ends[last]))
            begin, first = int(ends[last]), last + 1
        self._lengths.append(lengths[first:])
        self._num_held = num_ids - begin
        if begin:
            self._memory[: self._num_held] = self._memory[begin:num_ids]

    def flush(self) -> Iterator[Rows]:
        """See Packer."""
        if self._num_held:
            yield from self._rows(0, self._num_held)
            self._num_held = 0

    def _rows(self, begin: int, end: int) -> Iterator[Rows]:
        """The rows of a window, whose ids lie there in memory."""
        seq_len, lengths = self._form.seq_len, np.concatenate(self._lengths)
        self._lengths = []
        sizes = piece_sizes(lengths, seq_len)
        bins = best_fit_bins(sizes, seq_len)
        if self._form.on_places is not None:
            self._form.on_places(bin_places(lengths, bins, self._num_rows, seq_len))
        self._num_rows += int(bins.max()) + 1
        ids = self._memory[begin:end]
        yield from rows_of_bins(ids, sizes, bins, seq_len, self._form.end_id)


def _grown(memory: Rows, num_held: int, num_ids: int, *, more: int = 0) -> Rows:
    """Memory for num_ids more than are held, and for `more` where it has to be new."""
    if num_held + num_ids <= len(memory):
        return memory
    larger = np.empty(num_held + num_ids + more, memory.dtype)  # takes memory where written
    larger[:num_held] = memory[:num_held]
    return larger


def _put(ids: Rows, room: Rows) -> None:
    """Copies ids to where there is room, if they are not there already."""
    if not np.may_share_memory(ids, room):
        room[:] = ids


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise RecipeError(f"{name} is {value}; give at least 1.")


def _checked_ends(ids: Rows, lengths: Counts, end_id: int) -> Counts:
    """Where each document ends. A slip here would turn tokens into padding, so it is checked."""
    ends: Counts = np.cumsum(lengths)
    assert (ends[-1] if len(ends) else 0) == len(ids), "lengths sum to the number of ids"
    assert (lengths >= 2).all(), "a document holds an id before its end id"
    assert (ids[ends - 1] == end_id).all(), "every document ends with its end id"
    return ends
