"""A finished corpus and a domain's name -> the corpus without the domain."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

from mixstream.corpus.base import Base, remembered
from mixstream.corpus.inputs import INPUTS, inputs_json, read_inputs, without, write_inputs
from mixstream.corpus.manifest import fingerprint, read_manifest, write_manifest
from mixstream.corpus.remote import RemotePath, as_folder
from mixstream.corpus.work import finish_commit, locked_corpus
from mixstream.errors import RecipeError

__all__ = ["drop_domain"]


def drop_domain(out: str | os.PathLike[str], name: str) -> None:
    """Removes one domain of a finished corpus; its folder goes last, the others stay untouched.

    Killed at any moment, the corpus is whole with the domain or without, and the same call goes on.
    Under dedup its texts still count as seen by a later append.

    Raises:
        RecipeError: no such domain, the last one, or another process is at work there.
        ShardError: no corpus, or one that cannot be written.
    """
    place = as_folder(out)
    if isinstance(place, RemotePath):
        raise RecipeError(
            f"a domain is dropped from a corpus in a local folder, and {place} is remote. Give it "
            f"weight 0, or convert again without it."
        )
    out = place
    finish_commit(out)
    with locked_corpus(out):
        manifest = read_manifest(out)
        known = read_inputs(out)
        if name not in manifest.domains and not (known is not None and name in known):
            raise RecipeError(
                f"no domain {name!r} to drop; the corpus {out} holds {', '.join(manifest.domains)}."
            )
        domains = {each: entry for each, entry in manifest.domains.items() if each != name}
        if not domains:
            raise RecipeError(f"{name!r} is the last domain of {out}; delete the folder instead.")
        left = None if known is None else without(known, domains)
        if name in manifest.domains:
            base = Base(folder=out, manifest=manifest)
            contents = {each: base.contents()[each] for each in domains}
            recipe = dict(manifest.recipe)
            if left is not None:
                recipe["inputs"] = inputs_json(left)
            write_manifest(
                out,
                replace(
                    manifest,
                    domains=domains,
                    recipe=recipe,
                    fingerprint=fingerprint(manifest.seq_len, manifest.dtype, contents),
                    history=[*manifest.history, remembered(base)],
                ),
            )
        shutil.rmtree(out / name, ignore_errors=True)
        if left is not None:  # last: while it names the domain, the same call goes on
            write_inputs(out / INPUTS, left)
