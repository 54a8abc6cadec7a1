"""The charts of one or several runs -> a matplotlib figure: a column a run, a row a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mixstream.plot.charts import Charts
from mixstream.plot.groups import domain_groups, printable
from mixstream.plot.palette import INK, MUTED
from mixstream.plot.panels import (
    MAX_NOTES,
    asked_panel,
    drawn_panel,
    notes_panel,
    passes_panel,
    signal_panel,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FONTS", "figure_of"]

FONTS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 8.5,
    "svg.fonttype": "none",  # text stays text: to be searched, copied and read aloud
    "svg.hashsalt": "mixstream",  # the same log gives the same bytes
    "hatch.linewidth": 0.4,
    "text.parse_math": False,  # names and reasons may hold dollars
}
"""matplotlib's settings for all pictures."""

_PANEL_INCHES, _LINE_INCHES, _GAP_INCHES = 1.75, 0.19, 0.55
_TOP_INCHES, _NOTES_GAP_INCHES, _BOTTOM_INCHES = 0.95, 0.3, 0.5
_COLUMN_INCHES, _LEFT_INCHES, _RIGHT_INCHES = 6.6, 0.75, 2.05


def figure_of(charts: Sequence[Charts]) -> Figure:
    """Asked weights, their changes in words, drawn shares, epochs and every signal.

    Args:
        charts: one or more; a domain has one colour in all of them, steps and signals one scale.
    """
    from matplotlib.figure import Figure

    groups = domain_groups([run.mean_shares() for run in charts])
    signals = list(dict.fromkeys(signal.name for run in charts for signal in run.signals))
    num_lines = max(1, *(min(len(run.marks), MAX_NOTES + 1) for run in charts))
    heights = [_PANEL_INCHES, num_lines * _LINE_INCHES, *[_PANEL_INCHES] * (2 + len(signals))]
    gaps = [_TOP_INCHES, _NOTES_GAP_INCHES, *[_GAP_INCHES] * (2 + len(signals))]
    size = (
        len(charts) * (_LEFT_INCHES + _COLUMN_INCHES + _RIGHT_INCHES),
        sum(heights) + sum(gaps) + _BOTTOM_INCHES,
    )
    figure = Figure(figsize=size, facecolor="white")
    first = min(run.first_step for run in charts)
    end = max(run.end_step for run in charts)
    limits = {name: _limits(charts, name) for name in signals}
    most = 1.05 * max(float(run.passes.max(initial=0)) for run in charts) or 1.0
    for column, run in enumerate(charts):
        run = replace(run, first_step=first, end_step=end)
        axes = _column(figure, column, heights, gaps)
        asked_panel(axes[0], run, groups)
        notes_panel(axes[1], run, columns=100)
        drawn_panel(axes[2], run, groups)
        known = {signal.name: signal for signal in run.signals}
        for place, name in zip(axes[3:-1], signals, strict=True):
            signal_panel(place, run, groups, known.get(name), limits[name])
        passes_panel(axes[-1], run, groups, most)
        axes[-1].set_xlabel("step", color=MUTED)
        axes[0].text(
            0, 1 + 0.6 / _PANEL_INCHES, printable(run.name, 60), transform=axes[0].transAxes,
            fontsize=13, fontweight="bold", color=INK,
        )  # fmt: skip
    return figure


def _column(
    figure: Figure, column: int, heights: Sequence[float], gaps: Sequence[float]
) -> list[Axes]:
    """Axes one below the other; heights, and the gaps above them, in inches."""
    width, height = figure.get_size_inches()
    left = column * (_LEFT_INCHES + _COLUMN_INCHES + _RIGHT_INCHES) + _LEFT_INCHES
    axes, top = [], height
    for gap, inches in zip(gaps, heights, strict=True):
        top -= gap + inches
        place = (left / width, top / height, _COLUMN_INCHES / width, inches / height)
        axes.append(figure.add_axes(place))
    return axes


def _limits(charts: Sequence[Charts], name: str) -> tuple[float, float]:
    """The scale of a signal in all runs, with a little air."""
    points = [signal.points for run in charts for signal in run.signals if signal.name == name]
    values = np.concatenate([part.ravel() for p in points for part in (p.low, p.high)])
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    air = 0.05 * (high - low) or 0.05 * max(abs(high), 1e-12)
    return low - air, high + air
