"""What readers give: texts in batches, each with the number of the record it stood in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mixstream.corpus.files import RawFile, shown

__all__ = [
    "REASONS",
    "BadRecord",
    "FilePart",
    "Text",
    "TextBatch",
    "document_id",
    "num_utf8_bytes",
    "place",
    "too_long",
    "utf8_fault",
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
    "duplicate",  # an earlier document has the same text; convert --dedup exact counts these
)
"""Why a document is bad: every reason there is."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A raw file, or the lines of one that begin in a range of its bytes."""

    path: RawFile
    start: int = 0
    end: int | None = None
    """None for the end of the file; only raw jsonl has other parts than whole files."""

    @property
    def is_whole(self) -> bool:
        """Whether this is all of the file."""
        return self.start == 0 and self.end is None


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that gives no text."""

    record: int
    """From 1 on, in its batch."""
    reason: str
    """One of REASONS."""
    detail: str
    """What was found there, for people."""


Text: TypeAlias = str | bytes
"""A text as its reader comes by it, so that none is copied in vain: never empty, and valid UTF-8 or
a str that UTF-8 can hold."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """The next records of a file part: lines of jsonl, values of parquet, or a whole text file."""

    texts: Sequence[Text]
    records: Sequence[int]
    """The number of each text's record, from 1 on in this batch."""
    bad: list[BadRecord]
    """The records that give no text; blank lines of jsonl are neither here nor there."""
    num_records: int
    """How many records of the part this batch goes past."""
    ids: Sequence[str | None] | None = None
    """What each text's record is called; None where nobody asked."""


def num_utf8_bytes(text: Text) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode("utf-8"))


def place(path: RawFile, record: int) -> str:
    """Where a record stands, for people: "path:line", "path record 12" (parquet), "path" (txt)."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return f"{shown(path)} record {record}"
    return f"{shown(path)}:{record}" if ".jsonl" in name[-10:] else shown(path)


def document_id(value: object) -> str | None:
    """What a record says it is called: a string or a whole number; None for anything else."""
    return str(value) if isinstance(value, str) or type(value) is int else None


def too_long(record: int, num_bytes: int, max_bytes: int) -> BadRecord:
    """A record of more than max_bytes."""
    return BadRecord(record, "too_long", f"{num_bytes:,} bytes; the limit is {max_bytes:,}")


def utf8_fault(text: bytes, error: UnicodeDecodeError) -> str:
    """What byte of a text is no UTF-8, and why."""
    shown_bytes = text[error.start : max(error.end, error.start + 1)].hex(" ")
    return f"byte {error.start:,} of it is {shown_bytes} ({error.reason})"
