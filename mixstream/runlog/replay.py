"""A run log -> the addresses of any of its rows again, from the log alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixstream.arrays import ADDRESS, Addresses, Counts
from mixstream.errors import StateError
from mixstream.mixing.sampler import Draw, MixSampler
from mixstream.mixing.state import SamplerState
from mixstream.runlog.run import Run, read_run

__all__ = [
    "Sightings",
    "check_corpus",
    "drawn_counts",
    "order_settings",
    "replay",
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
        (n,) structured array of `domain` (int32) and `row` (int64, in shard order), in the order of
        the global rows; fewer than asked for where the run has ended before. Rows that the run has
        not reached yet are those that it will draw if nobody changes the weights.

    Raises:
        StateError: rows before the first that the log tells of, or not in order.
    """
    found = run if isinstance(run, Run) else read_run(run)
    first, end = row_range(found, rows=rows, steps=steps)
    sampler = replayed_sampler(found, first)
    blocks = [sampler.addresses(draw) for _, draw in _draws(sampler, end)]
    return np.concatenate([np.empty(0, dtype=ADDRESS), *blocks])


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
    sampler = replayed_sampler(found, int(edge[0]))
    for first, draw in _draws(sampler, int(edge[-1])):
        rows = np.arange(first, first + draw.domain.size)
        place = np.searchsorted(edge, rows, side="right") - 1
        counts += np.bincount(place * num_domains + draw.domain, minlength=counts.size)
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
    sampler = replayed_sampler(found, first)
    seen = [np.empty(0, dtype=np.int64)]
    for start, draw in _draws(sampler, end):
        mine = np.flatnonzero(draw.domain == index)
        addresses = sampler.addresses(Draw(*(column[mine] for column in draw)))
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
    """A sampler that stands before a row and goes on as the run did.

    It starts at the last place before the row whose counts the log holds, and draws from there.

    Raises:
        StateError: the row is before the first that the log tells of, or the run ended before it.
    """
    sampler = MixSampler(run.layout, **order_settings(run))
    sampler.load_state_dict(state_before(run, row, sampler))
    for _ in _draws(sampler, row):
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
    """Refuses a corpus that is not the run's.

    Raises:
        StateError: both fingerprints are named.
    """
    if run.start["corpus"] != fingerprint:
        raise StateError(
            f"{run.path} is of a run over the corpus with fingerprint {run.start['corpus']} "
            f"(path: {run.start['path']}), this one has {fingerprint}; open the corpus of the run."
        )


def state_before(run: Run, row: int, sampler: MixSampler) -> SamplerState:
    """The state of the run at the last known place at or before a row, for a sampler of the run.

    Raises:
        StateError: the row is before the first that the log tells of.
    """
    run.weights_at(row)  # raises for a row before the first
    place, counts = max(known for known in _known_places(run, sampler) if known[0] <= row)
    weights = run.weights_at(place)
    return {
        **sampler.state_dict(),
        "settings": {name: run.start["settings"][name] for name in _ORDER},
        "row": place,
        "weights": dict(zip(run.domains, weights.tolist(), strict=True)),
        "counts": counts,
        "changes": [
            {"at_row": change.row, "weights": change.weights.tolist(), "reason": change.reason}
            for change in run.changes
            if change.row > place
        ],
    }


def _known_places(run: Run, sampler: MixSampler) -> Iterator[tuple[int, list[list[int]]]]:
    """Rows, and the counts there, (C, K)."""
    if run.first_row == 0:
        yield 0, np.zeros_like(sampler.mark().counts).tolist()
    for event in (run.origin, *run.events):
        if event.get("counts") is not None:
            yield event["row"], event["counts"]


def _draws(sampler: MixSampler, end: int) -> Iterator[tuple[int, Draw]]:
    """The draws up to a row, block by block, each with its first row; fewer where the run ends."""
    while sampler.row < end:
        first = sampler.row
        draw = sampler.draw(min(_ROWS_AT_ONCE, end - first))
        if draw.domain.size == 0:
            return
        yield first, draw
