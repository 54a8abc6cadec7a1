"""A checked recipe -> a corpus, made anew or grown: under a lock, unit by unit, then into place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

from mixstream.corpus.base import Base
from mixstream.corpus.commit import plan_moves
from mixstream.corpus.dedup import DEDUP, HASHES, kept_hashes
from mixstream.corpus.inputs import Inputs, inputs_of, new_files, read_inputs, without
from mixstream.corpus.jsonfile import Json, read_object
from mixstream.corpus.machine import num_cores
from mixstream.corpus.manifest import read_manifest
from mixstream.corpus.output import Output
from mixstream.corpus.plan import planned_units
from mixstream.corpus.recipe import Recipe
from mixstream.corpus.running import Listeners, finished_units, first_examples, run_units
from mixstream.corpus.samples import sample_texts
from mixstream.corpus.tokenizers.proof import proven_tokenizer
from mixstream.corpus.tokenizers.vocabulary import Reference
from mixstream.corpus.work import (
    WORK,
    is_appending,
    is_finished,
    own_work,
    refuse_other,
    remove_work,
)
from mixstream.errors import RecipeError

__all__ = ["Examples", "Job", "appended", "converted"]

Examples: TypeAlias = dict[str, dict[str, list[str]]]
"""Domain -> reason -> where the first dropped documents stand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """How a recipe is run; the rows do not depend on it."""

    output: Output
    """Where to, and on what."""
    workers: int
    """Processes here."""
    backend: str | None
    """Of the tokenizer; None for the fastest that is proven."""
    listeners: Listeners
    """Who is told how far it is."""
    check: str
    """One of inputs.CHECKS."""


def converted(job: Job, recipe: Recipe) -> Examples:
    """Makes a corpus, or nothing where it is finished.

    Raises:
        RecipeError: `out` is of another recipe or other files, or another process is at it.
    """
    output, out = job.output, job.output.folder
    output.fetch_manifest()
    if is_finished(out, recipe, job.check):
        output.clean()  # what a kill in the very last step left
        if not is_appending(out):
            shutil.rmtree(out / WORK, ignore_errors=True)
        return {}
    with own_work(out, recipe) as work:
        if (out / "corpus.json").exists():  # by another process, before this one had the lock
            shutil.rmtree(work, ignore_errors=True)
        if is_finished(out, recipe, job.check):
            return {}
        _begin(output, work)
        examples: Examples = {}
        if not (work / "commit.json").exists():
            examples = _run(job, recipe, work)
        output.place(work)
        output.clean()
        shutil.rmtree(work, ignore_errors=True)
    # a commit that was under way may be that of other inputs: refused
    is_finished(out, recipe, job.check)
    return examples


def appended(job: Job, recipe: Recipe) -> Examples:
    """Adds the recipe's files that a finished corpus does not hold; without any, does nothing.

    Raises:
        RecipeError: no finished corpus of these settings, or files of it are not as they were.
    """
    out = job.output.folder
    if job.output.upload is not None or not (out / "corpus.json").exists():
        raise RecipeError(
            f"append adds to a finished corpus in a local folder, and {job.output.shown} is none; "
            f"leave append out to make or finish it."
        )
    base, known = Base(folder=out, manifest=read_manifest(out)), read_inputs(out)
    if known is None:
        raise RecipeError(
            f"the corpus {out} was made before mixstream noted its input files (inputs.json), so "
            f"nobody can tell which are new; convert it again."
        )
    settings: dict[str, Json] = {**recipe.rows.described(), "unit_bytes": recipe.unit_bytes}
    then = {key: value for key, value in base.manifest.recipe.items() if key != "inputs"}
    refuse_other(settings, then, f"the corpus {out}")
    known = without(known, base.manifest.domains)
    fresh = replace(recipe, files=new_files(recipe.files, known, job.check, f"the corpus {out}"))
    if not fresh.files or not is_appending(out):
        remove_work(out)  # what a kill in the very last step left
    if not fresh.files:
        return {}
    with own_work(out, fresh, append_to=base.manifest.fingerprint) as work:
        if read_manifest(out).fingerprint != base.manifest.fingerprint:
            raise RecipeError(f"another process has changed the corpus {out}; run the same again.")
        job.output.begin(work)
        examples = _run(job, fresh, work, base=base, known=known)
        job.output.place(work)
        shutil.rmtree(work, ignore_errors=True)
    return examples


def _run(
    job: Job, recipe: Recipe, work: Path, *, base: Base | None = None, known: Inputs | None = None
) -> Examples:
    """Runs all units and plans how they come into place."""
    output, workers = job.output, job.workers
    recipe = _proven(recipe, job.backend, min(workers, len(planned_units(recipe))))
    run = partial(output.run, settings=recipe.rows, work=work, workers=workers)
    is_deduped = recipe.rows.dedup is not None
    earlier = output.folder / HASHES if is_deduped and base is not None else None
    run_units(recipe, work, run, job.listeners, workers=workers, earlier=earlier)
    finished = finished_units(recipe, work)
    inputs = {name: dict(files) for name, files in (known or {}).items()}
    for name, files in inputs_of(recipe.files, job.check).items():
        inputs.setdefault(name, {}).update(files)
    more = []
    if is_deduped:
        kept = kept_hashes(planned_units(recipe), work / DEDUP)
        more.append((f"{DEDUP}/{kept.name}", HASHES))
    plan_moves(recipe, finished, work, inputs=inputs, base=base, more=more)
    return {name: first_examples(finished[name]) for name in finished}


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


def _begin(output: Output, work: Path) -> None:
    """Makes the work folder know what is finished; refuses a remote OUT with other work in it."""
    started = output.begin(work)
    if started is not None:
        asked = cast("Mapping[str, Json]", read_object(work / "recipe.json"))
        refuse_other(asked, started, f"the unfinished work in {output.shown}")
