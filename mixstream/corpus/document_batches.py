"""The file parts of a unit -> its documents in batches, made while the one before is in use."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts
from mixstream.corpus.file_bytes import Meter
from mixstream.corpus.plan import Unit
from mixstream.corpus.recipe import RowSettings
from mixstream.corpus.records import BadRecord, Text, TextBatch, place
from mixstream.corpus.sources import bad_document, num_lines_before, read_batches
from mixstream.errors import RecipeError

__all__ = ["DocumentBatch", "document_batches", "made_ahead"]

_BATCH_BYTES = 2**20
"""About the text that is tokenized at a time: large enough for threads, small in memory."""

Item = TypeVar("Item")


@dataclass(slots=True)
class DocumentBatch:
    """Documents that are tokenized together."""

    names_documents: bool = False
    """Whether anybody asks what records are called."""
    texts: list[Text] = field(default_factory=list)
    bad: list[tuple[int, BadRecord]] = field(default_factory=list)
    """Documents that give no text: file part of the unit, and record counted in that part."""
    size: int = 0
    """Of the texts, in bytes or characters: no more than about right."""
    ids: list[str | None] = field(default_factory=list)
    """What each text's record is called, if anybody asks; else empty."""
    _origins: list[tuple[int, int, Sequence[int]]] = field(default_factory=list)

    def add(self, part: int, before: int, found: TextBatch) -> None:
        """Takes over what stands in a file part after so many records."""
        self.texts += found.texts
        self.size += sum(map(len, found.texts))
        if found.ids is not None:
            self.ids += found.ids
        elif self.names_documents:
            self.ids += [None] * len(found.texts)  # a text file has no record
        self._origins.append((part, before, found.records))
        for bad in found.bad:
            self.bad.append((part, BadRecord(before + bad.record, bad.reason, bad.detail)))

    def origins(self) -> Counts:
        """(n, 2) int64: file part of the unit, and record in it from 1 on, of each text."""
        found = [np.empty((0, 2), np.int64)]
        for part, before, records in self._origins:
            numbers = before + np.asarray(records, np.int64)
            found.append(np.stack([np.full_like(numbers, part), numbers], axis=1))
        return np.concatenate(found)


def document_batches(
    unit: Unit,
    settings: RowSettings,
    meter: Meter,
    num_records: list[int],
    repeats: NDArray[np.bool_] | None = None,
) -> Iterator[DocumentBatch]:
    """The unit's documents, about a MiB of text at a time; the records of each part are counted.

    Args:
        unit: what to read.
        settings: how.
        meter: counts the bytes of the unit's files.
        num_records: takes the records of each part at its end.
        repeats: (n,) bool, which of the unit's texts repeat earlier ones: they are bad documents.

    Raises:
        SourceError: a damaged file, or a bad document under on_bad_document="raise".
        RecipeError: not n texts were found.
    """
    names = settings.id_field is not None
    batch, num_texts = DocumentBatch(names), 0
    for number, part in enumerate(unit.parts):
        before = 0
        for found in read_batches(
            part,
            text_field=settings.text_field,
            max_document_bytes=settings.max_document_bytes,
            meter=meter,
            id_field=settings.id_field,
        ):
            if found.bad and settings.on_bad_document == "raise":
                record = num_lines_before(part) + before + found.bad[0].record
                raise bad_document(found.bad[0], place(part.path, record))
            first, num_texts = num_texts, num_texts + len(found.texts)
            if repeats is not None:
                found = _without_repeats(found, repeats[first:num_texts])
            batch.add(number, before, found)
            before += found.num_records
            if batch.size >= _BATCH_BYTES or len(batch.bad) >= _BATCH_BYTES // 64:
                yield batch
                batch = DocumentBatch(names)
        num_records.append(before)
    if repeats is not None and num_texts != len(repeats):
        raise _changed(unit)
    yield batch


def _without_repeats(found: TextBatch, repeats: NDArray[np.bool_]) -> TextBatch:
    """The batch with some of its texts made bad records."""
    if not repeats.any():
        return found
    kept = np.flatnonzero(~repeats[: len(found.texts)]).tolist()
    bad = [BadRecord(found.records[each], "duplicate", "") for each in np.flatnonzero(repeats)]
    return replace(
        found,
        texts=[found.texts[each] for each in kept],
        records=[found.records[each] for each in kept],
        bad=sorted([*found.bad, *bad], key=lambda each: each.record),
        ids=None if found.ids is None else [found.ids[each] for each in kept],
    )


def _changed(unit: Unit) -> RecipeError:
    return RecipeError(
        f"input files of domain {unit.domain!r} changed while they were converted "
        f"({', '.join(map(str, unit.files[:3]))}); run the same again with redo_changed=True "
        f"(--redo-changed), which does just these anew."
    )


def made_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items; each is made by another thread while the one before it is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
