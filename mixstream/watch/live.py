"""A run log that grows -> what the page paints, as JSON holds it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.arrays import Vector
from mixstream.plot.charts import Charts, charts_of
from mixstream.plot.drawn import DrawnBins
from mixstream.plot.groups import Groups, domain_groups, printable
from mixstream.plot.palette import OTHERS
from mixstream.plot.panels import chosen_marks, note_of
from mixstream.plot.thin import Thinned
from mixstream.runlog import Run, read_run

__all__ = ["VIEWS", "LiveRun"]

VIEWS = ("all", "delivered", "recent")
"""What may be shown: with planned changes; up to now; the last steps alone."""

_RECENT_STEPS = 1000
_MAX_POINTS = 300


class LiveRun:
    """A run log, read again when it has grown; any number of threads may ask.

    Args:
        path: of the log.

    Raises:
        StateError: the file is no run log.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._reading, self._painting = threading.Lock(), threading.Lock()
        self._bins = DrawnBins(max_bin_rows=1 << 12)
        self._version, self._run = "", read_run(self.path)

    def run(self) -> Run:
        """The run as far as its log tells now."""
        return self._read()[0]

    def picture(self, view: str, known: str) -> dict[str, Any]:
        """What the page paints, or no more than "version" where it is the known one.

        Args:
            view: one of VIEWS.
            known: the version that the page has painted.

        Returns:
            JSON-able: shares and lines by group, marks, and each domain's weight. "seconds" is what
            the work took, so that the page asks less often where it is much.
        """
        began = time.perf_counter()
        with self._painting:
            run, version = self._read()
            version = f"{version}-{view}"
            if version == known:
                return {"version": version, "seconds": time.perf_counter() - began}
            charts = self._charts(run, view)
        groups = domain_groups([charts.mean_shares()])
        painted = _painted(charts, groups) | _state(run)
        return {"version": version, **painted, "seconds": time.perf_counter() - began}

    def _read(self) -> tuple[Run, str]:
        """The run, and which state of the log it is of."""
        with self._reading:
            status = self.path.stat()
            version = f"{status.st_mtime_ns}-{status.st_size}"
            if version != self._version:
                self._run, self._version = read_run(self.path), version
            return self._run, version

    def _charts(self, run: Run, view: str) -> Charts:
        now, first = run.last_step, run.step_of(run.first_row)
        steps = (max(now - _RECENT_STEPS, first), max(now, first + 1)) if view == "recent" else None
        return charts_of(
            run, steps=steps, bins=self._bins, max_points=_MAX_POINTS, planned=view == "all"
        )


def _state(run: Run) -> dict[str, Any]:
    """Where the run is, and what its weights are: of the domains that its corpus has now."""
    last = run.events[-1] if run.events else run.start
    weights = dict(zip(run.domains, run.weights_at(run.last_row).tolist(), strict=True))
    corpus = run.corpora[-1]
    return {
        "name": printable(run.path.stem, 60),
        "path": str(run.path.absolute()),
        "steerable": run.is_steerable,
        "ended": last["reason"] if last["event"] == "end" else None,
        "last_event": last["time"],
        "domains": [
            {"name": name, "label": printable(name, 40), "weight": weights[name], "rows": rows}
            for name, rows in zip(corpus["domains"], corpus["rows"], strict=True)
        ],
    }


def _painted(charts: Charts, groups: Groups) -> dict[str, Any]:
    """Every chart by group."""
    marks, num_others = chosen_marks(charts.marks)
    passes = Thinned(charts.passes_steps, charts.passes, charts.passes, charts.passes, 1)
    return {
        "first": charts.first_step,
        "now": charts.now_step,
        "end": charts.end_step,
        "groups": [
            {"label": label, "area": area, "line": style.colour, "dash": style.dash}
            for label, area, style in zip(groups.labels, groups.areas, groups.styles, strict=True)
        ],
        "asked": {
            "steps": _numbers(charts.asked_edges),
            "shares": _columns(groups.summed(charts.domains, charts.asked)),
        },
        "drawn": {
            "steps": _numbers(charts.drawn_steps),
            "shares": _columns(groups.summed(charts.domains, charts.drawn)),
            "window": charts.window_steps,
        },
        "lines": [
            *(
                {"name": printable(s.name, 60), "unit": s.unit, **_lines(charts, groups, s.points)}
                for s in charts.signals
            ),
            {
                "name": "epochs by domain",
                "unit": "passes over its rows",
                **_lines(charts, groups, passes),
            },
        ],
        "marks": [{"step": mark.step, "note": note_of(mark)} for mark in marks],
        "num_other_marks": num_others,
    }


def _lines(charts: Charts, groups: Groups, points: Thinned) -> dict[str, Any]:
    """A line for each named domain, and the range of the others."""
    places, rest = groups.columns(charts.domains)
    nothing = np.full(len(points.steps), np.nan)
    lines = [nothing if place is None else points.mean[:, place] for place in places]
    there = np.isfinite(points.mean[:, rest]).any(axis=1)
    low, high = nothing.copy(), nothing.copy()
    if there.any():
        low[there] = np.nanmin(points.low[there][:, rest], axis=1)
        high[there] = np.nanmax(points.high[there][:, rest], axis=1)
    return {
        "steps": _numbers(points.steps),
        "values": [_numbers(line) for line in lines],
        "others": {"low": _numbers(low), "high": _numbers(high), "line": OTHERS.colour},
    }


def _columns(shares: Vector) -> list[list[float | None]]:
    """(n, groups) -> a list a group."""
    return [_numbers(column) for column in shares.T]


def _numbers(values: Vector | Sequence[float]) -> list[float | None]:
    """Six digits of each, None for what is no number: a tenth of the bytes."""
    return [float(f"{x:.6g}") if np.isfinite(x) else None for x in np.asarray(values).tolist()]
