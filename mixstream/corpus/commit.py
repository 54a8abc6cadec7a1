"""Finished units -> a corpus in its final place: every file by rename, in the promised order."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import orjson

from mixstream.corpus.base import Base
from mixstream.corpus.files import RawFile
from mixstream.corpus.index import index_json, read_index
from mixstream.corpus.inputs import INPUTS, Inputs, write_inputs
from mixstream.corpus.jsonfile import Json, write_json
from mixstream.corpus.manifest import (
    DomainEntry,
    Manifest,
    TokenizerEntry,
    fingerprint,
    write_manifest,
)
from mixstream.corpus.plan import Unit, file_status
from mixstream.corpus.provenance import PROVENANCE, UnitPieces, join_pieces
from mixstream.corpus.recipe import Recipe
from mixstream.corpus.shard import ShardEntry, sync_folder
from mixstream.corpus.shard_writer import shard_name
from mixstream.corpus.tokenizers import Tokenizer, described
from mixstream.corpus.unit import UnitReport
from mixstream.errors import ShardError

__all__ = [
    "FinishedUnits",
    "described_recipe",
    "grouped_moves",
    "move_into_place",
    "plan_moves",
    "unit_pieces",
]

FinishedUnits: TypeAlias = dict[str, list[tuple[Unit, UnitReport]]]
"""Each domain's units in order, with their reports."""


def plan_moves(
    recipe: Recipe,
    finished: FinishedUnits,
    work: Path,
    *,
    inputs: Inputs,
    base: Base | None = None,
    more: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes what comes last (indexes, manifest), then `commit.json`: which file goes where.

    The order of the moves is the promise: shards, then the index of each domain, then corpus.json.

    Args:
        recipe: what was converted.
        finished: its units.
        work: the work folder.
        inputs: all raw files of the corpus.
        base: the corpus that the units are appended to.
        more: other moves, of files that come between the indexes and corpus.json.
    """
    shards: list[tuple[str, str]] = []
    indexes: list[tuple[str, str]] = []
    contents = {} if base is None else base.contents()
    for domain, parts in finished.items():
        entries = [] if base is None else base.entries(domain)
        first_row = sum(entry.num_rows for entry in entries)
        for unit, report in parts:
            for entry in report.shards:
                final = _renamed(entry, shard_name(len(entries)))
                entries.append(final)
                source, target = (each.zip or each.raw for each in (entry, final))
                shards.append((f"{unit.digest}/{source.name}", f"{domain}/{target.name}"))
        folder = work / "final" / domain
        folder.mkdir(parents=True, exist_ok=True)
        if recipe.rows.provenance:
            before = None if base is None else base.provenance(domain)
            pieces = unit_pieces(recipe.files[domain], parts, work, first_row=first_row)
            join_pieces(folder / PROVENANCE, pieces, before=before)
            indexes.append((f"final/{domain}/{PROVENANCE}", f"{domain}/{PROVENANCE}"))
        write_json(folder / "index.json", index_json(entries))
        contents[domain] = read_index(folder).contents()
        indexes.append((f"final/{domain}/index.json", f"{domain}/index.json"))
    manifest = _manifest(recipe, finished, contents)
    if base is not None:
        manifest = base.grown(manifest, inputs)
    write_manifest(work / "final", manifest)
    write_inputs(work / "final" / INPUTS, inputs)
    last = [(f"final/{INPUTS}", INPUTS), ("final/corpus.json", "corpus.json")]
    moves = [*shards, *indexes, *more, *last]
    write_json(work / "commit.json", {"moves": [list(move) for move in moves]})


def grouped_moves(work: Path) -> list[list[tuple[str, str]]]:
    """What `commit.json` says: (source in `work`, target) of each file, in groups.

    A group must be in place before the next begins.
    """
    moves = orjson.loads((work / "commit.json").read_bytes())["moves"]
    kinds = (".mds", ".mds.zst", ".parquet", "/index.json", ".bin", INPUTS, "corpus.json")
    return [
        [(source, target) for source, target in moves if target.endswith(kind)] for kind in kinds
    ]


def move_into_place(out: Path, work: Path) -> None:
    """Gives every file its final name; done once more after a kill, it goes on."""
    groups = grouped_moves(work)
    for folder in sorted({(out / target).parent for moves in groups for _, target in moves}):
        folder.mkdir(exist_ok=True)
    sync_folder(out)  # a folder's own name is safe before the first shard leaves the work folder
    for moves in groups:
        folders = set()
        for source, target in moves:
            try:
                os.replace(work / source, out / target)
            except FileNotFoundError as error:
                if not (out / target).exists():
                    raise ShardError(
                        f"neither {work / source} nor {out / target} exists: somebody else removed "
                        f"it. Delete {out} and convert again."
                    ) from error
            except OSError as error:
                raise ShardError(f"cannot write {out / target}: {error.strerror}") from error
            folders.add((out / target).parent)
        for folder in folders:
            sync_folder(folder)


def _manifest(
    recipe: Recipe, finished: FinishedUnits, contents: Mapping[str, Sequence[tuple[int, int, str]]]
) -> Manifest:
    rows, tokenizer = recipe.rows, recipe.rows.tokenizer
    return Manifest(
        tokenizer=_tokenizer_entry(tokenizer, rows.bos_id),
        seq_len=rows.seq_len,
        dtype=rows.dtype,
        packing=rows.packing,
        compression=rows.compression,
        recipe=described_recipe(recipe),
        domains={
            name: _domain_entry([report for _, report in parts], rows.rows_per_shard)
            for name, parts in finished.items()
        },
        fingerprint=fingerprint(rows.seq_len, rows.dtype, contents),
    )


def _tokenizer_entry(tokenizer: Tokenizer, bos_id: int | None) -> TokenizerEntry:
    stated = described(tokenizer)
    special_ids = stated.get("special_ids", {})
    assert isinstance(special_ids, dict), "special ids come by their spelling"
    return TokenizerEntry(
        name=tokenizer.name,
        sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        end_id=tokenizer.end_id,
        bos_id=bos_id,
        special_ids=special_ids,
        library=str(stated.get("library", "")),
        version=str(stated.get("version", "")),
    )


def _domain_entry(reports: Sequence[UnitReport], rows_per_shard: int) -> DomainEntry:
    dropped: Counter[str] = Counter()
    for report in reports:
        dropped.update(report.dropped)
    return DomainEntry(
        documents=sum(report.documents for report in reports),
        documents_cut=sum(report.documents_cut for report in reports),
        text_bytes=sum(report.text_bytes for report in reports),
        tokens=sum(report.tokens for report in reports),
        rows=sum(report.rows for report in reports),
        padding=sum(report.padding for report in reports),
        rows_per_shard=rows_per_shard,
        dropped=dict(sorted(dropped.items())),
    )


def _renamed(entry: ShardEntry, name: str) -> ShardEntry:
    packed = replace(entry.zip, name=f"{name}.zst") if entry.zip else None
    return replace(entry, raw=replace(entry.raw, name=name), zip=packed)


def described_recipe(recipe: Recipe) -> dict[str, Json]:
    """The recipe as corpus.json holds it: settings, and the names and sizes of all input files."""
    inputs: dict[str, Json] = {}
    for domain, files in recipe.files.items():
        digest = hashlib.blake2b(digest_size=8)
        sizes = [file_status(path).st_size for _, path in files]
        for (name, _), size in zip(files, sizes, strict=True):
            digest.update(os.fsencode(name) + f"\0{size}\0".encode())
        inputs[domain] = {"files": len(files), "bytes": sum(sizes), "digest": digest.hexdigest()}
    return {**recipe.rows.described(), "unit_bytes": recipe.unit_bytes, "inputs": inputs}


def unit_pieces(
    files: Sequence[tuple[str, RawFile]],
    parts: Sequence[tuple[Unit, UnitReport]],
    work: Path,
    *,
    first_row: int = 0,
) -> list[UnitPieces]:
    """Where a domain's units noted their pieces, and what they count from."""
    names = {path: name for name, path in files}
    records: Counter[RawFile] = Counter()  # of the parts of each file so far
    found = []
    for unit, report in parts:
        before = []
        for part, num_records in zip(unit.parts, report.records, strict=True):
            before.append(records[part.path])
            records[part.path] += num_records
        found.append(
            UnitPieces(
                path=work / unit.digest / PROVENANCE,
                first_row=first_row,
                files=[os.fsencode(names[part.path]).decode(errors="replace")
                       for part in unit.parts],
                records_before=before,
            )
        )  # fmt: skip
        first_row += report.rows
    return found
