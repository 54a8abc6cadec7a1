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

from mixstream.corpus.index import index_json, read_index
from mixstream.corpus.jsonfile import Json, write_json
from mixstream.corpus.manifest import (
    DomainEntry,
    Manifest,
    TokenizerEntry,
    fingerprint,
    write_manifest,
)
from mixstream.corpus.plan import Unit, file_status
from mixstream.corpus.recipe import Recipe
from mixstream.corpus.shard import ShardEntry, sync_folder
from mixstream.corpus.shard_writer import shard_name
from mixstream.corpus.tokenizers import Tokenizer, described
from mixstream.corpus.unit import UnitReport
from mixstream.errors import ShardError

__all__ = ["FinishedUnits", "described_recipe", "move_into_place", "plan_moves"]

FinishedUnits: TypeAlias = dict[str, list[tuple[Unit, UnitReport]]]
"""Each domain's units in order, with their reports."""


def plan_moves(recipe: Recipe, finished: FinishedUnits, work: Path) -> None:
    """Writes what comes last (indexes, manifest), then `commit.json`: which file goes where.

    The order of the moves is the promise: shards, then the index of each domain, then corpus.json.
    """
    shards: list[tuple[str, str]] = []
    indexes: list[tuple[str, str]] = []
    contents = {}
    for domain, parts in finished.items():
        entries: list[ShardEntry] = []
        for unit, report in parts:
            for entry in report.shards:
                final = _renamed(entry, shard_name(len(entries)))
                entries.append(final)
                source, target = (each.zip or each.raw for each in (entry, final))
                shards.append((f"{unit.digest}/{source.name}", f"{domain}/{target.name}"))
        folder = work / "final" / domain
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "index.json", index_json(entries))
        contents[domain] = read_index(folder).contents()
        indexes.append((f"final/{domain}/index.json", f"{domain}/index.json"))
    write_manifest(work / "final", _manifest(recipe, finished, contents))
    moves = [*shards, *indexes, ("final/corpus.json", "corpus.json")]
    write_json(work / "commit.json", {"moves": [list(move) for move in moves]})


def move_into_place(out: Path, work: Path) -> None:
    """Gives every file its final name; done once more after a kill, it goes on."""
    moves = orjson.loads((work / "commit.json").read_bytes())["moves"]
    for folder in sorted({(out / target).parent for _, target in moves}):
        folder.mkdir(exist_ok=True)
    sync_folder(out)  # a folder's own name is safe before the first shard leaves the work folder
    for kind in (".mds", ".mds.zst", "/index.json", "corpus.json"):
        folders = set()
        for source, target in (move for move in moves if move[1].endswith(kind)):
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
