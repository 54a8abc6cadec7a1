"""The charts of a run -> matplotlib axes; one function a panel."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixstream.arrays import Vector
from mixstream.plot.charts import Charts, Mark, Signal
from mixstream.plot.groups import Groups, printable
from mixstream.plot.palette import GRID, INK, MUTED, OTHERS, OTHERS_AREA
from mixstream.plot.spread import spread
from mixstream.plot.thin import Thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "MAX_NOTES",
    "asked_panel",
    "chosen_marks",
    "drawn_panel",
    "note_of",
    "notes_panel",
    "passes_panel",
    "signal_panel",
]

MAX_NOTES = 8
"""Changes that have a number and a line of text; the others are ticks."""

_SOURCES = {
    "code": "in code",
    "schedule": "by schedule",
    "person": "by hand",
    "resume": "found at a resume",
}
_LABEL_GAP = 0.085  # of a panel's height, for labels beside it
_WORD_WIDTH = 0.13  # of a panel's width, for "planned"
_FEW_POINTS = 40
_MAX_ASKED_LINES = 60  # pieces; more of them hide what was drawn


def asked_panel(axes: Axes, charts: Charts, groups: Groups) -> None:
    """The asked weights, stacked, step by step, with numbers at the changes."""
    shares = groups.summed(charts.domains, charts.asked)
    stacked = np.concatenate([shares, shares[-1:]]).T
    axes.stackplot(
        charts.asked_edges,
        stacked,
        colors=groups.areas,
        step="post",
        edgecolor="white",
        linewidth=0.0 if charts.asked_is_mean else 0.6,
    )
    _mark_changes(axes, charts)
    title = "asked weights"
    if charts.asked_is_mean:
        title += f", means of {charts.asked_edges[1] - charts.asked_edges[0]:,.0f} steps"
    _share_axes(axes, charts, title)
    _label_bands(axes, shares[-1], groups)
    end = float(charts.asked_edges[-1])
    if end > charts.now_step:
        axes.axvspan(charts.now_step, end, facecolor="white", alpha=0.45, hatch="//", lw=0)
        axes.axvline(charts.now_step, color=INK, linewidth=1.2)
        now = (charts.now_step - charts.first_step) / (end - charts.first_step)
        is_narrow = (
            now > 1 - _WORD_WIDTH
        )  # the word ends with the panel then, and begins before now
        axes.text(
            0.995 if is_narrow else now, 0.03, "planned" if is_narrow else " planned",
            ha="right" if is_narrow else "left", transform=axes.transAxes, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip


def drawn_panel(axes: Axes, charts: Charts, groups: Groups) -> None:
    """The drawn shares in a sliding window, stacked, and the asked ones as lines."""
    window = f"{charts.window_steps:,.0f} steps"
    has_lines = len(charts.asked) <= _MAX_ASKED_LINES
    lines = "; lines: asked" if has_lines else ""
    _share_axes(axes, charts, f"drawn shares, window of {window}{lines}")
    if len(charts.drawn) == 0:
        _say(axes, "nothing is drawn yet")
        return
    shares = groups.summed(charts.domains, charts.drawn)
    axes.stackplot(
        charts.drawn_steps, shares.T, colors=groups.areas, edgecolor="white", linewidth=0.3
    )
    if has_lines:
        _asked_lines(axes, charts, groups)
    _label_bands(axes, shares[-1], groups)


def signal_panel(
    axes: Axes, charts: Charts, groups: Groups, signal: Signal | None, limits: tuple[float, float]
) -> None:
    """One signal, a line a domain; the domains that are not named are a grey range."""
    _step_axes(axes, charts)
    axes.set_ylim(limits)
    if signal is None:
        _say(axes, "this run did not log it")
        return
    title = printable(signal.name, 60)
    if signal.points.per_point > 1:
        title += f", mean (line) and range of each {signal.points.per_point:,} values"
    _title(axes, title)
    axes.set_ylabel(printable(signal.unit, 40) if signal.unit else "no unit given", color=MUTED)
    _domain_lines(axes, charts, groups, signal.points)


def passes_panel(axes: Axes, charts: Charts, groups: Groups, most: float) -> None:
    """How often each domain's rows were passed over; dots where one begins anew."""
    _step_axes(axes, charts)
    axes.set_ylim(0, most)
    title = "epochs by domain"
    if charts.passes_are_estimated:
        title += ", estimated from a sample of the draws"
    _title(axes, title)
    axes.set_ylabel("passes over its rows", color=MUTED)
    if charts.passes.size == 0:
        _say(axes, "nothing is drawn yet")
        return
    values = charts.passes
    _domain_lines(axes, charts, groups, Thinned(charts.passes_steps, values, values, values, 1))
    places, _ = groups.columns(charts.domains)
    for place, style in zip(places, groups.styles, strict=False):
        if place is not None:
            column, steps = values[:, place], charts.passes_steps
            begun = np.arange(np.floor(column[0]) + 1, np.floor(column[-1]) + 1)[:_FEW_POINTS]
            after = np.searchsorted(column, begun)  # np.interp would take an exhausted one's end
            part = (begun - column[after - 1]) / (column[after] - column[after - 1])
            reached = steps[after - 1] + part * (steps[after] - steps[after - 1])
            axes.plot(
                reached, begun, "o", color=style.colour,
                markersize=4, markeredgecolor="white", markeredgewidth=0.6, zorder=4,
            )  # fmt: skip


def notes_panel(axes: Axes, charts: Charts, columns: int) -> None:
    """The numbered changes, a line each, and how many are not numbered."""
    axes.axis("off")
    marks, num_others = chosen_marks(charts.marks)
    lines = [f"{number}. {note_of(mark)}" for number, mark in enumerate(marks, 1)]
    if num_others:
        lines.append(f"and {num_others:,} more")
    text = "\n".join(textwrap.shorten(line, columns, placeholder=" …") for line in lines)
    axes.text(
        0.0, 1.0, text or "no change of the weights", transform=axes.transAxes, va="top",
        color=INK, linespacing=1.45,
    )  # fmt: skip


def chosen_marks(marks: Sequence[Mark]) -> tuple[list[Mark], int]:
    """The changes to number, in order of steps, and how many are left out.

    Those by hand come first, then those for the most changes, then the earliest.
    """
    ranked = sorted(marks, key=lambda m: (m.source != "person", -m.num_changes, m.step))
    return sorted(ranked[:MAX_NOTES], key=lambda m: m.step), max(len(marks) - MAX_NOTES, 0)


def note_of(mark: Mark) -> str:
    """A change, or several on end, in words.

    >>> note_of(Mark(500, 900, 5, "doremi", "code", False))
    'steps 500 to 900, 5 changes in code: doremi'
    """
    reason = printable(mark.reason, 200) if mark.reason else "no reason given"
    where = f"step {mark.step:,},"
    if mark.num_changes > 1:
        where = f"steps {mark.step:,} to {mark.last_step:,}, {mark.num_changes:,} changes"
    planned = " planned" if mark.is_planned else ""
    return f"{where}{planned} {_SOURCES.get(mark.source, mark.source)}: {reason}"


def _mark_changes(axes: Axes, charts: Charts) -> None:
    """A tick for every change at the top; a line and a number for the chosen ones."""
    place = axes.get_xaxis_transform()
    span = charts.end_step - charts.first_step
    for mark in charts.marks:
        axes.plot(
            [max(mark.step, charts.first_step), mark.last_step], [1.02, 1.02], transform=place,
            color=MUTED, linewidth=2, clip_on=False, marker="v", markersize=4,
        )  # fmt: skip
    marks, _ = chosen_marks(charts.marks)
    wanted = [(max(mark.step, charts.first_step) - charts.first_step) / span for mark in marks]
    for number, (mark, x) in enumerate(zip(marks, spread(wanted, 0.028), strict=True), 1):
        axes.axvline(mark.step, color="white", linewidth=1.8, zorder=3)
        axes.axvline(mark.step, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=3)
        axes.text(
            float(x), 1.06, str(number), transform=axes.transAxes, ha="center", va="bottom",
            color="white", fontsize=7.5, fontweight="bold", clip_on=False,
            bbox={"boxstyle": "circle,pad=0.22", "facecolor": INK, "edgecolor": "none"},
        )  # fmt: skip


def _asked_lines(axes: Axes, charts: Charts, groups: Groups) -> None:
    """The bounds between the asked shares, up to now, on any colour."""
    bounds = np.cumsum(groups.summed(charts.domains, charts.asked), axis=1)[:, :-1]
    begun = charts.asked_edges[:-1] <= charts.now_step
    edges = np.append(charts.asked_edges[:-1][begun], charts.now_step)
    for bound in bounds[begun].T:
        heights = np.append(bound, bound[-1:])
        axes.step(edges, heights, where="post", color="white", linewidth=1.5)
        axes.step(edges, heights, where="post", color=INK, linewidth=0.7)


def _domain_lines(axes: Axes, charts: Charts, groups: Groups, points: Thinned) -> None:
    """A line for each named domain and a grey range for the others, each with its last value."""
    places, rest = groups.columns(charts.domains)
    ends: list[tuple[float, str, str]] = []
    has_rest = rest and bool(np.isfinite(points.mean[:, rest]).any())
    if has_rest:
        some = np.isfinite(points.mean[:, rest]).any(axis=1)
        bottom = np.nanmin(points.low[some][:, rest], axis=1)
        top = np.nanmax(points.high[some][:, rest], axis=1)
        axes.fill_between(points.steps[some], bottom, top, color=OTHERS_AREA, alpha=0.8, lw=0)
        axes.plot(points.steps[some], top, color=OTHERS.colour, linewidth=0.5)
        axes.plot(points.steps[some], bottom, color=OTHERS.colour, linewidth=0.5)
        ends.append(((bottom[-1] + top[-1]) / 2, f"{groups.labels[-1]} (range)", OTHERS.colour))
    for place, style, label in zip(places, groups.styles, groups.labels, strict=False):
        there = np.isfinite(points.mean[:, place]) if place is not None else np.zeros(0, bool)
        if place is None or not there.any():
            continue
        steps, mean = points.steps[there], points.mean[there, place]
        if points.per_point > 1:
            edges = points.low[there, place], points.high[there, place]
            axes.fill_between(steps, *edges, color=style.colour, alpha=0.14, lw=0)
        axes.plot(
            steps, mean, color=style.colour, linewidth=1.6, label=label,
            dashes=style.dash or (None, None),
            marker="o" if len(steps) <= _FEW_POINTS else None, markersize=2.6,
        )  # fmt: skip
        ends.append((float(mean[-1]), f"{label} {mean[-1]:.3g}", style.colour))
    _label_lines(axes, ends)


def _label_lines(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names and last values beside the lines' ends."""
    bottom, top = axes.get_ylim()
    wanted = [(value - bottom) / (top - bottom) for value, _, _ in ends]
    _labels(axes, wanted, [text for _, text, _ in ends], [colour for *_, colour in ends])


def _label_bands(axes: Axes, shares: Vector, groups: Groups) -> None:
    """Names and last shares beside a stack; bands of nothing have none."""
    middle = np.cumsum(shares) - shares / 2
    shown = [index for index, share in enumerate(shares) if share > 0]
    texts = [f"{groups.labels[index]} {_percent(shares[index])}" for index in shown]
    _labels(axes, middle[shown].tolist(), texts, [groups.areas[index] for index in shown])


def _percent(share: float) -> str:
    """Two digits: 31 %, 2.1 %."""
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


def _labels(
    axes: Axes, wanted: Sequence[float], texts: Sequence[str], colours: Sequence[str]
) -> None:
    """Texts at the right of the axes, each with a square of its colour."""
    for y, text, colour in zip(spread(wanted, _LABEL_GAP, 0.02, 0.98), texts, colours, strict=True):
        common: dict[str, Any] = {"transform": axes.transAxes, "va": "center", "clip_on": False}
        axes.text(1.012, float(y), "■", color=colour, fontsize=9, **common)
        axes.text(1.036, float(y), text, color=INK, fontsize=8, **common)


def _share_axes(axes: Axes, charts: Charts, title: str) -> None:
    _step_axes(axes, charts)
    _title(axes, title)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_ylabel("share of rows", color=MUTED)


def _step_axes(axes: Axes, charts: Charts) -> None:
    axes.set_xlim(charts.first_step, charts.end_step)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}" if step == int(step) else "")
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelcolor=MUTED, length=3)
    axes.yaxis.set_label_coords(-0.085, 0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)


def _title(axes: Axes, text: str) -> None:
    pad = 22 if text.startswith("asked") else 5
    axes.set_title(text, loc="left", color=INK, fontsize=9.5, pad=pad)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
