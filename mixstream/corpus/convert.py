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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from mixstream.corpus.commit import FinishedUnits, described, move_into_place, plan_moves
from mixstream.corpus.engines import run_all
from mixstream.corpus.jsonfile import Json, read_object, write_json
from mixstream.corpus.manifest import DomainEntry, read_manifest
from mixstream.corpus.recipe import (
    DEFAULT_MAX_DOCUMENT_BYTES,
    DEFAULT_SHARD_BYTES,
    DEFAULT_UNIT_BYTES,
    Recipe,
    RowSettings,
    check_size,
    domain_files,
)
from mixstream.corpus.tokenizers import Tokenizer, open_tokenizer
from mixstream.corpus.unit import Unit, UnitReport, planned_units, read_unit_report, run_unit
from mixstream.errors import RecipeError, ShardError

__all__ = ["ConversionReport", "Progress", "convert"]

_WORK = ".mixstream"
_NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A unit that has just ended, and how much of the work that makes."""

    unit: Unit
    report: UnitReport
    done_bytes: int
    """Of the input files, those of earlier runs included."""
    total_bytes: int
    """Of all input files."""


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
    workers: int = 1,
    domains: Mapping[str, str | Sequence[str]] | None = None,
    end_of_text: str | None = None,
    text_field: str = "text",
    compression: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    unit_bytes: int = DEFAULT_UNIT_BYTES,
    max_document_bytes: int = DEFAULT_MAX_DOCUMENT_BYTES,
    on_bad_document: Literal["skip", "raise"] = "skip",
    on_progress: Callable[[Progress], None] | None = None,
) -> ConversionReport:
    """Turns raw text into a corpus of tokenized, packed, fixed-length rows in MDS shards.

    Killed at any moment, the same call goes on where it stopped and yields the same bytes. Called
    on a corpus that it has finished, it changes nothing.

    Args:
        raw: folder whose sub-folders are the domains; None with `domains`.
        out: the corpus; new, empty, or the unfinished work of this very call.
        tokenizer: "bytes", the path of a Hugging Face tokenizer.json, or a Tokenizer.
        seq_len: S, tokens a row.
        packing: "concat" (documents one after the other) or "best_fit" (none cut that fits a row).
        workers: processes; the result does not depend on it.
        domains: glob patterns by domain, in place of sub-folders.
        end_of_text: the token that ends a document, where a tokenizer.json does not tell.
        text_field: field or column that holds the text.
        compression: None, or "zstd" for .mds.zst shards.
        shard_bytes: bytes of a shard's rows before compression.
        unit_bytes: bytes of input files that are converted in one go. Each unit ends with a row of
            its own, so the result depends on it.
        max_document_bytes: longer documents are dropped and counted as too_long.
        on_bad_document: "skip" (drop and count) or "raise".
        on_progress: called after each unit.

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
    recipe = Recipe(
        rows=RowSettings(
            tokenizer=open_tokenizer(tokenizer, end_of_text=end_of_text),
            seq_len=seq_len,
            packing=packing,
            text_field=text_field,
            compression=compression,
            shard_bytes=shard_bytes,
            max_document_bytes=max_document_bytes,
            on_bad_document=on_bad_document,
        ),
        files=domain_files(None if raw is None else Path(raw), domains, leave_out=out),
        unit_bytes=unit_bytes,
    )
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
            _run_units(recipe, work, workers=workers, on_progress=on_progress)
            finished = _finished_units(recipe, work)
            examples = {name: _first_examples(finished[name]) for name in finished}
            plan_moves(recipe, finished, work)
        move_into_place(out, work)
        shutil.rmtree(work, ignore_errors=True)
    _is_finished(out, recipe)  # a commit that was under way may be that of other inputs: refused
    return ConversionReport(path=out, domains=read_manifest(out).domains, examples=examples)


def _is_finished(out: Path, recipe: Recipe) -> bool:
    """Whether `out` is this recipe's finished corpus.

    Raises:
        RecipeError: it is a corpus of another recipe; what differs is named.
    """
    if not (out / "corpus.json").exists():
        return False
    _refuse_other(described(recipe), read_manifest(out).recipe, f"the corpus {out}")
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
    *,
    workers: int,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Runs every unit that is not finished."""
    units = planned_units(recipe)
    left = [unit for unit in units if read_unit_report(work / unit.digest) is None]
    total_bytes = sum(unit.num_bytes for unit in units)
    done_bytes = total_bytes - sum(unit.num_bytes for unit in left)
    task = partial(_run_unit, settings=recipe.rows, work=work)
    for unit, report in run_all(task, left, workers=workers):
        done_bytes += unit.num_bytes
        if on_progress is not None:
            on_progress(
                Progress(unit=unit, report=report, done_bytes=done_bytes, total_bytes=total_bytes)
            )


def _run_unit(unit: Unit, settings: RowSettings, work: Path) -> UnitReport:
    return run_unit(unit, settings, work / unit.digest)


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


def _first_examples(parts: Sequence[tuple[Unit, UnitReport]]) -> dict[str, list[str]]:
    """For each reason, where the first dropped documents of a domain stand."""
    examples: dict[str, list[str]] = {}
    for _, report in parts:
        for reason, places in report.examples.items():
            examples[reason] = (examples.get(reason, []) + places)[:_NUM_EXAMPLES]
    return examples
