"""A run -> the numbers of its charts, thinned to what a picture can show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.errors import StateError
from mixstream.plot.drawn import DrawnBins
from mixstream.plot.thin import Thinned, thinned, thinned_changes
from mixstream.runlog import Run

__all__ = ["Charts", "Mark", "Signal", "charts_of"]

_MAX_BINS = 256
_WINDOW_ROWS = 1000  # a share of 0.1 is then drawn to within 0.02, in 19 of 20 windows
_MIN_WINDOW_BINS = 4


class Mark(NamedTuple):
    """A change of the weights, or several on end for one reason."""

    step: int
    last_step: int
    num_changes: int
    reason: str
    source: str
    """ "code", "schedule", "person" or "resume"."""
    is_planned: bool
    """Whether the run has not reached it yet."""


class Signal(NamedTuple):
    """What an algorithm, or a person, was told of each domain."""

    name: str
    unit: str
    points: Thinned


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Charts:
    """What is painted of one run; K domains."""

    name: str
    domains: tuple[str, ...]
    first_step: float
    """Where the picture begins."""
    now_step: int
    """Steps that are delivered."""
    end_step: float
    """Where the picture ends: at planned changes, if there are any after now."""
    asked_edges: Vector
    """(n + 1,) steps between which the asked weights are `asked`."""
    asked: Vector
    """(n, K), each row sums to 1."""
    asked_is_mean: bool
    """Whether there were so many changes that pieces hold means."""
    marks: tuple[Mark, ...]
    drawn_steps: Vector
    """(m,) steps in the middle of the windows."""
    drawn: Vector
    """(m, K), each row sums to 1."""
    window_steps: float
    """Steps of a window; shorter at both ends."""
    passes_steps: Vector
    """(p,) steps."""
    passes: Vector
    """(p, K), rows drawn over rows there are."""
    passes_are_estimated: bool
    """Whether bins were counted by some of their rows."""
    signals: tuple[Signal, ...]

    def mean_shares(self) -> dict[str, float]:
        """The mean asked weight of each domain, over steps."""
        lengths = np.diff(self.asked_edges)
        means = np.average(self.asked, axis=0, weights=lengths if lengths.sum() > 0 else None)
        return dict(zip(self.domains, means.tolist(), strict=True))


def charts_of(
    run: Run,
    *,
    steps: tuple[int, int] | None = None,
    bins: DrawnBins | None = None,
    max_points: int = 500,
    planned: bool = True,
) -> Charts:
    """The charts of a run, or of some steps of it.

    Args:
        run: from `read_run`.
        steps: the first step, and the one after the last; the whole run if not given.
        bins: what was counted before, where the same run is painted again and again.
        max_points: of each series.
        planned: show the changes that are decided and not reached, too.

    Raises:
        StateError: steps that the run does not hold.
    """
    bins = bins or DrawnBins()
    now, change_steps = run.last_step, steps_of_rows(run, [change.row for change in run.changes])
    first, end = float(change_steps[0]), float(max(now, change_steps[0] + 1))
    if planned and change_steps[-1] >= end:
        end = change_steps[-1] + max(0.06 * (change_steps[-1] - first), 1.0)
    if steps is not None:
        if not first <= steps[0] < min(steps[1], end):
            raise StateError(
                f"steps {steps[0]}:{steps[1]} are not of the run of {run.path}, which holds steps "
                f"{first:.0f} to {end:.0f}; give the first and the one after the last."
            )
        first, end = float(steps[0]), min(end, float(steps[1]))
    begun = max(int(np.searchsorted(change_steps, first, side="right")) - 1, 0)
    asked_from = np.maximum(change_steps[begun:], first)
    weights = np.array([change.weights for change in run.changes[begun:]])
    edges, asked, is_mean = thinned_changes(asked_from, weights, end, max_points)
    view_rows = [max(run.row_of(int(first)), run.first_row), run.row_of(int(min(now, end)))]
    drawn_steps, drawn, window_steps = _drawn_shares(run, bins, *view_rows)
    passes_steps, passes, are_estimated = _passes(run, bins)
    shown = (passes_steps >= first) & (passes_steps <= end)
    return Charts(
        name=run.path.stem,
        domains=run.domains,
        first_step=first,
        now_step=now,
        end_step=end,
        asked_edges=edges,
        asked=asked,
        asked_is_mean=is_mean,
        marks=tuple(
            mark
            for mark in _marks(run, change_steps, now)
            if mark.last_step >= first and mark.step <= end
        ),
        drawn_steps=drawn_steps,
        drawn=drawn,
        window_steps=window_steps,
        passes_steps=passes_steps[shown],
        passes=passes[shown],
        passes_are_estimated=are_estimated,
        signals=tuple(_signals(run, first, end, max_points)),
    )


def steps_of_rows(run: Run, rows: Sequence[int] | Counts) -> Vector:
    """Where rows stand in steps, with fractions: (n,) -> (n,) float64."""
    row = np.asarray(rows, dtype=np.int64)
    starts = np.array([shape.row for shape in run.shapes], dtype=np.int64)
    shape = np.maximum(np.searchsorted(starts, row, side="right") - 1, 0)
    first = np.array([s.step for s in run.shapes])[shape]
    size = np.array([s.rows_a_step for s in run.shapes])[shape]
    return np.asarray(first + (row - starts[shape]) / size, dtype=np.float64)


def _marks(run: Run, change_steps: Vector, now: int) -> Iterator[Mark]:
    """The changes after the first weights; neighbours with one reason and source are one mark."""
    last: Mark | None = None
    for change, at in zip(run.changes[1:], change_steps[1:].tolist(), strict=True):
        step = int(at)
        same = (change.reason, change.source, step > now)
        if last is not None and (last.reason, last.source, last.is_planned) == same:
            last = last._replace(last_step=step, num_changes=last.num_changes + 1)
            continue
        if last is not None:
            yield last
        last = Mark(step, step, 1, change.reason, change.source, step > now)
    if last is not None:
        yield last


def _bin_edges(run: Run, first: int, end: int) -> Counts:
    """Rows between which to count: at most _MAX_BINS bins of equal size, and the rest.

    A bin holds a power of two of steps and starts at a multiple of them, so that a run which goes
    on keeps the bins that were counted.
    """
    rows_a_step = run.shapes[-1].rows_a_step
    size = rows_a_step
    while (end - first) / size > _MAX_BINS - 2:
        size *= 2
    inside = np.arange((first // size + 1) * size, end, size, dtype=np.int64)
    return np.concatenate([[first], inside, [end]]).astype(np.int64)


def _drawn_shares(run: Run, bins: DrawnBins, first: int, end: int) -> tuple[Vector, Vector, float]:
    """Steps (m,), the shares (m, K) of a window around each, and the steps of a window."""
    if end <= first:
        return np.empty(0), np.empty((0, len(run.domains))), 0.0
    edges = _bin_edges(run, first, end)
    counts = np.zeros((len(edges), len(run.domains)), dtype=np.int64)
    np.cumsum(bins.counts(run, edges), axis=0, out=counts[1:])
    num_bins = len(edges) - 1
    bin_rows = max(int(np.diff(edges).max()), 1)
    half = max(-(-_WINDOW_ROWS // bin_rows), _MIN_WINDOW_BINS) // 2
    half = max(min(half, num_bins // 6), 1 if num_bins > 2 else 0)
    middle = np.arange(num_bins)
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half + 1, num_bins)
    inside = counts[high] - counts[low]
    steps = steps_of_rows(run, edges)
    shares = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)
    window_steps = float(np.median(steps[high] - steps[low]))
    middles = (steps[:-1] + steps[1:]) / 2
    middles[0], middles[-1] = steps[0], steps[-1]  # so that the picture is full to its ends
    return middles, shares, window_steps


def _passes(run: Run, bins: DrawnBins) -> tuple[Vector, Vector, bool]:
    """Steps (p,), passes over each domain's rows (p, K), and whether they are estimated."""
    before = run.origin.get("counts")
    drawn = np.zeros(len(run.domains)) if before is None else np.sum(before, axis=0, dtype=float)
    edges = _bin_edges(run, run.first_row, run.last_row)
    counts = bins.counts(run, edges)
    counted = counts.sum(axis=1, keepdims=True)
    scaled = counts * np.diff(edges)[:, None] / np.maximum(counted, 1)
    total = np.concatenate([drawn[None], drawn + np.cumsum(scaled, axis=0)])
    passes = total / np.maximum(run.num_rows, 1)
    return steps_of_rows(run, edges), passes, bool((counted[:, 0] != np.diff(edges)).any())


def _signals(run: Run, first: float, end: float, max_points: int) -> Iterator[Signal]:
    """Each signal by name, in the order of their first values."""
    units = {event["name"]: event.get("unit") or "" for event in run.of("signal")}
    for name, unit in units.items():
        steps, values = run.signal(name)
        shown = (steps >= first) & (steps <= end)
        if shown.any():
            yield Signal(name, unit, thinned(steps[shown], values[shown], max_points))
