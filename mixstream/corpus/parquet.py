"""One column of a parquet file -> the bytes of its values, one after the other.

Damage is found where the file can tell: in its footer, its page headers, its compressed pages, and
in pages with a checksum (pyarrow writes those on request only).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mixstream.corpus.files import described, read_pieces, shown
from mixstream.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["parquet_values"]

TARGET_BATCH_BYTES = 16 * 2**20
MAX_BATCH_ROWS = 2_048


def parquet_values(path: Path, column: str) -> Iterator[bytes | None]:
    """The values of one column in the order of the file; None where it is null.

    The column is of any string or binary type, plain, large, view or dictionary. It is read in
    batches of about 16 MiB, and at most 2,048 rows. A file of no bytes holds no values.

    Raises:
        SourceError: no parquet file, damaged, no such column, or one of another type.
    """
    import pyarrow as pa

    if not next(read_pieces(path, 1), b""):
        return
    record = 0
    try:
        # a Python stream, because Arrow opens no name that is not UTF-8
        with path.open("rb") as stream, _opened(path, stream) as file:
            kind = _checked_type(path, file.schema_arrow, column)
            for batch in _batches(file, column):
                values = batch.column(0)
                for value in values.cast(kind).to_pylist():
                    record += 1
                    yield value
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{shown(path)}: damaged parquet after record {record:,}, the last that could be read "
            f"({_first_line(error)}). Fetch or write the file again."
        ) from error


def _opened(path: Path, stream: BinaryIO) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # a buffer size makes it stream pages; without one it reads whole column chunks
        return pq.ParquetFile(stream, buffer_size=2**20, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(_footer_fault(path, error)) from error


def _footer_fault(path: Path, error: Exception) -> str:
    head = next(read_pieces(path, 64))
    looks, size = described(head), path.stat().st_size
    if looks != "Parquet":
        return (
            f"{shown(path)}: its name says parquet, but at byte 0 the bytes look like {looks}. "
            f"Rename the file to what it is."
        )
    return (
        f"{shown(path)}: its footer, before byte {size:,}, cannot be read ({_first_line(error)}): "
        f"the file is cut short or damaged. Fetch or write it again."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _checked_type(path: Path, schema: pa.Schema, column: str) -> pa.DataType:
    """The binary type to cast the column to. Raises SourceError if it holds no text."""
    import pyarrow as pa

    if schema.names.count(column) != 1:
        how = "two columns" if column in schema.names else "no column"
        raise SourceError(
            f"{shown(path)}: {how} called {column!r}; it has {', '.join(map(repr, schema.names))}. "
            f"Name the column that holds the text (text_field, --text-field)."
        )
    asked = schema.field(column).type
    plain = asked.value_type if pa.types.is_dictionary(asked) else asked
    checks = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_null,
    )
    if not any(check(plain) for check in checks):
        raise SourceError(
            f"{shown(path)}: column {column!r} is of type {asked}, no text; the columns are "
            f"{', '.join(f'{field.name!r} ({field.type})' for field in schema)}. "
            f"Name the one that holds the text (text_field, --text-field)."
        )
    return pa.large_binary()


def _batches(file: pq.ParquetFile, column: str) -> Iterator[pa.RecordBatch]:
    """Batches whose size follows the file's own mean of bytes a row."""
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    row_bytes = max(
        (group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0
    )
    num_rows = max(1, min(MAX_BATCH_ROWS, TARGET_BATCH_BYTES // max(row_bytes, 1)))
    # use_threads: a pool of Arrow's would not survive the fork of a worker
    batches: Iterator[pa.RecordBatch] = file.iter_batches(
        batch_size=num_rows, columns=[column], use_threads=False
    )
    return batches
