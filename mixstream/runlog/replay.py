"""A run log -> the addresses of any of its rows again, from the log alone."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixstream.arrays import ADDRESS, Addresses, Counts
from mixstream.errors import StateError
from mixstream.mixing.mark import Mark
from mixstream.mixing.sampler import Draw, MixSampler
from mixstream.mixing.state import SamplerState
from mixstream.runlog.events import Event, layout_of_runs
from mixstream.runlog.growth import corpus_of
from mixstream.runlog.run import Run, read_run

__all__ = [
    "Sightings",
    "check_corpus",
    "check_one_corpus",
    "drawn_counts",
    "order_settings",
    "replay",
    "replayed_blocks",
    "replayed_sampler",
    "row_range",
    "seen_at",
    "state_before",
]

_ROWS_AT_ONCE = 1 << 20
_ORDER = (
    "seed",
    "num_canonical_nodes",
    "sampling",
    "stratum",
    "shuffle",
    "shuffle_block_rows",
    "max_epochs",
    "on_exhausted",
)


class Sightings(NamedTuple):
    """Where a run drew one row; every array is (n,) int64, in order."""

    rows: Counts
    """Global rows."""
    steps: Counts
    """The steps that held them."""


def replay(
    run: Run | str | os.PathLike[str],
    *,
    rows: tuple[int, int] | None = None,
    steps: tuple[int, int] | None = None,
) -> Addresses:
    """The addresses that a run drew, from its log alone.

    Args:
        run: the run, or the path of its log.
        rows: the first global row, and the one after the last.
        steps: the same in steps; give one of the two.

    Returns:
        (n,) structured array of `domain` (int32, index into the domains of the run: those of its
        start, then those that came later) and `row` (int64, in shard order), in the order of
        the global rows; fewer than asked for where the run has ended before. Rows that the run has
        not reached yet are those that it will draw if nobody changes the weights.

    Raises:
        StateError: rows before the first that the log tells of, or not in order.
    """
    found = run if isinstance(run, Run) else read_run(run)
    first, end = row_range(found, rows=rows, steps=steps)
    return np.concatenate([np.empty(0, dtype=ADDRESS), *replayed_blocks(found, first, end)])


def replayed_blocks(run: Run, first: int, end: int) -> Iterator[Addresses]:
    """Rows of a run in order, block by block; fewer where the run ends.

    Raises:
        StateError: the first row is before the first that the log tells of.
    """
    for _, draw, part in _draws(run, first, end):
        addresses = part.sampler.addresses(draw)
        addresses["domain"] = part.domains[addresses["domain"]]
        yield addresses


def drawn_counts(run: Run | str | os.PathLike[str], edges: Sequence[int] | Counts) -> Counts:
    """How many rows of each domain a run drew between some rows, from its log alone.

    Args:
        run: the run, or the path of its log.
        edges: (n + 1,) global rows, rising.

    Returns:
        (n, K) int64; place i counts the rows from edges[i] to before edges[i + 1].

    Raises:
        StateError: edges that do not rise, or from before the first row that the log tells of.
    """
    found = run if isinstance(run, Run) else read_run(run)
    edge = np.asarray(edges, dtype=np.int64)
    if edge.ndim != 1 or edge.size < 2 or (np.diff(edge) < 0).any():
        raise StateError(
            f"edges are {edge.tolist()!r:.100}; give at least two rows that rise, as in [0, 1000]."
        )
    num_domains, num_bins = len(found.domains), edge.size - 1
    counts = np.zeros(num_bins * num_domains, dtype=np.int64)
    for first, draw, part in _draws(found, int(edge[0]), int(edge[-1])):
        rows = np.arange(first, first + draw.domain.size)
        place = np.searchsorted(edge, rows, side="right") - 1
        counts += np.bincount(
            place * num_domains + part.domains[draw.domain], minlength=counts.size
        )
    return counts.reshape(num_bins, num_domains)


def seen_at(
    run: Run | str | os.PathLike[str],
    domain: str,
    row: int,
    *,
    rows: tuple[int, int] | None = None,
    steps: tuple[int, int] | None = None,
) -> Sightings:
    """Where a run drew a row of a domain.

    Args:
        run: the run, or the path of its log.
        domain: name.
        row: of the domain, in shard order.
        rows: where to look; all rows that were delivered, as far as the log knows, if not given.
        steps: the same in steps; give one of the two.

    Raises:
        StateError: the corpus of the run has no such row.
    """
    found = run if isinstance(run, Run) else read_run(run)
    held = dict(zip(found.domains, found.num_rows.tolist(), strict=True))
    if not 0 <= row < held.get(domain, 0):
        raise StateError(
            f"the corpus of the run has no row {row} of domain {domain!r}; its domains and rows "
            f"are {', '.join(f'{name}: {number}' for name, number in list(held.items())[:10])}."
        )
    first, end = row_range(found, rows=rows, steps=steps)
    index = found.domains.index(domain)
    seen = [np.empty(0, dtype=np.int64)]
    for start, draw, part in _draws(found, first, end):
        mine = np.flatnonzero(part.domains[draw.domain] == index)
        addresses = part.sampler.addresses(Draw(*(column[mine] for column in draw)))
        seen.append(start + mine[addresses["row"] == row])
    places = np.concatenate(seen)
    return Sightings(places, found.steps_of(places))


def row_range(
    run: Run, *, rows: tuple[int, int] | None, steps: tuple[int, int] | None
) -> tuple[int, int]:
    """The first row and the one after the last of some rows or steps; neither means all.

    Raises:
        StateError: rows before the first that the log tells of, or not in order.
    """
    if rows is not None and steps is not None:
        raise StateError(f"rows {rows} and steps {steps} are given; give one of the two.")
    if steps is not None:
        rows = run.row_of(steps[0]), run.row_of(steps[1])
    first, end = (run.first_row, run.last_row) if rows is None else rows
    if not run.first_row <= first <= end:
        raise StateError(
            f"rows {first} to {end} cannot be replayed: {run.path} tells of the run from row "
            f"{run.first_row} on; give the first one and the one after the last, in order."
        )
    return int(first), int(end)


def replayed_sampler(run: Run, row: int) -> MixSampler:
    """A sampler that stands before a row and goes on as the run did, until its corpus changed.

    It starts at the last place before the row whose counts the log holds, and draws from there.

    Raises:
        StateError: the row is before the first that the log tells of, or the run ended before it.
    """
    run.weights_at(row)  # raises for a row before the first
    begin = _begins(run, row)[-1]
    sampler = _sampler_from(run, begin, row) if "sampler" in begin else None
    if sampler is None:
        corpus = corpus_of(run.start, begin)
        layout = layout_of_runs(corpus["shards"], corpus["domains"])
        sampler = MixSampler(layout, **order_settings(run))
        sampler.load_state_dict(state_before(run, row, sampler))
    for _ in _drawn(sampler, row):
        pass
    if sampler.row < row:
        raise StateError(
            f"the run ended before row {row}: its domains were exhausted at row {sampler.row}; "
            f"ask for rows before that."
        )
    return sampler


def order_settings(run: Run, *, with_stratum: bool = True) -> dict[str, Any]:
    """What the order of a run depends on, as MixSampler takes it (or Loader, without stratum)."""
    settings = {name: run.start["settings"][name] for name in _ORDER}
    if settings["max_epochs"] is None:
        del settings["on_exhausted"]
    if not with_stratum:
        del settings["stratum"]
    return settings


def check_corpus(run: Run, fingerprint: str) -> None:
    """Refuses a corpus that is not the run's, as the run left it.

    Raises:
        StateError: both fingerprints are named.
    """
    wanted = run.corpora[-1]["corpus"]
    if wanted != fingerprint:
        raise StateError(
            f"{run.path} is of a run over the corpus with fingerprint {wanted} "
            f"(path: {run.start['path']}), this one has {fingerprint}; open the corpus of the run."
        )


def check_one_corpus(run: Run) -> None:
    """Refuses a run whose corpus changed: no corpus of one moment gives all of its rows again.

    Raises:
        StateError: the row from which the run had another corpus is named.
    """
    for event in run.events:
        if event is not run.origin and _is_change(run, event):
            raise StateError(
                f"the run of {run.path} went on over another corpus from row {event['row']} on "
                f"(fingerprint {event['corpus']}), so its rows cannot be streamed from one corpus; "
                f"mixstream.replay tells their addresses."
            )


def state_before(run: Run, row: int, sampler: MixSampler) -> SamplerState:
    """The state of the run at the last known place at or before a row, for a sampler of the run.

    Raises:
        StateError: the row is before the first that the log tells of.
    """
    run.weights_at(row)  # raises for a row before the first
    place, counts = max(known for known in _known_places(run, sampler, row) if known[0] <= row)
    own = _own_domains(run, sampler)
    weights = run.weights_at(place)[own]
    end = min((event["row"] for event in run.events if _is_change(run, event)), default=math.inf)
    return {
        **sampler.state_dict(),
        "settings": {name: run.start["settings"][name] for name in _ORDER},
        "row": place,
        "weights": dict(zip(sampler.domains, weights.tolist(), strict=True)),
        "counts": counts,
        "changes": [
            {"at_row": change.row, "weights": change.weights[own].tolist(), "reason": change.reason}
            for change in run.changes
            if place < change.row < end
        ],
    }


class _Part(NamedTuple):
    """A stretch of a run over one corpus."""

    sampler: MixSampler
    domains: Counts
    """(K,) int64, the place of each of the sampler's domains among those of the run."""


def _known_places(run: Run, sampler: MixSampler, row: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Rows of the stretch of the run that holds a row, and the counts there, (C, K)."""
    begin = next(event for event in reversed(_begins(run, row)) if _is_change(run, event))
    if run.first_row == 0 and begin is run.origin:
        yield 0, np.zeros_like(sampler.mark().counts).tolist()
    own = _own_domains(run, sampler)
    for event in (begin, *_events_after(run, begin)):
        if event is not begin and _is_change(run, event):
            return
        if event.get("counts") is not None:
            yield event["row"], np.array(event["counts"])[:, own].tolist()


def _begins(run: Run, row: int) -> list[Event]:
    """The events at or before a row from which the run went on, in order; not empty."""
    return [
        event
        for event in (run.origin, *run.events)
        if event["event"] in ("start", "resume") and event["row"] <= row
    ]


def _own_domains(run: Run, sampler: MixSampler) -> Counts:
    """(K,) int64, the place of each of a sampler's domains among those of the run."""
    place = {name: index for index, name in enumerate(run.domains)}
    return np.array([place[name] for name in sampler.domains], dtype=np.int64)


def _events_after(run: Run, begin: Event) -> Iterator[Event]:
    """The events of the log after one of them."""
    events = iter((run.origin, *run.events))
    next(event for event in events if event is begin)
    return events


def _is_change(run: Run, event: Event) -> bool:
    """Whether a stretch over one corpus begins with an event."""
    return event is run.origin or (event["event"] == "resume" and "domains" in event)


def _sampler_from(run: Run, begin: Event, row: int) -> MixSampler:
    """A sampler in the stretch that begins with a whole state, at the last known place."""
    corpus = corpus_of(run.start, begin)
    state: SamplerState = begin["sampler"]
    settings = dict(state["settings"])
    if settings["max_epochs"] is None:
        del settings["on_exhausted"]
    sampler = MixSampler(layout_of_runs(corpus["shards"], corpus["domains"]), **settings)
    own = _own_domains(run, sampler)
    changes = {change["at_row"]: change for change in state["changes"]}
    place = Mark(begin["row"], np.array(state["counts"], dtype=np.int64))
    for event in _events_after(run, begin):
        if event["event"] == "resume" and event["row"] > row:
            break
        if event["event"] == "weights" and not event.get("lost"):
            weights = np.array(event["weights"], dtype=np.float64)[own].tolist()
            changes[event["row"]] = {
                "at_row": event["row"], "weights": weights, "reason": event["reason"]
            }  # fmt: skip
            if event["among"] != list(sampler.domains):
                changes[event["row"]]["among"] = event["among"]
        elif event.get("counts") is not None and event["row"] <= row:
            place = Mark(event["row"], np.array(event["counts"], dtype=np.int64)[:, own])
    later = [changes[at_row] for at_row in sorted(changes)]
    steered: SamplerState = copy.copy(state)
    steered["changes"] = later
    sampler.load_state_dict(steered)
    sampler.rewind(place)
    return sampler


def _draws(run: Run, first: int, end: int) -> Iterator[tuple[int, Draw, _Part]]:
    """The draws from a row to another, block by block, each with its first row."""
    while first < end:
        sampler = replayed_sampler(run, first)
        part = _Part(sampler, _own_domains(run, sampler))
        later = [event["row"] for event in run.events if _is_change(run, event)]
        stop = min((row for row in later if first < row < end), default=end)
        for start, draw in _drawn(sampler, stop):
            yield start, draw, part
        if sampler.row < stop:
            return
        first = stop


def _drawn(sampler: MixSampler, end: int) -> Iterator[tuple[int, Draw]]:
    """The draws up to a row, block by block, each with its first row; fewer where the run ends."""
    while sampler.row < end:
        first = sampler.row
        draw = sampler.draw(min(_ROWS_AT_ONCE, end - first))
        if draw.domain.size == 0:
            return
        yield first, draw
