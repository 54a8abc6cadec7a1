"""A checked recipe -> a corpus: under a lock, unit by unit, then into place."""

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
from mixstream.corpus.inputs import (
    Inputs,
    read_inputs,
    refuse_unfinished,
    stated_inputs,
)
from mixstream.corpus.jsonfile import Json, read_object
from mixstream.corpus.machine import processes_and_threads
from mixstream.corpus.manifest import read_manifest
from mixstream.corpus.output import Output
from mixstream.corpus.plan import planned_units
from mixstream.corpus.recipe import Recipe
from mixstream.corpus.running import Listeners, finished_units, first_examples, run_units
from mixstream.corpus.samples import sample_texts
from mixstream.corpus.tokenizers.backends import FastTokenizer
from mixstream.corpus.tokenizers.proof import proven_tokenizer
from mixstream.corpus.tokenizers.vocabulary import Reference
from mixstream.corpus.work import (
    WORK,
    Asked,
    is_appending,
    is_finished,
    own_work,
    refuse_other,
)

__all__ = ["Examples", "Job", "begin_work", "converted", "run_job"]

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
    redo_changed: bool = False
    """Whether unfinished work goes on with other input files than it was begun with."""

    @property
    def asked(self) -> Asked:
        """How input files are compared with those of unfinished work."""
        is_here = self.output.upload is None
        return Asked(check=self.check, redo_changed=self.redo_changed, is_kept_here=is_here)


def converted(job: Job, recipe: Recipe) -> Examples:
    """Makes a corpus, or nothing where it is finished.

    Raises:
        RecipeError: `out` is of another recipe or other files, or another process is at it.
    """
    output, out = job.output, job.output.folder
    output.fetch_manifest()
    if is_finished(out, recipe, job.check):
        if output.appended_to() != read_manifest(out).fingerprint:
            output.clean()  # what a kill in the very last step left
        if not is_appending(out):
            shutil.rmtree(out / WORK, ignore_errors=True)
        return {}
    with own_work(out, recipe, job.asked) as work:
        if (out / "corpus.json").exists():  # by another process, before this one had the lock
            shutil.rmtree(work, ignore_errors=True)
        if is_finished(out, recipe, job.check):
            return {}
        begin_work(job, work)
        examples: Examples = {}
        if not (work / "commit.json").exists():
            examples = run_job(job, recipe, work)
        output.place(work)
        output.clean()
        shutil.rmtree(work, ignore_errors=True)
    # a commit that was under way may be that of other inputs: refused
    is_finished(out, recipe, job.check)
    return examples


def run_job(
    job: Job, recipe: Recipe, work: Path, *, base: Base | None = None, known: Inputs | None = None
) -> Examples:
    """Runs all units and plans how they come into place."""
    output, workers = job.output, job.workers
    processes, threads = processes_and_threads(workers, len(planned_units(recipe)))
    if output.engine == "ray":
        threads = 1  # a unit has one core there
    recipe = _proven(recipe, job.backend, threads)
    if not isinstance(recipe.rows.tokenizer, FastTokenizer):
        processes = workers
    run = partial(output.run, settings=recipe.rows, work=work, workers=processes)
    is_deduped = recipe.rows.dedup is not None
    earlier = base.folder / HASHES if is_deduped and base is not None else None
    hashes = partial(output.each, workers=workers)
    run_units(recipe, work, run, job.listeners, run_hashes=hashes, earlier=earlier)
    finished = finished_units(recipe, work)
    inputs = {name: dict(files) for name, files in (known or {}).items()}
    begun = read_inputs(work)
    assert begun is not None, "own_work notes them"
    for name, files in begun.items():
        inputs.setdefault(name, {}).update(files)
    more = []
    if is_deduped:
        kept = kept_hashes(planned_units(recipe), work / DEDUP)
        more.append((f"{DEDUP}/{kept.name}", HASHES))
    plan_moves(recipe, finished, work, inputs=inputs, base=base, more=more)
    return {name: first_examples(finished[name]) for name in finished}


def _proven(recipe: Recipe, backend: str | None, threads: int) -> Recipe:
    """The same recipe with the fastest back end for its tokenizer, proven on its documents."""
    tokenizer = recipe.rows.tokenizer
    proven = proven_tokenizer(
        tokenizer,
        sample_texts(recipe) if isinstance(tokenizer, Reference) else (),
        backend=backend,
        threads=threads,
    )
    return replace(recipe, rows=replace(recipe.rows, tokenizer=proven))


def begin_work(job: Job, work: Path) -> None:
    """Makes the work folder know what is finished; refuses a remote OUT with other work in it."""
    shown, begun = job.output.shown, job.output.begin(work)
    if begun is None:
        return
    recipe, inputs = begun
    asked = cast("Mapping[str, Json]", read_object(work / "recipe.json"))
    refuse_other(asked, recipe, f"the unfinished work in {shown}")
    then = None if inputs is None else stated_inputs(inputs, f"inputs.json in {shown}")
    now = read_inputs(work)
    assert now is not None, "own_work notes them"
    if then is None or job.redo_changed:
        job.output.note_inputs(work)
    else:
        refuse_unfinished(now, then, job.check, str(shown))
