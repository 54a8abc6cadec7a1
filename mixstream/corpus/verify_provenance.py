"""A domain's rows, some at a time -> where its provenance.parquet does not tell of just these."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixstream.arrays import Counts, Rows
from mixstream.corpus.provenance import columns_of
from mixstream.corpus.segments import padding_mask, segment_starts

__all__ = ["ProvenanceCheck", "segments_of"]

_BLOCK_IDS = 2**20
"""Of rows that are looked at together: memory does not grow with a shard."""


class ProvenanceCheck:
    """Compares pieces with rows in one go through both; holds one row group.

    Every piece has to stand where a segment of the rows stands, and every segment has to have one:
    so the pieces cover the tokens, each once, and no padding. As many documents have to begin as
    the manifest counts.

    Args:
        path: provenance.parquet of a domain.
        end_id: the end-of-text id.
    """

    def __init__(self, path: Path, end_id: int) -> None:
        self._path, self._end_id = path, end_id
        self._groups = columns_of(path, ("row", "start", "length", "offset"))
        self._held = np.zeros((0, 4), np.int64)
        self._first_row = self._documents = 0

    def fault(self, rows: Rows) -> str | None:
        """What is wrong about the pieces of the domain's next (n, S) rows; None if nothing is.

        Raises:
            ShardError: the file is missing or damaged.
        """
        num_rows = max(1, _BLOCK_IDS // rows.shape[1])
        for first in range(0, len(rows), num_rows):
            some = rows[first : first + num_rows]
            expected = segments_of(some, self._end_id)
            expected[:, 0] += self._first_row
            self._first_row += len(some)
            pieces = self._take(self._first_row)
            self._documents += int(np.count_nonzero(pieces[:, 3] == 0))
            if not np.array_equal(pieces[:, :3], expected):
                return self._difference(pieces[:, :3], expected)
        return None

    def fault_at_end(self, documents: int) -> str | None:
        """What is wrong after the last row, of a domain of so many documents."""
        left = len(self._take(None))
        if left:
            return f"{self._path}: {left:,} pieces stand in rows that the domain has not"
        if self._documents != documents:
            return (
                f"{self._path}: {self._documents:,} documents begin in it, but corpus.json says "
                f"{documents:,}"
            )
        return None

    def _take(self, end_row: int | None) -> Counts:
        """(n, 4) row, start, length, offset of the next pieces in rows before `end_row`."""
        taken = []
        while True:
            num = len(self._held)
            if end_row is not None:
                num = int(np.searchsorted(self._held[:, 0], end_row))
            taken.append(self._held[:num])
            self._held = self._held[num:]
            if len(self._held) or (found := next(self._groups, None)) is None:
                return np.concatenate(taken)
            self._held = found

    def _difference(self, pieces: Counts, expected: Counts) -> str:
        """The first place where they differ."""
        num = min(len(pieces), len(expected))
        differs = np.flatnonzero((pieces[:num] != expected[:num]).any(axis=1))
        at = int(differs[0]) if len(differs) else num
        there, wanted = (_shown(each[at : at + 1]) for each in (pieces, expected))
        return f"{self._path}: it tells of {there} where the rows hold {wanted}"


def segments_of(rows: Rows, end_id: int) -> Counts:
    """(n, 3) int64: row, first column and length of each segment but padding, in order.

    >>> segments_of(np.array([[5, 0, 6, 0, 0, 0], [0, 7, 8, 9, 8, 7]]), end_id=0)
    array([[0, 0, 2],
           [0, 2, 2],
           [1, 0, 1],
           [1, 1, 5]])
    """
    padding = padding_mask(rows, end_id)
    row, start = np.nonzero(segment_starts(rows, end_id) & ~padding)
    end = np.append(start[1:], 0)
    is_last = np.append(row[1:] != row[:-1], True)[: len(row)]
    end = np.where(is_last, rows.shape[1] - padding.sum(axis=1)[row], end[: len(row)])
    segments: Counts = np.stack([row, start, end - start], axis=1).astype(np.int64)
    return segments


def _shown(piece: Counts) -> str:
    if not len(piece):
        return "nothing more"
    row, start, length = piece[0].tolist()
    return f"{length:,} ids from column {start:,} of row {row:,} on"
