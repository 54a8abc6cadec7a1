"""A recipe -> a corpus: planned in units, run by an engine, put in place at the end.

While a conversion runs, everything lies in OUT/.mixstream: `recipe.json` (what is asked for), a
folder for each finished or unfinished unit, and at the end `commit.json` (which units make the
corpus). A unit's folder is named by a digest of its settings and files, so after any kill the same
command takes what is finished and does the rest. Then shards move to their final names, each
domain's index.json follows, and corpus.json comes last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixstream.corpus.append import appended
from mixstream.corpus.budget import workers_within
from mixstream.corpus.domain_files import domain_files
from mixstream.corpus.inputs import check_known
from mixstream.corpus.job import Job, converted
from mixstream.corpus.manifest import DomainEntry, read_manifest
from mixstream.corpus.output import open_output
from mixstream.corpus.progress import Progress, Work
from mixstream.corpus.recipe import (
    DEFAULT_MAX_DOCUMENT_BYTES,
    DEFAULT_SHARD_BYTES,
    DEFAULT_UNIT_BYTES,
    Recipe,
    RowSettings,
    check_size,
)
from mixstream.corpus.remote_listing import as_source
from mixstream.corpus.running import Listeners
from mixstream.corpus.tokenizers import Tokenizer, described, open_tokenizer
from mixstream.corpus.work import finish_commit, refuse_strangers
from mixstream.errors import RecipeError

__all__ = ["ConversionReport", "Progress", "Work", "convert"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionReport:
    """What a conversion made."""

    path: Path | str
    """The corpus: a folder, or the URL of a remote one, as `open_corpus` takes it."""
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
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    work_folder: str | os.PathLike[str] | None = None,
    domains: Mapping[str, str | Sequence[str]] | None = None,
    end_of_text: str | None = None,
    tokenizer_backend: str | None = None,
    text_field: str = "text",
    compression: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    unit_bytes: int = DEFAULT_UNIT_BYTES,
    max_document_bytes: int = DEFAULT_MAX_DOCUMENT_BYTES,
    on_bad_document: Literal["skip", "raise"] = "skip",
    provenance: bool = False,
    id_field: str | None = None,
    dedup: str | None = None,
    append: bool = False,
    check: str = "time",
    redo_changed: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_work: Callable[[Work], None] | None = None,
) -> ConversionReport:
    """Turns raw text into a corpus of tokenized, packed, fixed-length rows in MDS shards.

    Killed at any moment, the same call goes on where it stopped and yields the same bytes. Called
    on a corpus that it has finished, it changes nothing.

    Args:
        raw: folder whose sub-folders are the domains; None with `domains`. A path, or a URL:
            s3://bucket/folder, gs://bucket/folder, hf://datasets/owner/name/folder or
            sftp://user@host/folder, of which nothing is kept on this machine's disk.
        out: the corpus; new, empty, or the unfinished work of this very call. A folder, or
            s3://bucket/folder, gs://bucket/folder or sftp://user@host/folder: what is finished is
            uploaded and verified (see upload.py).
        tokenizer: "bytes", a path, a name or a Tokenizer; see tokenizers.open_tokenizer.
        seq_len: S, tokens a row.
        packing: "concat" (documents one after the other), "best_fit" (none cut that fits a row) or
            "pad" (one document a row).
        packing_window: tokens that best_fit packs at a time, for it alone: more pad less, take more
            memory and mix documents from further apart.
        bos: put the tokenizer's beginning-of-text id before each document. Its end-of-text id
            always follows, for from it alone a reader knows where a document ends.
        workers: processes at most, which share the cores: with a fast tokenizer each has two or
            more (one of them reads and packs), so that two cores run one process. The result does
            not depend on it.
        memory: bytes that all processes may take together, whatever the documents; fewer workers
            run where that asks for it. Three quarters of the machine's, or of the container's, if
            not given. The result does not depend on it.
        engine: "local" (processes of this machine) or "ray" (a cluster's cores; `raw` is remote or
            a folder that its machines share, and so is `out`; with dedup, `out` is a folder). The
            result does not depend on it.
        address: of the Ray cluster; if not given, RAY_ADDRESS, or the one on this machine.
        work_folder: for a remote `out`, where this machine keeps what is not uploaded yet; if not
            given, a folder in ~/.cache/mixstream.
        domains: glob patterns by domain, in place of sub-folders; URLs as for `raw`, too.
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
        provenance: note in `provenance.parquet`, one a domain, where each piece of each document
            stands and where it comes from; `mixstream inspect OUT --row web:7` reads it.
        id_field: with provenance, the field or column that says what a document is called; "id"
            if not given.
        dedup: "exact" drops, and counts as duplicate, every document whose text an earlier one
            has: in an earlier domain, file or record. The input is read twice; see dedup.py.
        append: `out` is a finished corpus, and the files that it does not hold are added as new
            shards and new domains. Old shards stay as they are, and old rows keep their addresses.
        check: what tells an input file of a finished or unfinished corpus from another one of its
            name: "size", "time" (size and time of change; of a remote file what its store says of
            its content, where it says that) or "content" (size and a hash of all its bytes, for
            which the first call reads them once more, but for remote files).
        redo_changed: go on with unfinished work though input files are not those it was begun
            with: what was made of a changed, new or removed file is made anew, the rest is kept.
            Without it such work is refused, and each file that differs is named.
        on_progress: called after each unit.
        on_work: called a few times a second with how far each domain is.

    Returns:
        Counts of each domain.

    Raises:
        RecipeError: settings that cannot be met, or an output that is not this call's own.
        SourceError: a damaged file; units that are finished stay.
        ShardError: the output cannot be written.
    """
    check_size("workers", workers)
    output = open_output(
        out, engine=engine, address=address, work=work_folder, workers=workers, memory=memory
    )
    out = output.folder
    refuse_strangers(out)
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
            provenance=provenance,
            id_field=id_field,
            dedup=dedup,
        ),
        files=domain_files(None if raw is None else as_source(raw), domains, leave_out=output.at),
        unit_bytes=unit_bytes,
    )
    if dedup is not None and output.upload is not None and engine != "local":
        raise RecipeError(
            f"dedup is {dedup!r}, for which all machines need one folder, or one machine does all: "
            f"not engine {engine!r} and {output.shown}. Take engine 'local', or a folder that the "
            f"cluster shares, and copy the corpus."
        )
    check_known(check)
    job = Job(
        output=output,
        workers=workers_within(memory, recipe.rows, workers),
        backend=tokenizer_backend,
        listeners=Listeners(on_progress=on_progress, on_work=on_work),
        check=check,
        redo_changed=redo_changed,
    )
    if output.upload is None:
        finish_commit(out)
    examples = appended(job, recipe) if append else converted(job, recipe)
    domains_now = read_manifest(out).domains
    return ConversionReport(path=output.shown, domains=domains_now, examples=examples)


def _begin_id(tokenizer: Tokenizer) -> int:
    found = described(tokenizer).get("bos_id")
    if not isinstance(found, int):
        raise RecipeError(
            f"bos is asked for, but tokenizer {tokenizer.name!r} has no beginning-of-text id. "
            f"Leave bos out."
        )
    return found
