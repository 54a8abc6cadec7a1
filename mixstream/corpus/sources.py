"""Raw files -> documents: each text with the place it stood, or the named reason why it is bad.

A bad *document* is counted (BadDocument) or raised, as the user says; a damaged *file* always
raises SourceError, after the documents that stand before the damage. A file of no bytes, or one
that opens to no bytes, holds no documents, whatever its ending.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from mixstream.corpus.files import FileKind, described, file_kind, list_files, read_bytes, shown
from mixstream.corpus.parquet import parquet_values
from mixstream.errors import RecipeError, SourceError

__all__ = [
    "REASONS",
    "BadDocument",
    "Document",
    "FileKind",
    "file_kind",
    "list_files",
    "read_documents",
]

REASONS = (
    "empty",  # the text is ""; white space alone is a text and is kept
    "invalid_utf8",  # in any field of the line, or in the text file or parquet value
    "lone_surrogate",  # the JSON escape of half a character, which no UTF-8 can hold
    "broken_json",  # not JSON, or nested deeper than Python reads
    "not_an_object",
    "no_text",  # the field is missing, or null
    "text_not_a_string",
    "too_long",  # more than max_document_bytes
    "no_tokens",  # the tokenizer made no id of it; convert counts these
)
"""Why a document is bad: every reason there is."""


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
    path: Path,
    *,
    text_field: str = "text",
    max_document_bytes: int = 128 * 2**20,
    on_bad_document: Literal["skip", "raise"] = "skip",
) -> Iterator[Document | BadDocument]:
    r"""The documents of one raw file, in the order of the file.

    jsonl: lines end at "\n" alone, blank lines are no documents, a byte order mark before the
    first line is no part of it; of a key that stands twice the last one counts. txt: the whole
    file is one text, byte for byte (a byte order mark stays). parquet: one column of any string
    or binary type; null is "no_text".

    Args:
        path: a file whose ending is one of files.KINDS.
        text_field: the key, or the parquet column, that holds the text; no effect on txt.
        max_document_bytes: longest line (jsonl), file (txt, decompressed) or value (parquet) in
            bytes. A longer line or file is read past without being held in memory.
        on_bad_document: "skip" yields a BadDocument in its place, "raise" raises SourceError.

    Raises:
        RecipeError: on_bad_document is neither.
        SourceError: at once if the ending is unknown; while reading if the file is damaged or is
            not what its name says, or if on_bad_document is "raise" and a document is bad.
    """
    if on_bad_document not in ("skip", "raise"):
        raise RecipeError(f"on_bad_document is {on_bad_document!r}; give 'skip' or 'raise'.")
    kind = file_kind(path)
    if kind.format == "parquet":
        documents = _parquet_documents(path, text_field, max_document_bytes)
    elif kind.format == "jsonl":
        documents = _jsonl_documents(path, kind, text_field, max_document_bytes)
    else:
        documents = _txt_document(path, kind, max_document_bytes)
    return documents if on_bad_document == "skip" else _raising(documents)


def _raising(documents: Iterable[Document | BadDocument]) -> Iterator[Document]:
    for document in documents:
        if isinstance(document, BadDocument):
            raise SourceError(
                f"{document.source}: {document.reason}: {document.detail}. Mend the document, "
                f"or count and skip such documents with on_bad_document='skip'."
            )
        yield document


_NEVER_UTF8 = {"UTF-16 text", "UTF-32 text", "gzip", "zstd", "xz"}
_NEVER_JSON = {"Parquet", "bzip2", "a zip archive"}


def _text_chunks(path: Path, kind: FileKind) -> Iterator[bytes]:
    """The bytes of a text file; refuses a file that begins like something else."""
    chunks = read_bytes(path, kind.compression)
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


def _txt_document(
    path: Path, kind: FileKind, max_document_bytes: int
) -> Iterator[Document | BadDocument]:
    parts: list[bytes] = []
    size = 0
    for chunk in _text_chunks(path, kind):
        size += len(chunk)
        if size <= max_document_bytes:
            parts.append(chunk)
        else:
            parts.clear()  # read on: the end of the file may be damaged
    if size > max_document_bytes:
        yield _too_long(shown(path), size, max_document_bytes)
    elif size:
        yield _decoded(b"".join(parts), shown(path))


def _too_long(source: str, num_bytes: int, max_bytes: int) -> BadDocument:
    return BadDocument("too_long", source, f"{num_bytes:,} bytes; the limit is {max_bytes:,}")


def _decoded(text: bytes, source: str) -> Document | BadDocument:
    try:
        return Document(text.decode("utf-8"), source)
    except UnicodeDecodeError as error:
        return BadDocument("invalid_utf8", source, _utf8_fault(text, error))


def _utf8_fault(text: bytes, error: UnicodeDecodeError) -> str:
    shown_bytes = text[error.start : max(error.end, error.start + 1)].hex(" ")
    return f"byte {error.start:,} of it is {shown_bytes} ({error.reason})"


# --- parquet


def _parquet_documents(
    path: Path, text_field: str, max_document_bytes: int
) -> Iterator[Document | BadDocument]:
    name = shown(path)
    for number, value in enumerate(parquet_values(path, text_field), start=1):
        source = f"{name} record {number}"
        if value is None:
            yield BadDocument("no_text", source, f"column {text_field!r} is null")
        elif len(value) > max_document_bytes:
            yield _too_long(source, len(value), max_document_bytes)
        elif not value:
            yield BadDocument("empty", source, f"{text_field!r} is an empty string")
        else:
            yield _decoded(value, source)


# --- jsonl

_ONE_VALUE_OVER_MANY_LINES = re.compile(
    rb"""[ \t\r\n]* (?: \[ [ \t\r\n]* (?: \{ | \n | \Z )   # an array of objects
                      | \{ [ \t\r]* (?: \n | \Z ) )        # an object over many lines
    """,
    re.VERBOSE,
)


def _jsonl_documents(
    path: Path, kind: FileKind, text_field: str, max_document_bytes: int
) -> Iterator[Document | BadDocument]:
    chunks = _text_chunks(path, kind)
    head = next(chunks, b"").removeprefix(b"\xef\xbb\xbf")
    if _ONE_VALUE_OVER_MANY_LINES.match(head):
        raise SourceError(
            f"{shown(path)}:{1 + head[: len(head) - len(head.lstrip())].count(10)}: a JSON array "
            f"or a pretty-printed object begins here, but jsonl is one object on each line. "
            f"Rewrite it, for instance with: jq -c '.[]'"
        )
    name = shown(path)
    lines = _lines(itertools.chain([head], chunks), max_document_bytes)
    for number, (line, num_bytes) in enumerate(lines, start=1):
        if line is None:
            yield _too_long(f"{name}:{number}", num_bytes, max_document_bytes)
        elif line.strip(b" \t\r"):
            yield _line_document(line, text_field, f"{name}:{number}")


def _lines(chunks: Iterable[bytes], max_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Each line without its newline, and its length; None for a line longer than max_bytes."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        for index, part in enumerate(chunk.split(b"\n")):
            if index:  # a newline stood before this part
                yield (b"".join(parts) if size <= max_bytes else None), size
                parts.clear()
                size = 0
            size += len(part)
            if size <= max_bytes:
                parts.append(part)
            else:
                parts.clear()
    if size:
        yield (b"".join(parts) if size <= max_bytes else None), size


def _line_document(line: bytes, text_field: str, source: str) -> Document | BadDocument:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _lenient_document(line, text_field, source)
    return _record_document(record, text_field, source)


def _lenient_document(line: bytes, text_field: str, source: str) -> Document | BadDocument:
    """Python's own reader takes lines that orjson does not: NaN, escapes of lone surrogates."""
    try:
        # parse_int: Python makes no int of more than 4,300 digits; no number is a text anyway
        record = json.loads(line.decode("utf-8"), parse_int=float)
    except UnicodeDecodeError as error:
        return BadDocument("invalid_utf8", source, _utf8_fault(line, error))
    except RecursionError:
        return BadDocument("broken_json", source, "nested too deeply")
    except json.JSONDecodeError as error:  # its own text says "line 1": the line is all it saw
        detail = f"{error.msg.removesuffix(' at')} at character {error.pos:,} of {len(error.doc):,}"
        return BadDocument("broken_json", source, detail)
    document = _record_document(record, text_field, source)
    if isinstance(document, Document):
        try:
            document.text.encode("utf-8")
        except UnicodeEncodeError as error:
            escape = f"\\u{ord(document.text[error.start]):04x}"
            return BadDocument("lone_surrogate", source, f"{escape} at character {error.start:,}")
    return document


def _record_document(record: object, text_field: str, source: str) -> Document | BadDocument:
    if not isinstance(record, dict):
        return BadDocument("not_an_object", source, f"{_json_name(record)}, no object")
    text = record.get(text_field)
    if type(text) is str and text:
        return Document(text, source)
    if text is None:
        there = (
            "is null"
            if text_field in record
            else f"is not among {', '.join(map(repr, record))[:200]}"
        )
        return BadDocument("no_text", source, f"key {text_field!r} {there}")
    if text == "":
        return BadDocument("empty", source, f"{text_field!r} is an empty string")
    return BadDocument("text_not_a_string", source, f"{text_field!r} is {_json_name(text)}")


def _json_name(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
