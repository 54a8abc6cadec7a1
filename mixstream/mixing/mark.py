"""A place in a run: its next row, and how often each canonical node has drawn each domain."""

from __future__ import annotations

import numpy as np

from mixstream.arrays import Counts

__all__ = ["Mark"]


class Mark:
    """A place in the run that a sampler can go back to; it never changes.

    Args:
        row: the next row of the run.
        counts: (C, K) int64, how often each node has drawn each domain; not copied.
        since: in place of counts, an earlier place and the groups of the rows since.
    """

    __slots__ = ("_counts", "_since", "row")

    def __init__(self, row: int, counts: Counts | None, since: tuple[Mark, Counts] | None = None):
        self.row = row
        self._counts = counts
        self._since = since
        """An earlier place, and the groups drawn since: what the counts follow from."""

    def after(self, groups: Counts) -> Mark:
        """The place after more rows; nothing is counted until somebody asks.

        Args:
            groups: (n,) int64, node * K + domain of each of these rows.
        """
        return Mark(self.row + groups.size, None, (self, groups))

    @property
    def counts(self) -> Counts:
        """(C, K) int64, how often each node has drawn each domain."""
        if self._counts is None:
            assert self._since is not None, "without counts it follows from an earlier place"
            before = self._since[0].counts
            drawn = np.bincount(self._since[1], minlength=before.size)
            self._counts, self._since = before + drawn.reshape(before.shape), None
        return self._counts
