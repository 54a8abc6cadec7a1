"""A JSON file <-> checked values: each as wanted, or an error that names file, key and mend."""

from __future__ import annotations

import gc
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar

import orjson

from mixstream.corpus.shard import write_whole
from mixstream.errors import ShardCorruptError, ShardError

__all__ = [
    "MAX_NAME_BYTES",
    "MEND",
    "Json",
    "brief",
    "checked_name",
    "count",
    "json_object",
    "no_collection",
    "one_of",
    "read_object",
    "text_or_none",
    "wanted",
    "write_json",
]

Json: TypeAlias = (
    "Mapping[str, Json] | list[Json] | tuple[Json, ...] | str | int | float | bool | None"
)
T = TypeVar("T")

MAX_NAME_BYTES = 255
MEND = "The file is damaged or not from this version: copy it again, or convert the corpus again."


@contextmanager
def no_collection() -> Iterator[None]:
    """Switches off Python's search for circles while many objects are made that are none.

    It takes longer than parsing a large file does. For work of milliseconds that waits for nobody:
    all threads go without, and a process that is forked meanwhile has it on.
    """
    global _is_off
    was_on = gc.isenabled()
    gc.disable()
    _is_off |= was_on
    try:
        yield
    finally:
        if was_on:
            gc.enable()
            _is_off = False


_is_off = False


def _switch_on() -> None:
    global _is_off
    if _is_off:
        gc.enable()
        _is_off = False


os.register_at_fork(after_in_child=_switch_on)


def write_json(path: Path, value: Json) -> None:
    """Write JSON whole or not at all; equal values give equal bytes, whatever their order.

    Raises:
        ShardError: if the file cannot be written.
    """
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, (text.encode(), b"\n"))


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON file that holds an object.

    Raises:
        ShardError: if it is missing, is no JSON, or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ShardError(f"cannot read {path}: {error.strerror or error}") from error
    return json_object(content, str(path))


def json_object(content: bytes, where: str) -> dict[str, object]:
    """The object in the bytes of a JSON file.

    Raises:
        ShardCorruptError: if they are no JSON.
        ShardError: if they hold something else.
    """
    try:
        with no_collection():
            value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ShardCorruptError(f"{where} is no JSON: {error}. {MEND}") from error
    if not isinstance(value, dict):
        raise ShardError(f"{where} holds {brief(value)} where an object should be. {MEND}")
    return value


def wanted(values: Mapping[str, object], key: str, kind: type[T], where: str) -> T:
    """The value of a key, which must be there and of this type.

    Raises:
        ShardError: naming the file, the key, the value and the mend.
    """
    if key not in values:
        raise ShardError(f"{where}: key {key!r} is missing. {MEND}")
    value = values[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ShardError(f"{where}: key {key!r} is {brief(value)}, not a {kind.__name__}. {MEND}")
    return value


def brief(value: object, most: int = 80) -> str:
    """A value of somebody else's for a message: so many letters at most, however deep it is."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxlist = shortened.maxdict = most
    return f"{shortened.repr(value):.{most}}"


def count(
    values: Mapping[str, object], key: str, where: str, *, least: int = 0, most: int = 2**62
) -> int:
    """The whole number of a key, from `least` to `most`."""
    value = wanted(values, key, int, where)
    if not least <= value <= most:
        raise ShardError(f"{where}: key {key!r} is {value}, not from {least} to {most}. {MEND}")
    return value


def one_of(values: Mapping[str, object], key: str, choices: tuple[str, ...], where: str) -> str:
    """The text of a key, which must be one of `choices`."""
    value = wanted(values, key, str, where)
    if value not in choices:
        raise ShardError(
            f"{where}: key {key!r} is {brief(value)}, not {' or '.join(choices)}. {MEND}"
        )
    return value


def text_or_none(values: Mapping[str, object], key: str, where: str) -> str | None:
    """The text of a key that may be null or absent."""
    return None if values.get(key) is None else wanted(values, key, str, where)


def checked_name(name: str, where: str) -> str:
    """A name of one file or folder: it cannot lead out of the folder that it is looked up in.

    Raises:
        ShardError: for a path, `..`, a control character or an overlong name.
    """
    plain = not any(letter in "/\\" or ord(letter) < 32 for letter in name)
    if name in ("", ".", "..") or not plain or len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise ShardError(
            f"{where}: the name {name!r:.80} is not that of a file in this folder. If the index "
            f"was merged from sub-folders, open them as domains: open_corpus({{'name': folder}})."
        )
    return name
