"""Places of documents and where the documents came from -> one parquet file a domain; and back.

While a unit runs it writes a file of its own, in which rows count from the unit's first row and
records from its file part's first. Joined, they become `provenance.parquet` in the domain's folder:
a row for each piece of a document, in the order of the corpus's rows.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from mixstream.arrays import Counts
from mixstream.corpus.places import Places
from mixstream.corpus.shard import sync_folder
from mixstream.errors import ShardError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "PROVENANCE",
    "Piece",
    "PieceWriter",
    "UnitPieces",
    "columns_of",
    "join_pieces",
    "pieces_of_row",
]

PROVENANCE = "provenance.parquet"
"""Its name in the folder of a domain, and in that of a unit."""

_GROUP_PIECES = 2**17
"""Pieces of a row group: what one question to a file reads, some hundred kB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A document's part in a row."""

    row: int
    """Of the domain."""
    start: int
    """Column of its first id."""
    length: int
    """Ids of it in this row, special ids included."""
    file: str
    """Name of the raw file below the domain's folder, or below what its patterns share."""
    record: int
    """Line of a jsonl file, value of a parquet file, 1 of a text file; from 1 on."""
    document_id: str | None
    """What the document's record calls it; None where it says nothing."""
    offset: int
    """Ids of the document in earlier pieces: 0 where it begins here."""


class PieceWriter:
    """The pieces of one unit, as they come, into its file; a context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._origins: list[Counts] = []
        self._ids: list[str | None] = []
        self._tables: list[pa.Table] = []
        self._num_pieces = 0

    def __enter__(self) -> PieceWriter:
        self._opened = _written_whole(self._path, _schema(is_final=False))
        self._file = self._opened.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._write()
        self._opened.__exit__(kind, error, trace)

    def add_documents(self, origins: Counts, ids: Sequence[str | None]) -> None:
        """Takes the next documents, before their places are told.

        Args:
            origins: (n, 2) int64, file part of the unit and record in it from 1 on.
            ids: what each is called.
        """
        self._origins.append(origins)
        self._ids += ids

    def add_places(self, places: Places) -> None:
        """Takes where the pieces of the next documents stand; an OnPlaces."""
        import pyarrow as pa

        origins, num = np.concatenate(self._origins), places.num_documents
        ids, self._ids = pa.array(self._ids[:num], pa.string()), self._ids[num:]
        self._origins = [origins[num:]]
        found = origins[:num][places.document]
        columns = [places.row, places.start, places.length, found[:, 0], found[:, 1]]
        arrays = [*columns, ids.take(pa.array(places.document)), places.offset]
        schema = _schema(is_final=False)
        typed = [pa.array(each, kind) for each, kind in zip(arrays, schema.types, strict=True)]
        self._tables.append(pa.Table.from_arrays(typed, schema=schema))
        self._num_pieces += len(places.row)
        if self._num_pieces >= _GROUP_PIECES:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        if self._tables:
            self._file.write_table(pa.concat_tables(self._tables), row_group_size=_GROUP_PIECES)
        self._tables, self._num_pieces = [], 0


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitPieces:
    """Where the pieces of one unit lie, and what its numbers count from."""

    path: Path
    """The file that the unit wrote."""
    first_row: int
    """Of the domain, before the rows of the unit."""
    files: Sequence[str]
    """Name of each file part's file."""
    records_before: Sequence[int]
    """Records of its file before each part."""


def join_pieces(path: Path, parts: Sequence[UnitPieces], *, before: Path | None = None) -> None:
    """Writes a domain's provenance from that of its units, whole or not at all.

    Args:
        path: where to.
        parts: the units in order.
        before: provenance that goes first, as it is: that of the corpus that is appended to.

    Raises:
        ShardError: a file cannot be read or written.
    """
    with _written_whole(path, _schema(is_final=True)) as target:
        if before is not None:
            for table in _tables(before):
                target.write_table(table.cast(target.schema), row_group_size=_GROUP_PIECES)
        for part in parts:
            for table in _tables(part.path):
                target.write_table(_located(table, part), row_group_size=_GROUP_PIECES)


def pieces_of_row(path: Path, row: int) -> list[Piece]:
    """The pieces in one row, from left to right; reads the one or two row groups that hold it.

    Args:
        path: a domain's provenance.parquet.
        row: of the domain.

    Raises:
        ShardError: the file is missing or damaged.
    """
    import pyarrow.compute as pc

    found: list[Piece] = []
    with _reading(path) as file:
        place = file.schema_arrow.get_field_index("row")
        for number in range(file.num_row_groups):
            stated = file.metadata.row_group(number).column(place).statistics
            if stated is None or stated.min <= row <= stated.max:
                table = file.read_row_group(number, use_threads=False)
                found += [Piece(**each) for each in
                          table.filter(pc.field("row") == row).to_pylist()]  # fmt: skip
    return found


def columns_of(path: Path, names: Sequence[str]) -> Iterator[Counts]:
    """(n, len(names)) int64: some columns of numbers, a row group at a time.

    Raises:
        ShardError: the file is missing or damaged, or is no provenance.
    """
    import pyarrow as pa

    with _reading(path) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=list(names), use_threads=False)
            found = [table[name].cast(pa.int64()).to_numpy() for name in names]
            yield np.stack(found, axis=1)


def _located(table: pa.Table, part: UnitPieces) -> pa.Table:
    """The pieces of a unit as the domain counts: rows, files and records."""
    import pyarrow as pa

    names = list(dict.fromkeys(part.files))
    place = {name: number for number, name in enumerate(names)}
    file = np.array([place[name] for name in part.files], np.int32)
    number = table["part"].to_numpy()
    files = pa.DictionaryArray.from_arrays(file[number], pa.array(names, pa.string()))
    record = table["record"].to_numpy() + np.asarray(part.records_before, np.int64)[number]
    columns: Mapping[str, Any] = {
        "row": table["row"].to_numpy() + part.first_row,
        "file": files,
        "record": record,
    }
    schema = _schema(is_final=True)
    arrays = [columns.get(name, table[name] if name in table.column_names else None)
              for name in schema.names]  # fmt: skip
    return pa.Table.from_arrays(arrays, schema=schema)


def _schema(*, is_final: bool) -> pa.Schema:
    import pyarrow as pa

    origin = ("file", pa.dictionary(pa.int32(), pa.string())) if is_final else ("part", pa.int32())
    return pa.schema([
        ("row", pa.int64()),
        ("start", pa.int32()),
        ("length", pa.int32()),
        origin,
        ("record", pa.int64()),
        ("document_id", pa.string()),
        ("offset", pa.int64()),
    ])  # fmt: skip


@contextmanager
def _written_whole(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A parquet file that appears under its name complete and on the disk, or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    packed = ("row", "start", "length", "part", "record", "offset")
    options: dict[str, Any] = {
        "compression": "zstd",
        "use_dictionary": ["file"],
        "column_encoding": dict.fromkeys(
            (name for name in schema.names if name in packed), "DELTA_BINARY_PACKED"
        ),
        "store_schema": False,  # Arrow's own note of it: readers need none
    }
    try:
        with open(temporary, "xb") as stream:
            with pq.ParquetWriter(stream, schema, **options) as file:
                yield file
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except ShardError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def _reading(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # a Python stream, because Arrow opens no name that is not UTF-8
        with open(path, "rb") as stream, pq.ParquetFile(stream) as file:
            yield file
    except FileNotFoundError as error:
        raise ShardError(
            f"{path} is missing: the corpus was converted without --provenance, or the file was "
            f"left behind in copying. Copy it, or convert again with it."
        ) from error
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ShardError(f"{path} cannot be read ({error}); copy it again.") from error


def _tables(path: Path) -> Iterator[pa.Table]:
    with _reading(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, use_threads=False)
