"""A domain's folder -> what its index.json says of its shards, as arrays; and the way back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import itemgetter
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts
from mixstream.corpus.jsonfile import (
    MAX_NAME_BYTES,
    MEND,
    Json,
    brief,
    checked_name,
    count,
    no_collection,
    one_of,
    read_object,
    text_or_none,
    wanted,
)
from mixstream.corpus.layout import TokenDtype
from mixstream.corpus.remote import Folder
from mixstream.corpus.shard import HASH, MAX_SHARD_BYTES, Columns, FileEntry, ShardEntry
from mixstream.errors import ShardError

__all__ = ["DomainShards", "ShardIndex", "index_json", "index_of", "read_index"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShardIndex:
    """One domain's index.json as arrays: n shards, all of the same columns."""

    folder: Folder
    columns: Columns
    """Empty for an index without shards."""
    num_rows: Counts
    """(n,) rows of each shard."""
    raw_bytes: Counts
    zip_bytes: Counts
    """0 where there is no compressed file."""
    raw_names: NDArray[np.bytes_]
    zip_names: NDArray[np.bytes_]
    raw_hashes: NDArray[np.bytes_]
    """`algorithm:digest`, empty where the writer computed none."""
    zip_hashes: NDArray[np.bytes_]
    compressions: NDArray[np.bytes_]

    def entry(self, shard: int) -> ShardEntry:
        """What the index says of one shard."""
        zip_name = self.zip_names[shard].decode()
        raw = _file(self.raw_names[shard], self.raw_bytes[shard], self.raw_hashes[shard])
        packed = _file(self.zip_names[shard], self.zip_bytes[shard], self.zip_hashes[shard])
        return ShardEntry(
            num_rows=int(self.num_rows[shard]),
            raw=raw,
            zip=packed if zip_name else None,
            compression=self.compressions[shard].decode() or None,
            columns=self.columns,
        )

    def first_rows(self, num_rows: int) -> ShardIndex:
        """The index of the first shards, if so many rows fill them; else this one."""
        ends = np.concatenate([[0], np.cumsum(self.num_rows)])
        num_shards = int(np.searchsorted(ends, num_rows))
        if num_shards >= len(ends) - 1 or ends[num_shards] != num_rows:
            return self
        arrays = {
            each.name: getattr(self, each.name)[:num_shards]
            for each in fields(self)
            if each.name not in ("folder", "columns")
        }
        return replace(self, **arrays)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards as they lie on disk: compressed where they are."""
        return int(np.where(self.zip_bytes > 0, self.zip_bytes, self.raw_bytes).sum())

    def contents(self) -> list[tuple[int, int, str]]:
        """(rows, raw bytes, raw hash) of each shard, as `fingerprint` takes them."""
        hashes = [value.decode() for value in self.raw_hashes.tolist()]
        return list(zip(self.num_rows.tolist(), self.raw_bytes.tolist(), hashes, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainShards:
    """The shards of one domain, whose rows all have one length and dtype."""

    name: str
    index: ShardIndex
    dtype: TokenDtype


def _file(name: bytes, num_bytes: np.int64, digest: bytes) -> FileEntry:
    algorithm, _, value = digest.decode().partition(":")
    hashes = ((algorithm, value),) if algorithm else ()
    return FileEntry(name=name.decode(), num_bytes=int(num_bytes), hashes=hashes)


def index_json(entries: Sequence[ShardEntry]) -> dict[str, Json]:
    """A stock index.json (version 2) of one domain's shards, in their order."""
    return {"version": 2, "shards": [_shard_json(entry) for entry in entries]}


def _shard_json(entry: ShardEntry) -> dict[str, Json]:
    def described(file: FileEntry) -> dict[str, Json]:
        return {"basename": file.name, "bytes": file.num_bytes, "hashes": dict(file.hashes)}

    return {
        "column_encodings": entry.columns.encodings,
        "column_names": entry.columns.names,
        "column_sizes": entry.columns.sizes,
        "compression": entry.compression,
        "format": "mds",
        "hashes": [algorithm for algorithm, _ in entry.raw.hashes],
        "raw_data": described(entry.raw),
        "samples": entry.num_rows,
        "size_limit": None,
        "version": 2,
        "zip_data": described(entry.zip) if entry.zip else None,
    }


def read_index(folder: Path) -> ShardIndex:
    """Read one domain's index.json, ours or another writer's.

    Raises:
        ShardError: if it is missing, damaged, of another version, or names shards that are not
            MDS or differ in their columns.
    """
    return index_of(read_object(folder / "index.json"), folder)


def index_of(top: Mapping[str, object], folder: Folder) -> ShardIndex:
    """The index in the JSON object of a folder's index.json; raises as `read_index` does."""
    where = str(folder / "index.json")
    if (found := top.get("version")) != 2:
        raise ShardError(f"{where}: key 'version' is {brief(found)}; mixstream reads 2")
    shards = wanted(top, "shards", list, where)
    try:
        with no_collection():
            return _plain_index(shards, folder)
    except _NOT_PLAIN:
        return _examined_index(shards, folder)


def _plain_index(shards: list[Any], folder: Folder) -> ShardIndex:
    """The index of shards that are described as ours and the stock writer's are.

    What must be so is asked of all of them at once, not of one by one.

    Raises:
        KeyError, OverflowError, RecursionError, TypeError, ValueError: they are not.
    """
    formats, samples, raws, zips, compressions = zip(*map(_OF_SHARD, shards), strict=True)
    columns = list(map(_OF_COLUMNS, shards))
    _expect(set(formats) == {"mds"} and columns.count(columns[0]) == len(columns))
    _expect(len({tuple(map(type, sizes)) for _, _, sizes in columns}) == 1)  # for 8 == 8.0
    _expect(set(map(type, compressions)) in ({type(None)}, {str}))
    raw_names, raw_bytes, raw_hashes = _plain_files(raws)
    if set(map(type, zips)) == {type(None)}:
        zip_names = zip_hashes = np.zeros(len(shards), "S1")
        zip_bytes = np.zeros(len(shards), np.int64)
    else:
        zip_names, zip_bytes, zip_hashes = _plain_files(zips)
    return ShardIndex(
        folder=folder,
        columns=_shard_entry(shards[0], f"{folder / 'index.json'}, shard 0").columns,
        num_rows=_plain_counts(samples),
        raw_bytes=raw_bytes,
        zip_bytes=zip_bytes,
        raw_names=raw_names,
        zip_names=zip_names,
        raw_hashes=raw_hashes,
        zip_hashes=zip_hashes,
        compressions=np.array([each or "" for each in compressions], np.bytes_),
    )


def _plain_files(
    files: Sequence[Any],
) -> tuple[NDArray[np.bytes_], Counts, NDArray[np.bytes_]]:
    """The names, bytes and hashes of the files; raises as `_plain_index` does."""
    names, num_bytes, hashes = zip(*map(_OF_FILE, files), strict=True)
    _expect(_PLAIN_LETTERS.issuperset("".join(names)) and max(map(len, names)) <= MAX_NAME_BYTES)
    _expect({"", ".", ".."}.isdisjoint(names) and len(set(names)) == len(names))
    _expect(set(map(type, hashes)) == {dict} and len({tuple(each) for each in hashes}) == 1)
    (kind,) = hashes[0] or [""]
    digests = [each[kind] for each in hashes] if kind else [""] * len(names)
    _expect(set(map(type, digests)) == {str})
    texts = [f"{kind}:{digest}" for digest in digests] if kind else digests
    return np.array(names, np.bytes_), _plain_counts(num_bytes), np.array(texts, np.bytes_)


def _plain_counts(values: Sequence[Any]) -> Counts:
    """Rows or bytes; raises as `_plain_index` does."""
    _expect(set(map(type, values)) == {int})
    found = np.array(values, np.int64)
    _expect(bool(found.min() >= 0 and found.max() <= MAX_SHARD_BYTES))
    return found


def _expect(is_so: bool) -> None:
    if not is_so:
        raise ValueError("not described as plainly as ours and the stock writer's are")


_NOT_PLAIN = (KeyError, OverflowError, RecursionError, TypeError, ValueError)
_OF_SHARD = itemgetter("format", "samples", "raw_data", "zip_data", "compression")
_OF_COLUMNS = itemgetter("column_names", "column_encodings", "column_sizes")
_OF_FILE = itemgetter("basename", "bytes", "hashes")
_PLAIN_LETTERS = frozenset(ascii_letters + digits + "._-")


def _examined_index(shards: list[Any], folder: Folder) -> ShardIndex:
    """The same of any shards that are described soundly; else an error that says what is wrong."""
    where = str(folder / "index.json")
    entries = [
        _shard_entry(shard, f"{where}, shard {number}") for number, shard in enumerate(shards)
    ]
    columns = entries[0].columns if entries else Columns(names=(), encodings=(), sizes=())
    for number, entry in enumerate(entries):
        if entry.columns != columns:
            raise ShardError(
                f"{where}: shard {number} has columns {entry.columns.encodings} and shard 0 "
                f"{columns.encodings}. Open them as two domains."
            )
    _check_distinct([entry.raw.name for entry in entries], where)
    return _shard_index(folder, columns, entries)


def _check_distinct(names: list[str], where: str) -> None:
    """No two shards may be one file: their rows would be drawn twice."""
    if len(set(names)) != len(names):
        (twice, times), *_ = Counter(names).most_common(1)
        raise ShardError(f"{where}: {times} shards are named {twice!r}. {MEND}")


def _shard_index(folder: Folder, columns: Columns, entries: Sequence[ShardEntry]) -> ShardIndex:
    def counts(values: Iterable[int]) -> Counts:
        return np.array(list(values), np.int64)

    def texts(values: Iterable[str]) -> NDArray[np.bytes_]:
        return np.array([value.encode() for value in values] or [b""], np.bytes_)[: len(entries)]

    return ShardIndex(
        folder=folder,
        columns=columns,
        num_rows=counts(entry.num_rows for entry in entries),
        raw_bytes=counts(entry.raw.num_bytes for entry in entries),
        zip_bytes=counts(entry.zip.num_bytes if entry.zip else 0 for entry in entries),
        raw_names=texts(entry.raw.name for entry in entries),
        zip_names=texts(entry.zip.name if entry.zip else "" for entry in entries),
        raw_hashes=texts(_hash(entry.raw) for entry in entries),
        zip_hashes=texts(_hash(entry.zip) for entry in entries),
        compressions=texts(entry.compression or "" for entry in entries),
    )


def _hash(file: FileEntry | None) -> str:
    """`algorithm:digest` of a file: our algorithm where its writer used it, else the first."""
    hashes = dict(file.hashes) if file else {}
    algorithm = HASH if HASH in hashes else min(hashes, default="")
    return f"{algorithm}:{hashes[algorithm]}" if algorithm else ""


def _shard_entry(shard: object, where: str) -> ShardEntry:
    """One item of `shards` of an index.json, each value checked."""
    values = wanted({"shard": shard}, "shard", dict, where)
    one_of(values, "format", ("mds",), where)
    names, encodings, sizes = (
        tuple(wanted(values, key, list, where))
        for key in ("column_names", "column_encodings", "column_sizes")
    )
    texts = all(isinstance(value, str) for value in names + encodings)
    fits = all(size is None or (type(size) is int and 0 < size < 2**32) for size in sizes)
    if not (texts and fits and len(names) == len(encodings) == len(sizes)):
        raise ShardError(
            f"{where}: columns {brief(names)}, {brief(encodings)} and sizes {brief(sizes)} "
            f"make no sense. {MEND}"
        )
    return ShardEntry(
        num_rows=count(values, "samples", where, most=MAX_SHARD_BYTES),
        raw=_file_entry(wanted(values, "raw_data", dict, where), f"{where}, raw_data"),
        zip=(
            _file_entry(wanted(values, "zip_data", dict, where), f"{where}, zip_data")
            if values.get("zip_data") is not None
            else None
        ),
        compression=text_or_none(values, "compression", where),
        columns=Columns(names=names, encodings=encodings, sizes=sizes),
    )


def _file_entry(values: Mapping[str, object], where: str) -> FileEntry:
    stated: dict[str, object] = wanted(values, "hashes", dict, where)
    hashes = {algorithm: wanted(stated, algorithm, str, where) for algorithm in sorted(stated)}
    return FileEntry(
        name=checked_name(wanted(values, "basename", str, where), where),
        num_bytes=count(values, "bytes", where, most=MAX_SHARD_BYTES),
        hashes=tuple(hashes.items()),
    )
