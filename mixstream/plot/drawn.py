"""The log of a run -> how often each domain was drawn, bin by bin, in bounded time."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.mixing.alias import domain_table, micro_batch_domains, table_domains
from mixstream.mixing.weights import weights_among
from mixstream.runlog import Run, drawn_counts

__all__ = ["DrawnBins"]

_MAX_KEPT = 4096


class DrawnBins:
    """Counts the rows of a run by domain, and remembers the bins that it has counted.

    Without max_epochs a row's domain depends on the weights at that row alone, so any bin can be
    counted without the rows before it, and a long bin by its first rows. With max_epochs it depends
    on all rows before, and the run is drawn again from the last counts that its log holds.

    Args:
        max_bin_rows: rows of a bin that are drawn, at most, where that is enough.
    """

    def __init__(self, max_bin_rows: int = 1 << 13) -> None:
        self._max_bin_rows = max_bin_rows
        self._kept: OrderedDict[tuple[object, ...], Counts] = OrderedDict()

    def counts(self, run: Run, edges: Counts) -> Counts:
        """(n, K) int64, rows of each domain that were drawn in each bin, or in its first rows.

        Args:
            run: the run.
            edges: (n + 1,) global rows, rising.
        """
        if run.start["settings"].get("max_epochs") is not None:
            parts = list(_by_weights(run, run.first_row, int(edges[-1])))
            key = (*edges.tolist(), *((row, w.tobytes()) for row, _, w, _ in parts))
            return self._remembered(key, partial(drawn_counts, run, edges))
        bins = [np.empty((0, len(run.domains)), dtype=np.int64)]
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            parts = list(_by_weights(run, first, min(end, first + self._max_bin_rows)))
            key = tuple((row, last, w.tobytes(), among) for row, last, w, among in parts)
            bins.append(self._remembered(key, partial(_counted, run, parts))[None])
        return np.concatenate(bins)

    def _remembered(self, key: tuple[object, ...], make: Callable[[], Counts]) -> Counts:
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


class _Part(NamedTuple):
    """Rows of a run that are drawn by the same weights."""

    first: int
    end: int
    """The one after the last."""
    weights: Vector
    """(K,) float64."""
    among: tuple[str, ...]
    """The domains that there were."""


def _by_weights(run: Run, first: int, end: int) -> Iterator[_Part]:
    """The rows from first to before end in parts of the same weights."""
    index = bisect.bisect_right(run.changes, first, key=lambda change: change.row) - 1
    assert index >= 0, "bins start where the log does, or later"
    while first < end:
        is_last = index + 1 == len(run.changes)
        last = end if is_last else min(end, run.changes[index + 1].row)
        if last > first:
            yield _Part(first, last, run.changes[index].weights, run.changes[index].among)
        first, index = last, index + 1


def _counted(run: Run, parts: list[_Part]) -> Counts:
    """(K,) int64, rows of each domain in some parts of a run without max_epochs."""
    settings = run.start["settings"]
    seed = settings["seed"]
    stratum = settings["stratum"] if settings["sampling"] == "stratified" else None
    counts = np.zeros(len(run.domains), dtype=np.int64)
    for first, end, weights, among in parts:
        own_weights, own = weights_among(weights, run.domains, among)
        table = domain_table(own_weights, stratum)
        rows = np.arange(first, end)
        if settings["sampling"] == "micro_batch":
            found = micro_batch_domains(
                table,
                rows,
                seed=seed,
                micro_batch=settings["stratum"],
                num_nodes=settings["num_canonical_nodes"],
            )
        else:
            found = table_domains(table, rows, seed=seed, stratum=stratum)
        counts += np.bincount(own[found], minlength=counts.size)
    return counts
