"""Lengths of documents -> where a packer puts each piece of them: row, column, length.

A packer tells this to whoever asks (`on_places` of packing.RowForm); provenance.py writes it down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mixstream.arrays import Counts

__all__ = ["OnPlaces", "Places", "bin_places", "concat_places", "pad_places", "piece_sizes"]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The pieces of some whole documents, ordered by row and column; all arrays (n,) int64."""

    num_documents: int
    """How many they are: the next ones of the input that no Places told of."""
    document: Counts
    """Which of them each piece is of, from 0 on."""
    offset: Counts
    """Ids of the document that stand in earlier pieces."""
    row: Counts
    """From 0 on since the packer was opened."""
    start: Counts
    """Column of the piece's first id."""
    length: Counts
    """Ids of the piece, the special ids of its document included; never padding."""


OnPlaces: TypeAlias = Callable[[Places], None]
"""Takes the places of documents as soon as they are known, in the order of the input."""


def concat_places(lengths: Counts, first_token: int, seq_len: int) -> Places:
    """Of documents one after the other, cut where a row is full.

    Args:
        lengths: (m,) int64, ids of each document, >= 1.
        first_token: ids in all rows before the first document.
        seq_len: S.

    >>> places = concat_places(np.array([3, 6]), 2, 4)
    >>> places.row, places.start, places.length
    (array([0, 1, 1, 2]), array([2, 0, 1, 0]), array([2, 1, 3, 3]))
    """
    ends = first_token + np.cumsum(lengths)
    begins = ends - lengths
    num_pieces = (ends - 1) // seq_len - begins // seq_len + 1
    document = np.repeat(np.arange(len(lengths)), num_pieces)
    row = begins[document] // seq_len + _counted(num_pieces)
    start = np.maximum(begins[document], row * seq_len)
    end = np.minimum(ends[document], (row + 1) * seq_len)
    return Places(
        len(lengths), document, start - begins[document], row, start - row * seq_len, end - start
    )


def pad_places(lengths: Counts, first_row: int, seq_len: int) -> Places:
    """Of documents that have rows of their own; arguments as in concat_places."""
    document, offset, sizes = _cut_pieces(lengths, seq_len)
    row = first_row + np.arange(len(sizes))
    return Places(len(lengths), document, offset, row, np.zeros(len(sizes), np.int64), sizes)


def bin_places(lengths: Counts, bins: Counts, first_row: int, seq_len: int) -> Places:
    """Of documents whose pieces were put into bins, as best_fit.rows_of_bins makes rows of them.

    Args:
        lengths: (m,) int64, ids of each document, >= 1.
        bins: (n,) int64, the bin of each piece of at most S ids, in input order; each bin of 0 to
            r - 1 is there.
        first_row: of the rows of these bins.
        seq_len: S.

    >>> places = bin_places(np.array([3, 5]), np.array([1, 0, 1]), 0, 4)
    >>> places.document, places.row, places.start, places.length
    (array([1, 0, 1]), array([0, 0, 1]), array([0, 1, 0]), array([1, 3, 4]))
    """
    document, offset, sizes = _cut_pieces(lengths, seq_len)
    _, first_piece = np.unique(bins, return_index=True)
    row_of_bin = np.empty(len(first_piece), np.int64)
    row_of_bin[np.argsort(first_piece)] = np.arange(len(first_piece))
    row = row_of_bin[bins]
    order = np.argsort(2 * row + (sizes > 1), kind="stable")  # a piece of one id stands first
    row, sizes = row[order], sizes[order]
    ends = np.cumsum(sizes)
    num_ids = np.bincount(row, weights=sizes).astype(np.int64)
    start = ends - sizes - (np.cumsum(num_ids) - num_ids)[row]
    return Places(len(lengths), document[order], offset[order], first_row + row, start, sizes)


def _cut_pieces(lengths: Counts, seq_len: int) -> tuple[Counts, Counts, Counts]:
    """Document, offset in it and size of every piece of at most seq_len ids, in input order.

    >>> _cut_pieces(np.array([3, 9]), 4)
    (array([0, 1, 1, 1]), array([0, 0, 4, 8]), array([3, 4, 4, 1]))
    """
    num_pieces = -(-lengths // seq_len)
    document = np.repeat(np.arange(len(lengths)), num_pieces)
    return document, _counted(num_pieces) * seq_len, piece_sizes(lengths, seq_len)


def piece_sizes(lengths: Counts, seq_len: int) -> Counts:
    """The size of every piece of at most seq_len ids, in input order, of lengths of at least 1.

    >>> piece_sizes(np.array([3, 9]), 4)
    array([3, 4, 4, 1])
    """
    ends = np.cumsum(-(-lengths // seq_len))
    sizes = np.full(ends[-1] if len(ends) else 0, seq_len)
    sizes[ends - 1] = lengths - (np.diff(ends, prepend=0) - 1) * seq_len
    return sizes


def _counted(counts: Counts) -> Counts:
    """0 to n - 1 for each n: for [1, 3] it is [0, 0, 1, 2]."""
    firsts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(firsts, counts)
