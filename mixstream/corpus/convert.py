"""A recipe -> a corpus: planned in units, run by an engine, put in place at the end.

While a conversion runs, everything lies in OUT/.mixstream: `recipe.json` (what is asked for), a
folder for each finished or unfinished unit, and at the end `commit.json` (which units make the
corpus). A unit's folder is named by a digest of its settings and files, so after any kill the same
command takes what is finished and does the rest. Then shards move to their final names, each
domain's index.json follows, and corpus.json comes last.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from mixstream.arrays import Counts
from mixstream.corpus.budget import workers_within
from mixstream.corpus.commit import FinishedUnits, described_recipe, move_into_place, plan_moves
from mixstream.corpus.engines import Tell, run_all
from mixstream.corpus.jsonfile import Json, read_object, write_json
from mixstream.corpus.machine import num_cores
from mixstream.corpus.manifest import DomainEntry, read_manifest
from mixstream.corpus.plan import Unit, planned_units
from mixstream.corpus.progress import Progress, Work, WorkLog
from mixstream.corpus.recipe import (
    DEFAULT_MAX_DOCUMENT_BYTES,
    DEFAULT_SHARD_BYTES,
    DEFAULT_UNIT_BYTES,
    Recipe,
    RowSettings,
    check_size,
    domain_files,
)
from mixstream.corpus.records import place
from mixstream.corpus.samples import sample_texts
from mixstream.corpus.tokenizers import Tokenizer, described, open_tokenizer
from mixstream.corpus.tokenizers.proof import proven_tokenizer
from mixstream.corpus.tokenizers.vocabulary import Reference
from mixstream.corpus.unit import UnitReport, read_unit_report, run_unit
from mixstream.errors import RecipeError, ShardError

__all__ = ["ConversionReport", "Progress", "Work", "convert"]

_WORK = ".mixstream"
_NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionReport:
    """What a conversion made."""

    path: Path
    """The corpus."""
    domains: Mapping[str, DomainEntry]
    """Counts of each domain, in manifest order."""
    examples: Mapping[str, Mapping[str, Sequence[str]]]
    """Domain -> reason -> where the first dropped documents stand; empty for a corpus that was
    finished before this call."""


def convert(
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    seq_len: int,
    packing: str = "concat",
    packing_window: int | None = None,
    bos: bool = False,
    workers: int = 1,
    memory: int | None = None,
    domains: Mapping[str, str | Sequence[str]] | None = None,
    end_of_text: str | None = None,
    tokenizer_backend: str | None = None,
    text_field: str = "text",
    compression: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    unit_bytes: int = DEFAULT_UNIT_BYTES,
    max_document_bytes: int = DEFAULT_MAX_DOCUMENT_BYTES,
    on_bad_document: Literal["skip", "raise"] = "skip",
    on_progress: Callable[[Progress], None] | None = None,
    on_work: Callable[[Work], None] | None = None,
) -> ConversionReport:
    """Turns raw text into a corpus of tokenized, packed, fixed-length rows in MDS shards.

    Killed at any moment, the same call goes on where it stopped and yields the same bytes. Called
    on a corpus that it has finished, it changes nothing.

    Args:
        raw: folder whose sub-folders are the domains; None with `domains`.
        out: the corpus; new, empty, or the unfinished work of this very call.
        tokenizer: "bytes", a path, a name or a Tokenizer; see tokenizers.open_tokenizer.
        seq_len: S, tokens a row.
        packing: "concat" (documents one after the other), "best_fit" (none cut that fits a row) or
            "pad" (one document a row).
        packing_window: tokens that best_fit packs at a time, for it alone: more pad less, take more
            memory and mix documents from further apart.
        bos: put the tokenizer's beginning-of-text id before each document. Its end-of-text id
            always follows, for from it alone a reader knows where a document ends.
        workers: processes; the result does not depend on it.
        memory: bytes that all processes may take together, whatever the documents; fewer workers
            run where that asks for it. Three quarters of the machine's, or of the container's, if
            not given. The result does not depend on it.
        domains: glob patterns by domain, in place of sub-folders.
        end_of_text: the token that ends a document, where a tokenizer.json does not tell.
        tokenizer_backend: "gigatoken", "fastokens", "tiktoken" or "reference"; if not given, the
            fastest that is installed and gives the reference's ids on a sample of the input.
        text_field: field or column that holds the text.
        compression: None, or "zstd" for .mds.zst shards.
        shard_bytes: bytes of a shard's rows before compression.
        unit_bytes: bytes of input files that are converted in one go. Each unit ends with a row of
            its own, so the result depends on it.
        max_document_bytes: longer documents are dropped and counted as too_long.
        on_bad_document: "skip" (drop and count) or "raise".
        on_progress: called after each unit.
        on_work: called a few times a second with how far each domain is.

    Returns:
        Counts of each domain.

    Raises:
        RecipeError: settings that cannot be met, or an output that is not this call's own.
        SourceError: a damaged file; units that are finished stay.
        ShardError: the output cannot be written.
    """
    out = Path(out)
    check_size("workers", workers)
    _refuse_strangers(out)
    opened = open_tokenizer(tokenizer, end_of_text=end_of_text)
    recipe = Recipe(
        rows=RowSettings(
            tokenizer=opened,
            seq_len=seq_len,
            packing=packing,
            packing_window=packing_window,
            bos_id=_begin_id(opened) if bos else None,
            text_field=text_field,
            compression=compression,
            shard_bytes=shard_bytes,
            max_document_bytes=max_document_bytes,
            on_bad_document=on_bad_document,
        ),
        files=domain_files(None if raw is None else Path(raw), domains, leave_out=out),
        unit_bytes=unit_bytes,
    )
    workers = workers_within(memory, recipe.rows, workers)
    if _is_finished(out, recipe):
        shutil.rmtree(out / _WORK, ignore_errors=True)  # left by a kill in the very last step
        return ConversionReport(path=out, domains=read_manifest(out).domains, examples={})
    with _own_work(out, recipe) as work:
        if (out / "corpus.json").exists():  # by another process, before this one had the lock
            shutil.rmtree(work, ignore_errors=True)
        if _is_finished(out, recipe):
            return ConversionReport(path=out, domains=read_manifest(out).domains, examples={})
        examples: dict[str, dict[str, list[str]]] = {}
        if not (work / "commit.json").exists():
            recipe = _proven(recipe, tokenizer_backend, min(workers, len(planned_units(recipe))))
            _run_units(recipe, work, workers, on_progress=on_progress, on_work=on_work)
            finished = _finished_units(recipe, work)
            examples = {name: _first_examples(finished[name]) for name in finished}
            plan_moves(recipe, finished, work)
        move_into_place(out, work)
        shutil.rmtree(work, ignore_errors=True)
    _is_finished(out, recipe)  # a commit that was under way may be that of other inputs: refused
    return ConversionReport(path=out, domains=read_manifest(out).domains, examples=examples)


def _proven(recipe: Recipe, backend: str | None, num_processes: int) -> Recipe:
    """The same recipe with the fastest back end for its tokenizer, proven on its documents."""
    tokenizer = recipe.rows.tokenizer
    proven = proven_tokenizer(
        tokenizer,
        sample_texts(recipe) if isinstance(tokenizer, Reference) else (),
        backend=backend,
        threads=max(1, num_cores() // num_processes),
    )
    return replace(recipe, rows=replace(recipe.rows, tokenizer=proven))


def _begin_id(tokenizer: Tokenizer) -> int:
    found = described(tokenizer).get("bos_id")
    if not isinstance(found, int):
        raise RecipeError(
            f"bos is asked for, but tokenizer {tokenizer.name!r} has no beginning-of-text id. "
            f"Leave bos out."
        )
    return found


def _is_finished(out: Path, recipe: Recipe) -> bool:
    """Whether `out` is this recipe's finished corpus.

    Raises:
        RecipeError: it is a corpus of another recipe; what differs is named.
    """
    if not (out / "corpus.json").exists():
        return False
    _refuse_other(described_recipe(recipe), read_manifest(out).recipe, f"the corpus {out}")
    return True


def _refuse_strangers(out: Path) -> None:
    """Raises RecipeError if `out` is neither new nor empty nor a conversion's."""
    if (out / _WORK / "recipe.json").exists() or (out / "corpus.json").exists():
        return
    found = [each.name for each in out.iterdir()] if out.is_dir() else ["a file"] * out.exists()
    strangers = sorted(name for name in found if name != _WORK)
    if strangers:
        raise RecipeError(
            f"{out} holds {', '.join(strangers[:3])}, which is no unfinished work of mixstream "
            f"convert; name a new or empty folder."
        )


@contextmanager
def _own_work(out: Path, recipe: Recipe) -> Iterator[Path]:
    """The work folder in `out`, which is locked while the conversion runs.

    Raises:
        RecipeError: `out` holds the work of other settings, or one that runs.
        ShardError: `out` cannot be written.
    """
    work = out / _WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(f"cannot write {work}: {error.strerror}") from error
    lock = FileLock(work / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RecipeError(
            f"another conversion into {out} is running; wait for it, or stop it first."
        ) from error
    try:
        settings = {**recipe.rows.described(), "unit_bytes": recipe.unit_bytes}
        if (work / "recipe.json").exists():
            started = read_object(work / "recipe.json")
            _refuse_other(settings, started, f"the unfinished work in {out}")
        else:
            write_json(work / "recipe.json", settings)
        yield work
    finally:
        lock.release()


def _refuse_other(
    asked: Mapping[str, Json], found: Mapping[str, object], place: str, of: str = ""
) -> None:
    """Raises RecipeError where two recipes differ, naming the first setting that does."""
    for key in sorted({*asked, *found}):
        now, then = asked.get(key), found.get(key)
        if isinstance(now, Mapping) and isinstance(then, Mapping):
            _refuse_other(now, then, place, f"{of}{key}.")
        elif now != then:
            raise RecipeError(
                f"{place} was made with {of}{key}={then!r}, now {of}{key}={now!r} is "
                f"asked for; give the same again, name another folder, or delete this one."
            )


def _run_units(
    recipe: Recipe,
    work: Path,
    workers: int,
    *,
    on_progress: Callable[[Progress], None] | None,
    on_work: Callable[[Work], None] | None,
) -> None:
    """Runs every unit that is not finished."""
    units = planned_units(recipe)
    reports = {unit.digest: read_unit_report(work / unit.digest) for unit in units}
    finished = {digest: report for digest, report in reports.items() if report is not None}
    left = [unit for unit in units if unit.digest not in finished]
    log = WorkLog(units, finished)
    task = partial(_run_unit, settings=recipe.rows, work=work)

    def on_counts(counts: Counts) -> None:
        log.update(counts)
        if on_work is not None:
            on_work(log.work())

    asked = None if on_work is None else on_counts
    total = sum(unit.num_bytes for unit in units)
    done = total - sum(unit.num_bytes for unit in left)
    for unit, report in run_all(task, left, workers=workers, on_counts=asked):
        log.finish(unit, report)
        done += unit.num_bytes
        if on_progress is not None:
            on_progress(Progress(unit=unit, report=report, done_bytes=done, total_bytes=total))
    if on_work is not None:
        on_work(log.work())


def _run_unit(unit: Unit, tell: Tell, *, settings: RowSettings, work: Path) -> UnitReport:
    return run_unit(unit, settings, work / unit.digest, tell)


def _finished_units(recipe: Recipe, work: Path) -> FinishedUnits:
    """Each domain's units with their reports, all of them finished."""
    finished: FinishedUnits = {name: [] for name in recipe.files}
    for unit in planned_units(recipe):
        report = read_unit_report(work / unit.digest)
        if report is None:
            raise RecipeError(
                f"input files of domain {unit.domain!r} changed while they were converted "
                f"({', '.join(map(str, unit.files[:3]))}); run the same again."
            )
        finished[unit.domain].append((unit, report))
    return finished


def _first_examples(finished: Sequence[tuple[Unit, UnitReport]]) -> dict[str, list[str]]:
    """For each reason, where the first dropped documents of a domain stand."""
    examples: dict[str, list[str]] = {}
    records: Counter[Path] = Counter()  # of the parts of each file so far
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
