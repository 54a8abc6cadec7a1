"""Raw files -> documents: each text with the place it stood, or the named reason why it is bad.

A bad *document* is counted or raised, as the user says; a damaged *file* always raises
SourceError, after the documents that stand before the damage. A file of no bytes, or one that
opens to no bytes, holds no documents, whatever its ending.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mixstream.corpus.file_bytes import Meter, described, read_bytes, read_lines_within
from mixstream.corpus.files import FileKind, RawFile, file_kind, list_files, shown
from mixstream.corpus.jsonl import jsonl_batches
from mixstream.corpus.parquet import parquet_batches
from mixstream.corpus.records import (
    REASONS,
    BadRecord,
    FilePart,
    Text,
    TextBatch,
    place,
    too_long,
    utf8_fault,
)
from mixstream.errors import RecipeError, SourceError

__all__ = [
    "REASONS",
    "BadDocument",
    "Document",
    "FileKind",
    "bad_document",
    "file_kind",
    "list_files",
    "num_lines_before",
    "read_batches",
    "read_documents",
]


@dataclass(frozen=True, slots=True)
class Document:
    """One raw text, exactly as it stands in its file."""

    text: str
    """Never empty, always encodable as UTF-8."""
    source: str
    """Where it stands: "path:line" (from 1), "path record 12" (parquet, from 1) or "path" (txt)."""


@dataclass(frozen=True, slots=True)
class BadDocument:
    """A document that gives no text."""

    reason: str
    """One of REASONS."""
    source: str
    """Where it stands, as in Document."""
    detail: str
    """What was found there, for people."""


def read_documents(
    path: RawFile,
    *,
    text_field: str = "text",
    max_document_bytes: int = 128 * 2**20,
    on_bad_document: Literal["skip", "raise"] = "skip",
) -> Iterator[Document | BadDocument]:
    """The documents of one raw file, in the order of the file, one by one; see read_batches.

    Args:
        path: a file whose ending is one of files.KINDS.
        text_field: see read_batches.
        max_document_bytes: see read_batches.
        on_bad_document: "skip" yields a BadDocument in its place, "raise" raises SourceError.

    Raises:
        RecipeError: on_bad_document is neither.
        SourceError: at once if the ending is unknown; while reading if the file is damaged or is
            not what its name says, or if on_bad_document is "raise" and a document is bad.
    """
    if on_bad_document not in ("skip", "raise"):
        raise RecipeError(f"on_bad_document is {on_bad_document!r}; give 'skip' or 'raise'.")
    batches = read_batches(
        FilePart(path), text_field=text_field, max_document_bytes=max_document_bytes
    )
    return _one_by_one(batches, path, on_bad_document == "raise")


def _one_by_one(
    batches: Iterator[TextBatch], path: RawFile, is_strict: bool
) -> Iterator[Document | BadDocument]:
    before = 0
    for batch in batches:
        good = zip(batch.records, batch.texts, strict=True)
        found: list[tuple[int, Text | BadRecord]] = [
            *good,
            *((bad.record, bad) for bad in batch.bad),
        ]
        for record, what in sorted(found, key=lambda pair: pair[0]):
            source = place(path, before + record)
            if isinstance(what, str | bytes):
                yield Document(what if isinstance(what, str) else what.decode("utf-8"), source)
            elif is_strict:
                raise bad_document(what, source)
            else:
                yield BadDocument(what.reason, source, what.detail)
        before += batch.num_records


def bad_document(bad: BadRecord, source: str) -> SourceError:
    """The error of a user who wants none dropped."""
    return SourceError(
        f"{source}: {bad.reason}: {bad.detail}. Mend the document, or count and skip such "
        f"documents with on_bad_document='skip'."
    )


def read_batches(
    part: FilePart,
    *,
    text_field: str = "text",
    max_document_bytes: int = 128 * 2**20,
    meter: Meter | None = None,
    id_field: str | None = None,
) -> Iterator[TextBatch]:
    r"""The texts of one raw file or a part of it, in the order of the file.

    jsonl: lines end at "\n" alone, blank lines are no documents, a byte order mark before the
    first line is no part of it; of a key that stands twice the last one counts. txt: the whole
    file is one text, byte for byte (a byte order mark stays). parquet: one column of any string
    or binary type; null is "no_text".

    Args:
        part: of a file whose ending is one of files.KINDS.
        text_field: the key, or the parquet column, that holds the text; no effect on txt.
        max_document_bytes: longest line (jsonl), file (txt, decompressed) or value (parquet) in
            bytes. A longer line or file is read past without being held in memory.
        meter: counts the bytes of the file that were read so far.
        id_field: the key, or the parquet column, that says what a record is called; txt has none.

    Yields:
        A MiB at most, or one longer text; 16 MiB of parquet.

    Raises:
        SourceError: at once if the ending is unknown; while reading if the file is damaged or is
            not what its name says.
    """
    kind = file_kind(part.path)
    if kind.format == "parquet":
        return parquet_batches(part.path, text_field, max_document_bytes, meter, id_field)
    if kind.format == "jsonl":
        return _jsonl_batches(part, kind, meter, (text_field, max_document_bytes, id_field))
    return _txt_batch(part.path, kind, max_document_bytes, meter)


def num_lines_before(part: FilePart) -> int:
    """Lines that end before a part of a raw jsonl file begins; reads all that."""
    if part.start == 0:
        return 0
    return sum(chunk.count(b"\n") for chunk in read_lines_within(part.path, 0, part.start))


_NEVER_UTF8 = {"UTF-16 text", "UTF-32 text", "gzip", "zstd", "xz"}
_NEVER_JSON = {"Parquet", "bzip2", "a zip archive"}


def _checked_head(chunks: Iterator[bytes], path: RawFile, kind: FileKind) -> Iterator[bytes]:
    """The bytes of a text file; refuses a file that begins like something else."""
    head = next(chunks, b"")
    looks = described(head)
    if looks in _NEVER_UTF8 or (kind.format == "jsonl" and looks in _NEVER_JSON):
        opened = "" if kind.compression == "none" else "decompressed "
        raise SourceError(
            f"{shown(path)}: its name says {kind.format} in UTF-8, but at byte 0 of the {opened}"
            f"file the bytes look like {looks} ({head[:4].hex(' ')}). "
            f"Rename it to what it is, unpack it, or turn it into UTF-8."
        )
    return itertools.chain([head], chunks) if head else chunks


# --- txt


def _txt_batch(
    path: RawFile, kind: FileKind, max_document_bytes: int, meter: Meter | None
) -> Iterator[TextBatch]:
    parts: list[bytes] = []
    size = 0
    for chunk in _checked_head(read_bytes(path, kind.compression, meter), path, kind):
        size += len(chunk)
        if size <= max_document_bytes:
            parts.append(chunk)
        else:
            parts.clear()  # read on: the end of the file may be damaged
    text = b"".join(parts)
    parts.clear()
    if size > max_document_bytes:
        yield TextBatch([], [], [too_long(1, size, max_document_bytes)], 1)
    elif size:
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            yield TextBatch([], [], [BadRecord(1, "invalid_utf8", utf8_fault(text, error))], 1)
        else:
            yield TextBatch([text], [1], [], 1)


# --- jsonl

_ONE_VALUE_OVER_MANY_LINES = re.compile(
    rb"""[ \t\r\n]* (?: \[ [ \t\r\n]* (?: \{ | \n | \Z )   # an array of objects
                      | \{ [ \t\r]* (?: \n | \Z ) )        # an object over many lines
    """,
    re.VERBOSE,
)


def _jsonl_batches(
    part: FilePart, kind: FileKind, meter: Meter | None, wanted: tuple[str, int, str | None]
) -> Iterator[TextBatch]:
    # a generator: the file is opened when its first batch is asked for
    yield from jsonl_batches(_jsonl_chunks(part, kind, meter), *wanted)


def _jsonl_chunks(part: FilePart, kind: FileKind, meter: Meter | None) -> Iterator[bytes]:
    """The bytes of the part's lines; refuses a file that holds one value over many lines."""
    path = part.path
    if part.end is None:
        chunks = read_bytes(path, kind.compression, meter)
    else:
        chunks = read_lines_within(path, part.start, part.end, meter)
    if part.start:
        return chunks
    chunks = _checked_head(chunks, path, kind)
    head = next(chunks, b"").removeprefix(b"\xef\xbb\xbf")
    if _ONE_VALUE_OVER_MANY_LINES.match(head):
        raise SourceError(
            f"{shown(path)}:{1 + head[: len(head) - len(head.lstrip())].count(10)}: a JSON array "
            f"or a pretty-printed object begins here, but jsonl is one object on each line. "
            f"Rewrite it, for instance with: jq -c '.[]'"
        )
    return itertools.chain([head], chunks)
