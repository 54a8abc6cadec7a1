"""Where the rows lie in an MDS file: its bytes in, a checked ShardLayout and a map of the rows out.

Reads our shards and those that others wrote. Nothing in a file is believed: a count, an offset or
an encoding that does not fit the file is a ShardError, never a read out of bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from mixstream.arrays import Counts
from mixstream.corpus.jsonfile import brief
from mixstream.corpus.shard import Columns, ShardEntry, map_bytes
from mixstream.errors import ShardCorruptError, ShardError

__all__ = ["ShardLayout", "TokenDtype", "map_shard", "read_layout", "token_encoding"]

TokenDtype: TypeAlias = "np.dtype[np.integer[Any]]"
TOKEN_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64")
MAX_HEADER_TEXT_BYTES = 1 << 20
DYNAMIC = ("ndarray", 1)
"""The encoding `ndarray:<dtype>`: each sample states its shape before its values."""

READABLE = (
    "mixstream reads a column 'tokens' of encoding ndarray:<dtype>:<n>, ndarray:<dtype>, or bytes "
    f"of int64, with dtype one of {', '.join(TOKEN_DTYPES)}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardLayout:
    """Where the token ids of each row of one shard lie."""

    num_rows: int
    first_row_offset: int
    """Bytes before the first token of row 0."""
    row_stride: int
    """Bytes from one row to the next; more than row_bytes where a sample holds more than tokens."""
    seq_len: int
    dtype: TokenDtype

    @property
    def row_bytes(self) -> int:
        """Bytes of the token ids of one row."""
        return self.seq_len * self.dtype.itemsize


def read_layout(source: Path | bytes, entry: ShardEntry) -> ShardLayout:
    """Where the rows of a shard lie.

    Args:
        source: the raw shard's path, or its first bytes, up to the end of row 0 at least.
        entry: what the index says of it.

    Raises:
        ShardError: if the file is not what the index or its own header says, its rows differ in
            size, or its tokens are of an encoding that mixstream does not read.
    """
    if isinstance(source, Path):
        return _layout(map_bytes(source, entry.raw.num_bytes), entry, str(source))
    return _layout(np.frombuffer(source, np.uint8), entry, entry.raw.name)


def map_shard(path: Path, entry: ShardEntry) -> tuple[ShardLayout, NDArray[np.uint8]]:
    """Where the rows of a shard lie, and they as an (n, row_bytes) uint8 read-only view of its map.

    Bytes, because the rows of other writers start anywhere: numpy copies a whole shard before it
    takes a row from a map of misaligned uint16, and not from one of bytes.

    Raises:
        ShardError: as `read_layout` does.
    """
    content = map_bytes(path, entry.raw.num_bytes)
    layout = _layout(content, entry, str(path))
    rows: NDArray[np.uint8] = np.ndarray(
        (layout.num_rows, layout.row_bytes),
        np.uint8,
        buffer=content,
        offset=layout.first_row_offset,
        strides=(layout.row_stride, 1),
    )
    return layout, rows


def _layout(head: NDArray[np.uint8], entry: ShardEntry, where: str) -> ShardLayout:
    """The layout of a shard that begins with these bytes."""
    dtype, static_seq_len = token_encoding(entry.columns, where)
    offsets = _checked_offsets(head, entry, where)
    first, stride = int(offsets[0]), int(offsets[1] - offsets[0])
    _check_columns(bytes(head[4 * len(offsets) + 4 : first]), entry.columns, where)
    start, size = _token_span(head, (first, stride), entry, where)
    seq_len, rest = divmod(size, dtype.itemsize)
    if rest or seq_len < 1 or static_seq_len not in (None, seq_len):
        raise ShardError(
            f"{where}: a row has {size} bytes of tokens, which is no row of "
            f"{static_seq_len or 'whole'} {dtype.name} ids. {READABLE}."
        )
    return ShardLayout(
        num_rows=entry.num_rows,
        first_row_offset=first + start,
        row_stride=stride,
        seq_len=seq_len,
        dtype=dtype,
    )


def token_encoding(columns: Columns, where: str) -> tuple[TokenDtype, int | None]:
    """The dtype of a shard's token ids, and S where the encoding states it.

    Raises:
        ShardError: if there is no column `tokens`, or it is not one that can be read.
    """
    encoding = columns.encodings[_token_index(columns, where)]
    kind, *rest = encoding.split(":")
    if kind == "bytes" and not rest:
        return np.dtype(np.int64).newbyteorder("<"), None
    if kind == "ndarray" and rest and rest[0] in TOKEN_DTYPES:
        dtype = np.dtype(rest[0]).newbyteorder("<")
        if len(rest) == 1:
            return dtype, None
        if len(rest) == 2 and rest[1].isascii() and rest[1].isdigit() and 0 < len(rest[1]) < 10:
            return dtype, int(rest[1])
    raise ShardError(f"{where}: column 'tokens' has encoding {encoding!r}. {READABLE}.")


def _token_index(columns: Columns, where: str = "") -> int:
    if "tokens" not in columns.names:
        raise ShardError(f"{where}: its columns are {', '.join(columns.names)}. {READABLE}.")
    return columns.names.index("tokens")


def _checked_offsets(head: NDArray[np.uint8], entry: ShardEntry, where: str) -> Counts:
    """The (n + 1,) offsets of the samples; all samples have one size and end with the file."""
    num_rows = int(head[:4].view("<u4")[0]) if len(head) >= 4 else 0
    if num_rows != entry.num_rows or num_rows < 1:
        raise ShardCorruptError(
            f"{where}: its header says {num_rows} rows, its index {entry.num_rows}. "
            f"The file is damaged or of another corpus: copy or convert it again."
        )
    end = 4 * (num_rows + 2)
    if end > len(head):
        raise ShardCorruptError(
            f"{where}: the offsets of {num_rows} rows take {end} bytes, but there are {len(head)}"
        )
    offsets = head[4:end].view("<u4").astype(np.int64)
    sizes = np.diff(offsets)
    if offsets[0] < end or offsets[-1] != entry.raw.num_bytes or (sizes <= 0).any():
        raise ShardCorruptError(
            f"{where}: its offsets run from {offsets[0]} to {offsets[-1]} in a file of "
            f"{entry.raw.num_bytes} bytes, or run backwards. The header is damaged."
        )
    odd = np.flatnonzero(sizes != sizes[0])
    if len(odd):
        raise ShardError(
            f"{where}: row {odd[0]} takes {sizes[odd[0]]} bytes and row 0 takes {sizes[0]}; "
            f"mixstream reads rows of one fixed length. Convert the text again with --seq-len."
        )
    return offsets


def _check_columns(text: bytes, columns: Columns, where: str) -> None:
    """The header's own text must name the columns that the index names."""
    if len(text) > MAX_HEADER_TEXT_BYTES:
        raise ShardCorruptError(
            f"{where}: a header text of {len(text)} bytes; the header is damaged"
        )
    try:
        config = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ShardCorruptError(f"{where}: the text in its header is no JSON ({error})") from error
    keys = ("column_names", "column_encodings", "column_sizes")
    found = [config.get(key) for key in keys] if isinstance(config, dict) else config
    wanted = [list(columns.names), list(columns.encodings), list(columns.sizes)]
    if found != wanted:
        raise ShardCorruptError(
            f"{where}: its header names the columns {brief(found)}, its index {wanted}. "
            f"The file is of another corpus: copy or convert it again."
        )


def _token_span(
    head: NDArray[np.uint8], sample: tuple[int, int], entry: ShardEntry, where: str
) -> tuple[int, int]:
    """(bytes before the tokens in a sample, bytes of tokens), from the sample at (offset, size)."""
    offset, sample_bytes = sample
    first = bytes(head[offset : offset + sample_bytes])
    sizes, stated_bytes = _column_sizes(first, entry.columns)
    if stated_bytes + sum(sizes) != sample_bytes:
        raise ShardError(
            f"{where}: row 0 takes {sample_bytes} bytes, but its columns "
            f"{', '.join(entry.columns.names)} add up to {stated_bytes + sum(sizes)}. "
            f"The header or the row is damaged."
        )
    if stated_bytes > 4:
        _check_same_sizes(head, (offset, sample_bytes, stated_bytes), entry.num_rows, where)
    index = _token_index(entry.columns)
    start, size = stated_bytes + sum(sizes[:index]), sizes[index]
    kind, *shape = entry.columns.encodings[index].split(":")
    prefix = _shape_bytes(first[start : start + 1], where) if (kind, len(shape)) == DYNAMIC else 0
    return start + prefix, size - prefix


def _column_sizes(sample: bytes, columns: Columns) -> tuple[list[int], int]:
    """Bytes of each column, and of the uint32 sizes that a sample states first."""
    stated_bytes = 4 * columns.sizes.count(None)
    if stated_bytes > len(sample):
        return [0] * len(columns.sizes), stated_bytes
    stated = iter(np.frombuffer(sample[:stated_bytes], "<u4").tolist())
    return [next(stated) if size is None else size for size in columns.sizes], stated_bytes


def _check_same_sizes(
    head: NDArray[np.uint8], span: tuple[int, int, int], num_rows: int, where: str
) -> None:
    """Samples of one size may still share it out otherwise, and then their tokens move about."""
    offset, stride, stated_bytes = span
    if len(head) < offset + stride * num_rows:
        raise ShardError(f"{where}: {stated_bytes // 4} columns state sizes; give the path to it")
    stated: NDArray[np.uint8] = np.ndarray(
        (num_rows, stated_bytes), np.uint8, buffer=head, offset=offset, strides=(stride, 1)
    )
    odd = np.flatnonzero((stated != stated[0]).any(axis=1))
    if len(odd):
        raise ShardError(
            f"{where}: the columns beside 'tokens' differ in size between row 0 and row {odd[0]}; "
            f"mixstream reads samples of one layout. Write the tokens without those columns."
        )


def _shape_bytes(first: bytes, where: str) -> int:
    """Bytes before the values of `ndarray:<dtype>`: `num_axes << 2 | log2(width)`, then a shape."""
    num_axes = first[0] >> 2 if first else 0
    if num_axes != 1:
        raise ShardError(f"{where}: row 0 is an array of {num_axes} axes; a row of tokens has one")
    return 1 + (1 << (first[0] & 3))
