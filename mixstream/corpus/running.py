"""A recipe and a work folder -> its units, run until all of them are finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mixstream.arrays import Counts
from mixstream.corpus.commit import FinishedUnits
from mixstream.corpus.dedup import DEDUP, decide, decided_units, hash_unit
from mixstream.corpus.engines import Tell
from mixstream.corpus.files import RawFile
from mixstream.corpus.plan import Unit, planned_units
from mixstream.corpus.progress import Progress, Work, WorkLog
from mixstream.corpus.recipe import Recipe, RowSettings
from mixstream.corpus.records import place
from mixstream.corpus.unit import UnitReport, read_unit_report
from mixstream.errors import RecipeError

__all__ = ["Listeners", "finished_units", "first_examples", "run_units"]

_NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Who is told how far the work is."""

    on_progress: Callable[[Progress], None] | None = None
    """Called after each unit."""
    on_work: Callable[[Work], None] | None = None
    """Called a few times a second with how far each domain is."""


def run_units(
    recipe: Recipe,
    work: Path,
    run: Callable[..., Iterator[tuple[Unit, UnitReport]]],
    listeners: Listeners,
    *,
    run_hashes: Callable[[Callable[[Unit, Tell], int], Sequence[Unit]], None],
    earlier: Path | None = None,
) -> None:
    """Runs every unit that is not finished.

    Args:
        recipe: what to convert.
        work: the work folder.
        run: runs units; takes them and `on_counts`.
        listeners: who is told.
        run_hashes: runs a task of every unit: that which hashes texts, where that is asked for.
        earlier: hashes of the corpus that is appended to; see dedup.
    """
    units = planned_units(recipe)
    if recipe.rows.dedup is not None:
        units = _without_repeats(units, recipe.rows, work / DEDUP, run_hashes, earlier)
    reports = {unit.digest: read_unit_report(work / unit.digest) for unit in units}
    finished = {digest: report for digest, report in reports.items() if report is not None}
    left = [unit for unit in units if unit.digest not in finished]
    log = WorkLog(units, finished)

    def on_counts(counts: Counts) -> None:
        log.update(counts)
        if listeners.on_work is not None:
            listeners.on_work(log.work())

    asked = None if listeners.on_work is None else on_counts
    total = sum(unit.num_bytes for unit in units)
    done = total - sum(unit.num_bytes for unit in left)
    for unit, report in run(left, on_counts=asked):
        log.finish(unit, report)
        done += unit.num_bytes
        if listeners.on_progress is not None:
            listeners.on_progress(
                Progress(unit=unit, report=report, done_bytes=done, total_bytes=total)
            )
    if listeners.on_work is not None:
        listeners.on_work(log.work())


def _without_repeats(
    units: Sequence[Unit],
    settings: RowSettings,
    folder: Path,
    run_hashes: Callable[[Callable[[Unit, Tell], int], Sequence[Unit]], None],
    earlier: Path | None,
) -> list[Unit]:
    """The units as they are known once it is decided which texts repeat others."""
    found = decided_units(units, folder)
    if found is None:
        folder.mkdir(exist_ok=True)
        run_hashes(partial(hash_unit, settings=settings, folder=folder.absolute()), units)
        decide(units, folder, earlier=earlier)
        found = decided_units(units, folder)
    assert found is not None, "what was decided is written"
    return found


def finished_units(recipe: Recipe, work: Path) -> FinishedUnits:
    """Each domain's units with their reports, all of them finished.

    Raises:
        RecipeError: files have changed since they were planned.
    """
    finished: FinishedUnits = {name: [] for name in recipe.files}
    planned = planned_units(recipe)
    units: Sequence[Unit] | None = planned
    if recipe.rows.dedup is not None:
        units = decided_units(planned, work / DEDUP)
    for number, unit in enumerate(planned if units is None else units):
        report = None if units is None else read_unit_report(work / unit.digest)
        if report is None:
            raise RecipeError(
                f"input files of domain {unit.domain!r} changed while they were converted "
                f"({', '.join(map(str, planned[number].files[:3]))}); run the same again with "
                f"redo_changed=True (--redo-changed), which does just these anew."
            )
        finished[unit.domain].append((unit, report))
    return finished


def first_examples(finished: Sequence[tuple[Unit, UnitReport]]) -> dict[str, list[str]]:
    """For each reason, where the first dropped documents of a domain stand."""
    examples: dict[str, list[str]] = {}
    records: Counter[RawFile] = Counter()  # of the parts of each file so far
    for unit, report in finished:
        before = []
        for part, num_records in zip(unit.parts, report.records, strict=True):
            before.append(records[part.path])
            records[part.path] += num_records
        for reason, found in report.examples.items():
            places = examples.setdefault(reason, [])
            for number, record, detail in found[: _NUM_EXAMPLES - len(places)]:
                at = place(unit.parts[number].path, before[number] + record)
                places.append(f"{at}: {detail}" if detail else at)
    return examples
