"""A unit of conversion work: a few raw files of one domain -> shards and counts, whole or absent.

A unit depends on nothing but its files and the settings, so that any number of workers, in any
order, and after any kill, write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson

from mixstream.arrays import Counts, Rows, Tokens
from mixstream.corpus.files import shown
from mixstream.corpus.index import index_json, read_index
from mixstream.corpus.jsonfile import write_json
from mixstream.corpus.packing import num_padding, open_packer
from mixstream.corpus.recipe import Recipe, RowSettings
from mixstream.corpus.shard import ShardEntry, write_shard
from mixstream.corpus.sources import BadDocument, Document, read_documents
from mixstream.corpus.tokenizers import Tokenizer, with_end_ids
from mixstream.errors import RecipeError, ShardError, SourceError

__all__ = [
    "Unit",
    "UnitReport",
    "file_status",
    "planned_units",
    "read_unit_report",
    "run_unit",
    "shard_name",
]

_BATCH_CHARACTERS = 2**20
"""Text that is tokenized at a time: large enough for the tokenizer's threads, small in memory."""
_NUM_EXAMPLES = 3
"""Dropped documents that are named for each reason; all are counted."""
_REPORT = "unit.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Files of one domain that are converted in one go."""

    domain: str
    """Name."""
    index: int
    """Place among the domain's units."""
    files: tuple[Path, ...]
    """In reading order."""
    num_bytes: int
    """Of the files as they lie on disk."""
    digest: str
    """16 hex digits of the settings and of the name, size and time of change of each file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitReport:
    """What became of a unit's documents."""

    shards: tuple[ShardEntry, ...]
    """Named from 0 on in the unit's own folder."""
    documents: int
    """Documents that went into rows."""
    text_bytes: int
    """Of those documents, as UTF-8."""
    tokens: int
    """Ids of those documents, end-of-text ids included."""
    padding: int
    """Ids that only fill rows."""
    dropped: dict[str, int]
    """Reason -> documents that went into no row."""
    examples: dict[str, list[str]]
    """Reason -> where the first of them stand."""

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.num_rows for shard in self.shards)


def planned_units(recipe: Recipe) -> list[Unit]:
    """The units of a recipe: files in order, cut where a unit has `unit_bytes` of them."""
    settings = json.dumps(recipe.rows.described(), sort_keys=True)
    units = []
    for domain, files in recipe.files.items():
        portion: list[tuple[str, Path]] = []
        num_bytes = index = 0
        for name, path in files:
            size = file_status(path).st_size
            if portion and num_bytes + size > recipe.unit_bytes:
                units.append(_unit(domain, index, portion, num_bytes, settings))
                portion, num_bytes, index = [], 0, index + 1
            portion.append((name, path))
            num_bytes += size
        units.append(_unit(domain, index, portion, num_bytes, settings))
    return units


def file_status(path: Path) -> os.stat_result:
    """Size and time of change of a raw file. Raises SourceError where there is none."""
    try:
        return path.stat()
    except OSError as error:
        raise SourceError(
            f"{shown(path)}: cannot be read ({error.strerror}). Name files that exist."
        ) from error


def run_unit(unit: Unit, settings: RowSettings, folder: Path) -> UnitReport:
    """Converts one unit into `folder`, whose `unit.json` is written last.

    Raises:
        SourceError: a damaged file, or a bad document under on_bad_document="raise".
        RecipeError: a tokenizer that breaks its promises.
        ShardError: the folder cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)  # what an unfinished try left
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ShardError(f"cannot write {folder}: {error.strerror}") from error
    writer = _ShardWriter(folder, settings)
    packer = open_packer(settings.packing, settings.seq_len, settings.tokenizer.end_id)
    tally = _Tally()
    tokenizer = settings.tokenizer
    for documents in _document_batches(unit, settings, tally):
        ids, lengths = tokenizer.encode([document.text for document in documents])
        _check_ids(tokenizer, ids, lengths, len(documents))
        lengths = lengths.astype(np.int64)  # one more each for the end id must not wrap
        tally.count(documents, lengths)
        writer.add(packer.pack(*with_end_ids(ids, lengths, tokenizer.end_id)))
    writer.add(packer.flush())
    report = UnitReport(
        shards=tuple(writer.finished()),
        documents=tally.documents,
        text_bytes=tally.text_bytes,
        tokens=tally.tokens,
        padding=writer.padding,
        dropped=dict(sorted(tally.dropped.items())),
        examples=tally.examples,
    )
    written = report.rows * settings.seq_len - report.padding
    assert written == report.tokens, f"{report.tokens} ids went in, {written} stand in rows"
    counts = asdict(report)
    del counts["shards"]
    write_json(folder / "index.json", index_json(report.shards))
    write_json(folder / _REPORT, counts)
    return report


def read_unit_report(folder: Path) -> UnitReport | None:
    """The report of a finished unit; None while it is unfinished."""
    try:
        content = orjson.loads((folder / _REPORT).read_bytes())
    except FileNotFoundError:
        return None
    index = read_index(folder)
    shards = tuple(index.entry(number) for number in range(len(index.num_rows)))
    return UnitReport(shards=shards, **content)


class _Tally:
    """Counts what becomes of each document."""

    def __init__(self) -> None:
        self.documents = self.text_bytes = self.tokens = 0
        self.dropped: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def drop(self, reason: str, example: str) -> None:
        """One document that goes into no row."""
        self.dropped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _NUM_EXAMPLES:
            examples.append(example)

    def count(self, documents: Sequence[Document], lengths: Counts) -> None:
        """A batch of documents and how many ids each became, end-of-text id apart."""
        for document, length in zip(documents, lengths.tolist(), strict=True):
            if length == 0:
                self.drop("no_tokens", document.source)
                continue
            self.documents += 1
            self.text_bytes += len(document.text.encode())
            self.tokens += length + 1


class _ShardWriter:
    """Rows in, shards of `rows_per_shard` rows out."""

    def __init__(self, folder: Path, settings: RowSettings) -> None:
        self._folder, self._settings = folder, settings
        self._held: list[Rows] = []
        self._num_held = 0
        self._entries: list[ShardEntry] = []
        self.padding = 0

    def add(self, rows: Rows) -> None:
        """Takes rows, and writes every shard that they fill."""
        self.padding += num_padding(rows, self._settings.tokenizer.end_id)
        if len(rows):
            self._held.append(rows.astype(self._settings.dtype))
            self._num_held += len(rows)
        rows_per_shard = self._settings.rows_per_shard
        if self._num_held < rows_per_shard:
            return
        held = np.concatenate(self._held)
        num_whole = len(held) // rows_per_shard * rows_per_shard
        for start in range(0, num_whole, rows_per_shard):
            self._write(held[start : start + rows_per_shard])
        self._held, self._num_held = [held[num_whole:].copy()], len(held) - num_whole

    def finished(self) -> list[ShardEntry]:
        """Writes what is left; the entries of all shards."""
        if self._num_held:
            self._write(np.concatenate(self._held))
        return self._entries

    def _write(self, rows: Rows) -> None:
        path = self._folder / shard_name(len(self._entries))
        compression = self._settings.compression
        self._entries.append(write_shard(path, rows, compression=compression))


def shard_name(number: int) -> str:
    """The name of a raw shard, as stock writers number them."""
    return f"shard.{number:05}.mds"


def _unit(
    domain: str, index: int, files: Sequence[tuple[str, Path]], num_bytes: int, settings: str
) -> Unit:
    digest = hashlib.blake2b(f"{settings}\0{domain}\0{index}".encode(), digest_size=8)
    for name, path in files:
        status = file_status(path)
        digest.update(os.fsencode(name) + f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
    paths = tuple(path for _, path in files)
    return Unit(
        domain=domain, index=index, files=paths, num_bytes=num_bytes, digest=digest.hexdigest()
    )


def _document_batches(unit: Unit, settings: RowSettings, tally: _Tally) -> Iterator[list[Document]]:
    """The good documents, about a million characters at a time; the bad ones are tallied."""
    batch: list[Document] = []
    num_characters = 0
    for path in unit.files:
        for document in read_documents(
            path,
            text_field=settings.text_field,
            max_document_bytes=settings.max_document_bytes,
            on_bad_document=settings.on_bad_document,
        ):
            if isinstance(document, BadDocument):
                tally.drop(document.reason, f"{document.source}: {document.detail}")
                continue
            batch.append(document)
            num_characters += len(document.text)
            if num_characters >= _BATCH_CHARACTERS:
                yield batch
                batch, num_characters = [], 0
    if batch:
        yield batch


def _check_ids(tokenizer: Tokenizer, ids: Tokens, lengths: Counts, num_texts: int) -> None:
    """Refuses what a tokenizer of others should not give, before it is cast to the rows' dtype."""
    gave = f"tokenizer {tokenizer.name!r} gave"
    for name, values in (("ids", ids), ("counts", lengths)):
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        if not isinstance(kind, np.dtype) or kind.kind not in "iu" or values.ndim != 1:
            raise RecipeError(
                f"{gave} {name} of dtype {kind} and shape {np.shape(values)}; encode gives a flat "
                f"array of ids and one of counts, both of integers."
            )
    if len(lengths) != num_texts or lengths.min(initial=0) < 0 or lengths.sum() != len(ids):
        faults = "some negative" if lengths.min(initial=0) < 0 else f"that sum to {lengths.sum()}"
        raise RecipeError(
            f"{gave} {len(ids)} ids, but {len(lengths)} counts {faults}, for {num_texts} texts; "
            f"encode gives for each text how many ids it has."
        )
    lowest, highest = int(ids.min(initial=0)), int(ids.max(initial=0))
    if lowest < 0 or highest >= tokenizer.vocab_size:
        raise RecipeError(
            f"{gave} id {lowest if lowest < 0 else highest}, but states a vocabulary of "
            f"{tokenizer.vocab_size}; mend its encode or its vocab_size."
        )
