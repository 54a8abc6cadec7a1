r"""Chunks of a jsonl file -> its texts, and the reason for every line that gives none.

A block of lines is parsed as one array and without a question asked; where any of its lines is not
just a record with a text, each of them is looked at by itself. Lines end at "\n" alone, blank lines
are no records, and of a key that stands twice the last one counts.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

import orjson

from mixstream.corpus.records import BadRecord, Text, TextBatch, document_id, too_long, utf8_fault

__all__ = ["jsonl_batches"]

_LONG_TEXT = 2**20
"""Characters of a text that is held as UTF-8: one emoji makes a str of four bytes a character."""

_MOST_AT_ONCE = 2**17
"""Bytes that are parsed as one array: records of more fall out of the processor's caches."""

_MARK = 2**62 + secrets.randbits(62)
_BETWEEN = b",%d," % _MARK
"""In place of a newline. No result depends on the number, and nobody can write it into a file."""

_Fault: TypeAlias = tuple[str, str]
"""A reason and what was found, for people."""


def jsonl_batches(
    chunks: Iterable[bytes], text_field: str, max_document_bytes: int, id_field: str | None = None
) -> Iterator[TextBatch]:
    """A batch for each chunk of lines, about as many bytes.

    Args:
        chunks: the bytes of the file.
        text_field: the key that holds the text.
        max_document_bytes: a longer line is read past without being held in memory.
        id_field: the key that says what a record is called; None where nobody asks.
    """
    for block in _blocks(_small(chunks), max_document_bytes):
        if isinstance(block, int):
            yield TextBatch([], [], [too_long(1, block, max_document_bytes)], 1)
        else:
            yield _batch(block, text_field, max_document_bytes, id_field)


def _small(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of at most _MOST_AT_ONCE."""
    for chunk in chunks:
        for start in range(0, len(chunk), _MOST_AT_ONCE):
            yield chunk[start : start + _MOST_AT_ONCE]


def _blocks(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes | int]:
    """The lines that a chunk ends, but for the last newline; a number for a line that is longer.

    A line of more than _MOST_AT_ONCE comes alone.
    """
    held: list[bytes] = []  # of a line that has not ended yet
    size = 0
    for chunk in chunks:
        first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
        if first >= 0:
            size += first
            is_alone = size > min(_MOST_AT_ONCE, max_bytes)
            end = first if is_alone else last
            block = b"".join([*held, chunk[:end]]) if size <= max_bytes else size
            held.clear()
            yield block
            del block
            if is_alone and last > first:
                yield chunk[first + 1 : last]
            size = 0
        size += len(chunk) - last - 1
        if size <= max_bytes:
            held.append(chunk[last + 1 :])
        else:
            held.clear()
    if size > max_bytes:
        yield size
    elif size:
        yield b"".join(held)


def _batch(block: bytes, text_field: str, max_bytes: int, id_field: str | None) -> TextBatch:
    """What a block of lines gives."""
    records = _records(block, max_bytes)
    texts = None if records is None else _plain_texts(records, text_field)
    if records is None or texts is None:
        return _examined(block.split(b"\n"), text_field, max_bytes, id_field)
    ids = None if id_field is None else [document_id(each.get(id_field)) for each in records]
    return TextBatch(_narrow(texts), range(1, len(texts) + 1), [], len(texts), ids)


def _records(block: bytes, max_bytes: int) -> list[Any] | None:
    """What each line holds; None where any of them is too long, or not just one value.

    Newlines become numbers that nobody can have written: n - 1 of them between n values are n lines
    of a value each, whatever brackets stand in them.
    """
    lines = block.split(b"\n") if len(block) > min(2 * _MOST_AT_ONCE, max_bytes) else None
    if lines is not None and max(map(len, lines)) > max_bytes:
        return None
    try:
        if lines is not None:
            return list(map(orjson.loads, lines))
        array = b"[%b]" % block.replace(b"\n", _BETWEEN)
        values = orjson.loads(array)
    except orjson.JSONDecodeError:
        return None
    num_ends = (len(array) - 2 - len(block)) // (len(_BETWEEN) - 1)  # faster than to count them
    is_plain = len(values) == 2 * num_ends + 1 and values[1::2].count(_MARK) == num_ends
    return values[::2] if is_plain else None


def _narrow(texts: list[str]) -> Sequence[Text]:
    """The same texts, long ones as UTF-8."""
    if max(map(len, texts), default=0) <= _LONG_TEXT:
        return texts
    return [text.encode("utf-8") if len(text) > _LONG_TEXT else text for text in texts]


def _plain_texts(records: Sequence[Any], text_field: str) -> list[str] | None:
    """The texts, if every record is an object with a string of at least one character."""
    try:
        texts = list(map(itemgetter(text_field), records))
    except (KeyError, TypeError):
        return None
    return texts if all(texts) and set(map(type, texts)) == {str} else None


def _examined(
    lines: Sequence[bytes], text_field: str, max_bytes: int, id_field: str | None
) -> TextBatch:
    """Each line by itself."""
    texts: list[str] = []
    ids: list[str | None] = []
    records: list[int] = []
    bad: list[BadRecord] = []
    for record, line in enumerate(lines, start=1):
        if len(line) > max_bytes:
            bad.append(too_long(record, len(line), max_bytes))
        elif line.strip(b" \t\r"):
            text, named = _text_and_id(line, text_field, id_field)
            if isinstance(text, str):
                texts.append(text)
                records.append(record)
                ids.append(named)
            else:
                bad.append(BadRecord(record, *text))
    return TextBatch(_narrow(texts), records, bad, len(lines), None if id_field is None else ids)


def _text_and_id(
    line: bytes, text_field: str, id_field: str | None
) -> tuple[str | _Fault, str | None]:
    """The text of a record, or why there is none; and what it is called, if anybody asks."""
    try:
        record, is_lenient = orjson.loads(line), False
    except orjson.JSONDecodeError:
        record, is_lenient = _lenient_record(line), True
        if isinstance(record, tuple):
            return record, None
    text = _text_of(record, text_field)
    if not isinstance(text, str):
        return text, None
    fault = _surrogate(text) if is_lenient else None
    if fault is not None:
        return fault, None
    named = None if id_field is None else document_id(record.get(id_field))
    return text, None if named is not None and is_lenient and _surrogate(named) else named


def _surrogate(text: str) -> _Fault | None:
    """Half a character in a text, which no UTF-8 can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return "lone_surrogate", f"\\u{ord(text[error.start]):04x} at character {error.start:,}"
    return None


def _lenient_record(line: bytes) -> Any:
    """Python's own reader takes lines that orjson does not: NaN, escapes of lone surrogates.

    A tuple is a fault: no JSON is one.
    """
    try:
        return json.loads(line.decode("utf-8"), parse_int=_int_or_float)
    except UnicodeDecodeError as error:
        return "invalid_utf8", utf8_fault(line, error)
    except RecursionError:
        return "broken_json", "nested too deeply"
    except json.JSONDecodeError as error:  # its own text says "line 1": the line is all it saw
        detail = f"{error.msg.removesuffix(' at')} at character {error.pos:,} of {len(error.doc):,}"
        return "broken_json", detail


def _int_or_float(digits: str) -> int | float:
    """As orjson: whole numbers of 64 bits. Python makes no int of more than 4,300 digits."""
    value = float(digits)
    return int(digits) if -(2.0**63) <= value < 2.0**64 else value


def _text_of(record: object, text_field: str) -> str | _Fault:
    if not isinstance(record, dict):
        return "not_an_object", f"{_json_name(record)}, no object"
    text = record.get(text_field)
    if type(text) is str and text:
        return text
    if text is None:
        there = (
            "is null"
            if text_field in record
            else f"is not among {', '.join(map(repr, record))[:200]}"
        )
        return "no_text", f"key {text_field!r} {there}"
    if text == "":
        return "empty", f"{text_field!r} is an empty string"
    return "text_not_a_string", f"{text_field!r} is {_json_name(text)}"


def _json_name(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
