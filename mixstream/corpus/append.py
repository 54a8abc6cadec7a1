"""A finished corpus and a recipe -> the corpus with the files that it did not hold yet.

Old shards stay as they are. A remote corpus is read into a folder here, as far as its other files
are needed, and these are kept in its work folder before any of them is written over: so an append
that was stopped begins with the same ones again, on any machine.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from mixstream.corpus.base import Base
from mixstream.corpus.dedup import HASHES
from mixstream.corpus.inputs import INPUTS, new_files, read_inputs, without
from mixstream.corpus.job import Examples, Job, begin_work, run_job
from mixstream.corpus.jsonfile import Json, read_object
from mixstream.corpus.manifest import Manifest, read_manifest
from mixstream.corpus.provenance import PROVENANCE
from mixstream.corpus.recipe import Recipe
from mixstream.corpus.work import WORK, is_appending, own_work, refuse_other, remove_work
from mixstream.errors import RecipeError

__all__ = ["appended"]


def appended(job: Job, recipe: Recipe) -> Examples:
    """Adds the recipe's files that a finished corpus does not hold; without any, does nothing.

    Raises:
        RecipeError: no finished corpus of these settings, or files of it are not as they were.
        ShardError: a remote corpus that cannot be read or written, or lacks a file.
    """
    output, out = job.output, job.output.folder
    output.fetch_manifest()
    if not (out / "corpus.json").exists():
        raise RecipeError(
            f"append adds to a finished corpus, and {output.shown} is none; leave append out to "
            f"make or finish it."
        )
    base, is_begun = _base(job, recipe)
    known = read_inputs(base.folder)
    if known is None:
        raise RecipeError(
            f"the corpus {output.shown} was made before mixstream noted its input files "
            f"(inputs.json), so nobody can tell which are new; convert it again."
        )
    place = f"the corpus {output.shown}"
    settings: dict[str, Json] = {**recipe.rows.described(), "unit_bytes": recipe.unit_bytes}
    then = {key: value for key, value in base.manifest.recipe.items() if key != "inputs"}
    refuse_other(settings, then, place)
    known = without(known, base.manifest.domains)
    fresh = replace(recipe, files=new_files(recipe.files, known, job.check, place))
    if not (fresh.files and is_begun):
        remove_work(out)  # what a kill in the very last step left
    if not fresh.files:
        _forget(job, base)
        return {}
    with own_work(out, fresh, job.asked, append_to=base.manifest.fingerprint) as work:
        if read_manifest(out).fingerprint != base.manifest.fingerprint:
            raise RecipeError(f"another process has changed the corpus {out}; run the same again.")
        if output.upload is not None and output.appended_to() is None:
            output.upload.keep_base(_names(base.manifest, recipe), base.folder)
        begin_work(job, work)
        examples = run_job(job, fresh, work, base=base, known=known)
        output.place(work)
        shutil.rmtree(work, ignore_errors=True)
    _forget(job, base)
    return examples


def _base(job: Job, recipe: Recipe) -> tuple[Base, bool]:
    """The corpus that is appended to, in a folder here; and whether an append to it has begun."""
    output, out = job.output, job.output.folder
    manifest = read_manifest(out)
    if output.upload is None:
        return Base(folder=out, manifest=manifest), is_appending(out)
    appended_to = output.appended_to()
    is_begun = appended_to == manifest.fingerprint
    if not is_begun:
        output.clean()  # what a kill in the very last step left
    if _local_append(out) != appended_to or not is_begun:
        remove_work(out)
    folder = out / "base"
    output.upload.fetch_base(_names(manifest, recipe), folder, is_begun=is_begun)
    return Base(folder=folder, manifest=manifest), is_begun


def _names(manifest: Manifest, recipe: Recipe) -> list[str]:
    """The files of the corpus that an append reads, and writes over."""
    names = ["corpus.json", INPUTS]
    for domain in manifest.domains:
        names.append(f"{domain}/index.json")
        if recipe.rows.provenance and manifest.recipe.get("provenance"):
            names.append(f"{domain}/{PROVENANCE}")
    if recipe.rows.dedup is not None and manifest.recipe.get("dedup"):
        names.append(HASHES)
    return names


def _local_append(out: Path) -> object:
    path = out / WORK / "recipe.json"
    return read_object(path).get("append_to") if path.exists() else None


def _forget(job: Job, base: Base) -> None:
    """Removes what an append to a remote corpus needs no more, there and here."""
    if job.output.upload is not None:
        job.output.clean()
        shutil.rmtree(base.folder, ignore_errors=True)
