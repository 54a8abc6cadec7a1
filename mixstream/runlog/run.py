"""The path of a run log -> the run: what it was, what holds of what it did, and where it got to."""

from __future__ import annotations

import bisect
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.errors import StateError
from mixstream.runlog.events import FORMAT, Event, decoded_line, layout_of_runs
from mixstream.runlog.growth import corpus_of, over_all_domains

__all__ = ["Run", "RunShape", "WeightsFrom", "read_run"]


class RunShape(NamedTuple):
    """From a step on, how rows make steps; the world size may change at a resume."""

    step: int
    row: int
    batch_size: int
    world_size: int

    @property
    def rows_a_step(self) -> int:
        """Rows of a global batch."""
        return self.batch_size * self.world_size


class WeightsFrom(NamedTuple):
    """Weights, and the first row that feels them."""

    row: int
    weights: Vector
    """(K,) float64, sum 1."""
    reason: str
    source: str
    """ "start", "code", "schedule", "person", or "resume" where the log lost the change itself."""
    among: tuple[str, ...]
    """The domains that there were when this was decided, of which rows are drawn by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as its log tells it; what a resume rolled back is left out."""

    path: Path
    start: Event
    """The first event."""
    origin: Event
    """From where the log tells of the run: the start, or a resume from a place it did not know."""
    events: tuple[Event, ...]
    """The others that hold, in the order of the log."""
    changes: tuple[WeightsFrom, ...]
    """The weights by row, the first ones included; the last decision for a row holds."""
    shapes: tuple[RunShape, ...]
    """How rows make steps, in order; not empty."""
    last_row: int
    """Rows that were delivered, as far as the log knows (to about a second)."""
    is_torn: bool
    """Whether the log ends in the middle of a line, as a kill may leave it."""
    num_rolled_back: int
    """Events that a resume took back."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The K names."""
        return tuple(self.start["domains"])

    @property
    def num_rows(self) -> Counts:
        """(K,) int64, rows of each domain."""
        return np.array(self.start["rows"], dtype=np.int64)

    @property
    def layout(self) -> dict[str, Counts]:
        """Rows of each shard of each domain, as `corpus.layout` was."""
        return layout_of_runs(self.start["shards"], self.start["domains"])

    @property
    def corpora(self) -> tuple[Event, ...]:
        """What the run read from each start on: "corpus" (fingerprint), "domains", "rows", ..."""
        return tuple(corpus_of(self.start, begin) for begin in (self.origin, *self.of("resume")))

    @property
    def first_row(self) -> int:
        """The first row that the log tells of; not 0 where it was opened in the middle of a run."""
        return self.changes[0].row

    @property
    def last_step(self) -> int:
        """Steps that were delivered, as far as the log knows."""
        return self.step_of(self.last_row)

    @property
    def is_steerable(self) -> bool:
        """Whether the process that wrote last takes requests of persons."""
        resumes = self.of("resume")
        return bool((resumes[-1] if resumes else self.start).get("steerable", False))

    def of(self, kind: str) -> list[Event]:
        """The events of a kind, in the order of the log."""
        return [event for event in self.events if event["event"] == kind]

    def weights_at(self, row: int) -> Vector:
        """(K,) float64, the weights of a row, before exhausted domains are left out.

        Raises:
            StateError: the row is before the first that the log tells of.
        """
        return self.changes[self._index_at(row)].weights.copy()

    def row_of(self, step: int) -> int:
        """The first global row of a step.

        Raises:
            StateError: the step is before the first that the log tells of.
        """
        if step < self.shapes[0].step:
            raise StateError(
                f"{self.path} tells of the run from step {self.shapes[0].step} on, not of step "
                f"{step}; ask for a later one."
            )
        return _row_of_step(self.shapes, step)

    def step_of(self, row: int) -> int:
        """The step that holds a row.

        Raises:
            StateError: the row is before the first that the log tells of.
        """
        self._index_at(row)
        return int(self.steps_of(np.array([row]))[0])

    def steps_of(self, rows: Counts) -> Counts:
        """The steps that hold some rows, (n,) int64, none of them before `first_row`."""
        step, row, size = np.array([(*shape[:2], shape.rows_a_step) for shape in self.shapes]).T
        index = np.searchsorted(row, rows, side="right") - 1
        return np.asarray(step[index] + (rows - row[index]) // size[index])

    def signal(self, name: str) -> tuple[Counts, Vector]:
        """(n,) int64 steps and (n, K) float64 values of a signal; NaN where there was none."""
        found = [event for event in self.of("signal") if event["name"] == name]
        steps = np.array([event["step"] for event in found], dtype=np.int64)
        values = np.array([event["values"] for event in found], dtype=np.float64)
        return steps, values.reshape(len(found), len(self.domains))

    def _index_at(self, row: int) -> int:
        """The place in `changes` of the weights of a row."""
        index = bisect.bisect_right(self.changes, row, key=_row_of) - 1
        if index < 0:
            raise StateError(
                f"{self.path} tells of the run from row {self.first_row} on, not of row {row}; "
                f"ask for a later one."
            )
        return index


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run log, whole or not: a last line that a kill has torn is left out.

    Raises:
        StateError: no run log, or one of another format; the file and the line are named.
        OSError: the file is not there, or cannot be read.
    """
    place = Path(path)
    if not place.exists():
        said = "no such run log; give the file that Loader(run_log=...) wrote"
        raise FileNotFoundError(errno.ENOENT, said, str(place))
    *lines, torn = place.read_bytes().split(b"\n")
    events = [decoded_line(line, place, number) for number, line in enumerate(lines, 1)]
    if not events or events[0]["event"] != "start":
        raise StateError(
            f"{place} has no start event{' yet' if not events else ' in its first line'}; give the "
            f"file that Loader(run_log=...) wrote."
        )
    start = events[0]
    if start.get("format") != FORMAT:
        raise StateError(
            f"{place} has format {start.get('format')!r}, this mixstream reads format {FORMAT}; "
            f"read it with the mixstream that wrote it ({start.get('versions')})."
        )
    events = over_all_domains(events)
    start = events[0]
    kept = _what_holds(events[1:], start)
    return Run(
        path=place,
        start=start,
        origin=kept.origin,
        events=tuple(kept.events),
        changes=_changes(kept, start["domains"]),
        shapes=_shapes(kept),
        last_row=_last_row(kept),
        is_torn=bool(torn),
        num_rolled_back=len(events) - 1 - sum("lost" not in event for event in kept.events),
    )


class _Kept(NamedTuple):
    """What holds of a log, up to some line."""

    origin: Event
    """From where the log tells of the run: its start, or a resume from a place it does not know."""
    events: list[Event]


def _what_holds(events: Sequence[Event], start: Event) -> _Kept:
    """What no resume took back.

    A resume goes back to the checkpoint of its very state, in the log's own order, so that what was
    decided at that step after the checkpoint is dropped, and so is a branch that was given up
    before. Where the log holds no such checkpoint, rows tell; where it does not reach that row, it
    tells of the run from there on.
    """
    asked = {event.get("state") for event in events if event["event"] == "resume"}
    kept = _Kept(start, [])
    snapshots: dict[str, _Kept] = {}
    for event in events:
        if event["event"] == "resume":
            state, row = event.get("state"), event["row"]
            if state in snapshots:
                kept = snapshots[state]
            elif not kept.origin["row"] <= row <= _last_row(kept):
                kept = _Kept(event, [])
            kept = _Kept(kept.origin, _reconciled(kept, event, start["domains"]))
        kept.events.append(event)
        if event["event"] == "checkpoint" and event.get("state") in asked:
            snapshots[event["state"]] = _Kept(kept.origin, list(kept.events))
    return kept


def _reconciled(kept: _Kept, resume: Event, domains: Sequence[str]) -> list[Event]:
    """The events up to a resume, with exactly the weights from there on that its state had."""
    row = resume["row"]
    planned = {change["at_row"]: change for change in resume["changes"]}

    def holds(event: Event) -> bool:
        if event["event"] != "weights" or event["row"] < row:
            return bool(event["row"] <= row)
        if event["row"] == row:
            return bool(event["weights"] == resume["weights"])
        change = planned.get(event["row"])
        return change is not None and bool(change["weights"] == event["weights"])

    found = [event for event in kept.events if holds(event)]
    weights = {kept.origin["row"]: kept.origin["weights"]}
    weights |= {event["row"]: event["weights"] for event in found if event["event"] == "weights"}
    lost = []
    before = weights[max(at_row for at_row in weights if at_row <= row)]
    if before != resume["weights"]:
        reason = _loss(dict(zip(domains, before, strict=True)), resume)
        lost.append(resume | {"at_row": row, "reason": reason})
    lost += [change for at_row, change in planned.items() if at_row not in weights]
    common = {"event": "weights", "time": resume["time"], "source": "resume", "lost": True}
    for change in lost:
        at_row, rows_a_step = change["at_row"], resume["batch_size"] * resume["world_size"]
        place = {"row": at_row, "step": resume["step"] + (at_row - row) // rows_a_step}
        decided = {"decided_step": resume["step"], "weights": change["weights"]}
        among = {"among": change["among"]} if "among" in change else {}
        found.append({**common, **place, **decided, **among, "reason": change["reason"]})
    return found


def _loss(before: dict[str, float], resume: Event) -> str:
    """Why a resume has other weights than the run had, where it is domains that are gone."""
    here = resume.get("among", before)
    gone = [name for name, weight in before.items() if weight > 0 and name not in here]
    return f"{', '.join(gone)} left the corpus" if gone else ""


def _changes(kept: _Kept, domains: Sequence[str]) -> tuple[WeightsFrom, ...]:
    """The weights by row, those of the origin first."""
    origin = kept.origin | {"reason": "", "source": kept.origin["event"]}
    by_row = {origin["row"]: origin}
    by_row |= {event["row"]: event for event in kept.events if event["event"] == "weights"}
    return tuple(
        WeightsFrom(
            row,
            np.array(e["weights"], dtype=np.float64),
            e["reason"],
            e["source"],
            tuple(e.get("among", domains)),
        )
        for row, e in sorted(by_row.items())
    )


def _shapes(kept: _Kept) -> tuple[RunShape, ...]:
    """Each resume ends the shape before it at its own row."""
    shapes: list[RunShape] = []
    for event in (kept.origin, *kept.events):
        if event["event"] in ("start", "resume"):
            shape = event.get("settings", event)
            shapes = [shape for shape in shapes if shape.row < event["row"]]
            place = event["step"], event["row"]
            shapes.append(RunShape(*place, shape["batch_size"], shape["world_size"]))
    return tuple(shapes)


def _last_row(kept: _Kept) -> int:
    """Rows that were delivered, as far as the log knows."""
    shapes, last = _shapes(kept), kept.origin["row"]
    for event in kept.events:
        if event["event"] == "weights":  # which may be planned for rows that nobody has seen
            last = max(last, _row_of_step(shapes, event["decided_step"]))
        else:
            last = max(last, event["row"])
    return int(last)


def _row_of_step(shapes: Sequence[RunShape], step: int) -> int:
    """The first row of a step; the first known one where the step is before it."""
    shape = shapes[max(bisect.bisect_right(shapes, step, key=_step_of) - 1, 0)]
    return shape.row + max(step - shape.step, 0) * shape.rows_a_step


def _step_of(shape: RunShape) -> int:
    return shape.step


def _row_of(entry: RunShape | WeightsFrom) -> int:
    return entry.row
