"""A place in a run: its next row, and how often each canonical node has drawn each domain."""

from __future__ import annotations

import numpy as np

from mixstream.arrays import Counts

__all__ = ["Mark"]


class Mark:
    """A place in the run that a sampler can go back to; it never changes.

    Args:
        row: the next row of the run.
        counts: (C, K) int64, how often each node has drawn each domain; not copied, and not to be
            written to any more.
        since: in place of counts, an earlier place and the groups of the rows since.
    """

    __slots__ = ("_counts", "_since", "row")

    def __init__(
        self, row: int, counts: Counts | None, since: tuple[Mark, Counts] | None = None
    ) -> None:
        self.row = row
        self._counts = None if counts is None else _read_only(counts)
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
        """(C, K) int64, read-only, how often each node has drawn each domain."""
        since = self._since  # first: another thread may be counting, too
        if self._counts is None:
            assert since is not None, "without counts it follows from an earlier place"
            before = since[0].counts
            drawn = np.bincount(since[1], minlength=before.size)
            self._counts = _read_only(before + drawn.reshape(before.shape))
            self._since = None
        return self._counts

    def __reduce__(self) -> tuple[object, ...]:
        return Mark, (self.row, self.counts)


def _read_only(counts: Counts) -> Counts:
    view = counts.view()
    view.flags.writeable = False
    return view
