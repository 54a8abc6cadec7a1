"""One column of a parquet file -> its values as UTF-8 texts, or why they are none.

Damage is found where the file can tell: in its footer, its page headers, its compressed pages, and
in pages with a checksum (pyarrow writes those on request only).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from mixstream.corpus.file_bytes import Meter, described, read_pieces
from mixstream.corpus.files import RawFile, shown
from mixstream.corpus.records import BadRecord, TextBatch, document_id, too_long, utf8_fault
from mixstream.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["parquet_batches"]

TARGET_BATCH_BYTES = 16 * 2**20
MAX_BATCH_ROWS = 2_048


def parquet_batches(
    path: RawFile,
    column: str,
    max_document_bytes: int,
    meter: Meter | None = None,
    id_column: str | None = None,
) -> Iterator[TextBatch]:
    """The values of one column in the order of the file.

    The column is of any string or binary type, plain, large, view or dictionary. It is read in
    batches of about 16 MiB, and at most 2,048 rows. A file of no bytes holds no values.

    Raises:
        SourceError: no parquet file, damaged, no such column, or one of another type.
    """
    if not next(read_pieces(path, 1), b""):
        return
    import pyarrow as pa

    record = 0
    before = 0 if meter is None else meter.num_bytes
    try:
        # a Python stream, because Arrow opens no name that is not UTF-8
        with path.open("rb") as stream, _opened(path, stream) as file:
            kind = _checked_type(path, file.schema_arrow, column)
            found_ids = [name for name in file.schema_arrow.names if name == id_column]
            has_ids = len(found_ids) == 1  # none: nobody is named
            for batch in _batches(file, [column, *found_ids] if has_ids else [column]):
                values = batch.column(column).cast(kind)
                named = batch.column(id_column).to_pylist() if has_ids else [None] * len(values)
                record += len(values)
                if meter is not None:  # the file's bytes in step with its values
                    share = record / file.metadata.num_rows
                    meter.num_bytes = before + int(path.stat().st_size * share)
                if _are_plain(values, max_document_bytes):
                    found = TextBatch(
                        values.to_pylist(), range(1, len(values) + 1), [], len(values)
                    )
                else:
                    found = _examined(values.to_pylist(), column, max_document_bytes)
                if id_column is None:
                    yield found
                else:
                    ids = [document_id(named[record - 1]) for record in found.records]
                    yield replace(found, ids=ids)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{shown(path)}: damaged parquet after record {record:,}, the last that could be read "
            f"({_first_line(error)}). Fetch or write the file again."
        ) from error


def _are_plain(values: pa.LargeBinaryArray, max_bytes: int) -> bool:
    """Whether every value is a text: there, not empty, not too long and UTF-8."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes = pc.min_max(pc.binary_length(values)).as_py()
    if values.null_count or not sizes["min"] or sizes["max"] > max_bytes:
        return False
    try:
        values.cast(pa.large_string())
    except pa.ArrowInvalid:  # not UTF-8
        return False
    return True


def _examined(values: list[bytes | None], column: str, max_bytes: int) -> TextBatch:
    """Each value by itself."""
    texts: list[bytes] = []
    records: list[int] = []
    bad: list[BadRecord] = []
    for record, value in enumerate(values, start=1):
        if value is None:
            bad.append(BadRecord(record, "no_text", f"column {column!r} is null"))
        elif len(value) > max_bytes:
            bad.append(too_long(record, len(value), max_bytes))
        elif not value:
            bad.append(BadRecord(record, "empty", f"{column!r} is an empty string"))
        else:
            try:
                value.decode("utf-8")
            except UnicodeDecodeError as error:
                bad.append(BadRecord(record, "invalid_utf8", utf8_fault(value, error)))
            else:
                texts.append(value)
                records.append(record)
    return TextBatch(texts, records, bad, len(values))


def _opened(path: RawFile, stream: BinaryIO) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # a buffer size makes it stream pages; without one it reads whole column chunks
        return pq.ParquetFile(stream, buffer_size=2**20, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(_footer_fault(path, error)) from error


def _footer_fault(path: RawFile, error: Exception) -> str:
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


def _checked_type(path: RawFile, schema: pa.Schema, column: str) -> pa.DataType:
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


def _batches(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches whose size follows the file's own mean of bytes a row."""
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    row_bytes = max(
        (group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0
    )
    num_rows = max(1, min(MAX_BATCH_ROWS, TARGET_BATCH_BYTES // max(row_bytes, 1)))
    # use_threads: a pool of Arrow's would not survive the fork of a worker
    batches: Iterator[pa.RecordBatch] = file.iter_batches(
        batch_size=num_rows, columns=list(dict.fromkeys(columns)), use_threads=False
    )
    return batches
