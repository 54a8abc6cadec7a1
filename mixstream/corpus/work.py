"""The work folder in OUT: whose it is, that one process has it, and what it may not go on with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mixstream.corpus.commit import described_recipe, move_into_place
from mixstream.corpus.inputs import (
    INPUTS,
    differences,
    inputs_of,
    read_inputs,
    refuse,
    refuse_unfinished,
    without,
    write_inputs,
)
from mixstream.corpus.jsonfile import Json, brief, read_object, write_json
from mixstream.corpus.manifest import read_manifest
from mixstream.corpus.recipe import Recipe
from mixstream.errors import RecipeError, ShardError

__all__ = [
    "WORK",
    "Asked",
    "finish_commit",
    "is_appending",
    "is_finished",
    "locked_corpus",
    "own_work",
    "refuse_other",
    "refuse_strangers",
    "remove_work",
]

WORK = ".mixstream"
"""Its name."""


def is_finished(out: Path, recipe: Recipe, check: str = "time") -> bool:
    """Whether `out` is this recipe's finished corpus; `check` is one of inputs.CHECKS.

    Raises:
        RecipeError: it is a corpus of another recipe; what differs is named.
    """
    if not (out / "corpus.json").exists():
        return False
    manifest, known = read_manifest(out), read_inputs(out)
    asked, found = described_recipe(recipe), dict(manifest.recipe)
    if known is not None:
        del asked["inputs"], found["inputs"]
    refuse_other(asked, found, f"the corpus {out}")
    if known is not None:
        known = without(known, manifest.domains)
        refuse(list(differences(inputs_of(recipe.files, check), known, check)), f"the corpus {out}")
    return True


def finish_commit(out: Path) -> None:
    """Ends the moves of a commit into a finished corpus that was cut short: an append's.

    Raises:
        RecipeError: another process is at it.
        ShardError: the corpus cannot be written.
    """
    work = out / WORK
    if not ((out / "corpus.json").exists() and (work / "commit.json").exists()):
        return
    with _locked(work, out):
        if (work / "commit.json").exists():
            move_into_place(out, work)
            shutil.rmtree(work, ignore_errors=True)


def remove_work(out: Path) -> None:
    """Removes what no process needs. Raises RecipeError if one is at it."""
    if (out / WORK).exists():
        with _locked(out / WORK, out):
            shutil.rmtree(out / WORK, ignore_errors=True)


def is_appending(out: Path) -> bool:
    """Whether the unfinished work in `out` is an append."""
    path = out / WORK / "recipe.json"
    return path.exists() and "append_to" in read_object(path)


@contextmanager
def locked_corpus(out: Path) -> Iterator[None]:
    """The finished corpus in `out`, locked, and with no work of anybody in it.

    Raises:
        RecipeError: an append into it runs, or is unfinished.
    """
    if is_appending(out):
        raise RecipeError(
            f"an append to {out} is unfinished; give the same command again, then this one."
        )
    (out / WORK).mkdir(exist_ok=True)
    with _locked(out / WORK, out):
        yield
        shutil.rmtree(out / WORK, ignore_errors=True)


@contextmanager
def _locked(work: Path, out: Path) -> Iterator[None]:
    lock = FileLock(work / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RecipeError(
            f"another conversion into {out} is running; wait for it, or stop it first."
        ) from error
    try:
        yield
    finally:
        lock.release()


def refuse_strangers(out: Path) -> None:
    """Raises RecipeError if `out` is neither new nor empty nor a conversion's."""
    if (out / WORK / "recipe.json").exists() or (out / "corpus.json").exists():
        return
    found = [each.name for each in out.iterdir()] if out.is_dir() else ["a file"] * out.exists()
    strangers = sorted(name for name in found if name != WORK)
    if strangers:
        raise RecipeError(
            f"{out} holds {', '.join(strangers[:3])}, which is no unfinished work of mixstream "
            f"convert; name a new or empty folder."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How the input files of unfinished work are compared with those it was begun with."""

    check: str
    """One of inputs.CHECKS."""
    redo_changed: bool
    """Whether files may differ: then what was made of them is made anew."""
    is_kept_here: bool
    """Whether the work folder itself knows what it was begun with; else remote storage does."""


@contextmanager
def own_work(
    out: Path, recipe: Recipe, asked: Asked, *, append_to: str | None = None
) -> Iterator[Path]:
    """The work folder in `out`, which is locked while the conversion runs.

    Args:
        out: the corpus.
        recipe: what is asked for.
        asked: how its input files are to be compared with those that the work was begun with.
        append_to: fingerprint of the corpus that is appended to.

    Raises:
        RecipeError: `out` holds the work of other settings or files, or one that runs.
        ShardError: `out` cannot be written.
    """
    work = out / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(f"cannot write {work}: {error.strerror}") from error
    with _locked(work, out):
        settings = {**recipe.rows.described(), "unit_bytes": recipe.unit_bytes}
        if append_to is not None:
            settings["append_to"] = append_to
        if (work / "recipe.json").exists():
            started = read_object(work / "recipe.json")
            refuse_other(settings, started, f"the unfinished work in {out}")
        else:
            (work / INPUTS).unlink(missing_ok=True)
            write_json(work / "recipe.json", settings)
        _note_inputs(out, recipe, asked)
        yield work


def _note_inputs(out: Path, recipe: Recipe, asked: Asked) -> None:
    if (out / WORK / "commit.json").exists():
        return  # it ends first; then the corpus is compared
    now, begun = inputs_of(recipe.files, asked.check), read_inputs(out / WORK)
    if begun is not None and asked.is_kept_here:
        if not asked.redo_changed:
            refuse_unfinished(now, begun, asked.check, str(out))
        if not list(differences(now, begun, asked.check)):
            return  # what was noted may know more: contents
    write_inputs(out / WORK / INPUTS, now)


def refuse_other(
    asked: Mapping[str, Json], found: Mapping[str, object], place: str, of: str = ""
) -> None:
    """Raises RecipeError where two recipes differ, naming the first setting that does."""
    for key in sorted({*asked, *found}):
        now, then = asked.get(key), found.get(key)
        if isinstance(now, Mapping) and isinstance(then, Mapping):
            refuse_other(now, then, place, f"{of}{key}.")
        elif now != then:
            raise RecipeError(
                f"{place} was made with {of}{key}={brief(then)}, now {of}{key}={brief(now)} "
                f"is asked for; give the same again, name another folder, or delete this one."
            )
