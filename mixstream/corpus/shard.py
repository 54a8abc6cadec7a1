"""Rows -> the bytes of one MDS file: an (n, S) array in, a shard and its index entry out.

A shard is `uint32 n`, `(n + 1) uint32` offsets, a JSON text and n rows. Ours pad the JSON text
with spaces, so that the rows start on a page; stock readers never look between the two.
`layout.py` is the way back.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

from mixstream.arrays import Rows
from mixstream.errors import ShardCorruptError, ShardError, ShardMissingError

__all__ = [
    "Columns",
    "FileEntry",
    "ShardEntry",
    "map_bytes",
    "shard_header",
    "sync_folder",
    "token_columns",
    "write_shard",
    "write_whole",
]

MAX_SHARD_BYTES = 2**32 - 1
"""Offsets in an MDS file are uint32."""

PAGE_BYTES, LINE_BYTES = 4096, 64
PAGED_ABOVE_BYTES = 1 << 16
"""Shards with fewer bytes of rows start them on a cache line: a page would be mostly padding."""

HASH = "xxh3_64"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of a shard as the index names it."""

    name: str
    """Its name within the domain's folder."""
    num_bytes: int
    hashes: tuple[tuple[str, str], ...] = ()
    """Pairs of (algorithm, hex digest), sorted; empty where the writer computed none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What each sample of a shard is made of, in the order of its bytes."""

    names: tuple[str, ...]
    encodings: tuple[str, ...]
    sizes: tuple[int | None, ...]
    """Bytes of a column; None where each sample states its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One shard as `index.json` names it."""

    num_rows: int
    raw: FileEntry
    zip: FileEntry | None = None
    """The compressed file, where there is one; then the raw file may be absent."""
    compression: str | None = None
    """`zstd:N`, as the stock reader names it."""
    columns: Columns


def shard_header(num_rows: int, seq_len: int, dtype: DTypeLike) -> bytes:
    """All bytes of a shard before its first row.

    The text names no compression: the raw shard is the same whether it is compressed or not.

    Args:
        num_rows: n >= 1.
        seq_len: S >= 1, tokens a row.
        dtype: uint16 or uint32.

    Returns:
        Bytes whose length is a multiple of 4,096, or of 64 below 64 KiB of rows.

    Raises:
        ShardError: if the shard would be empty or outgrow its uint32 offsets.
    """
    columns = token_columns(seq_len, dtype)
    if num_rows < 1 or seq_len < 1:
        raise ShardError(f"a shard of {num_rows} rows of {seq_len} tokens holds nothing to write")
    text = json.dumps(
        {
            "column_encodings": columns.encodings,
            "column_names": columns.names,
            "column_sizes": columns.sizes,
            "compression": None,
            "format": "mds",
            "hashes": [HASH],
            "size_limit": None,
            "version": 2,
        },
        sort_keys=True,
    ).encode()
    row_bytes = seq_len * np.dtype(dtype).itemsize
    boundary = PAGE_BYTES if num_rows * row_bytes >= PAGED_ABOVE_BYTES else LINE_BYTES
    head_bytes = 4 * (num_rows + 2)
    first_row = -(-(head_bytes + len(text)) // boundary) * boundary
    num_bytes = first_row + num_rows * row_bytes
    if num_bytes > MAX_SHARD_BYTES:
        raise ShardError(
            f"{num_rows} rows of {row_bytes} bytes make a shard of {num_bytes} bytes, but its "
            f"offsets end at {MAX_SHARD_BYTES}. Put fewer rows into a shard."
        )
    offsets = first_row + row_bytes * np.arange(num_rows + 1, dtype=np.int64)
    head: bytes = np.concatenate(([num_rows], offsets)).astype("<u4").tobytes()
    return head + text.ljust(first_row - head_bytes, b" ")


def token_columns(seq_len: int, dtype: DTypeLike) -> Columns:
    """The columns of a shard of ours; refuses any dtype but uint16 and uint32."""
    kind = np.dtype(dtype)
    if kind.name not in ("uint16", "uint32"):
        raise ShardError(f"token ids of dtype {kind.name}; shards hold uint16 or uint32")
    return Columns(
        names=("tokens",),
        encodings=(f"ndarray:{kind.name}:{seq_len}",),
        sizes=(seq_len * kind.itemsize,),
    )


def write_shard(
    path: str | os.PathLike[str],
    rows: Rows,
    *,
    dtype: DTypeLike | None = None,
    compression: str | None = None,
    level: int = 3,
) -> ShardEntry:
    """Write one shard whole: it appears under its final name after fsync, or not at all.

    Args:
        path: where the raw shard belongs; `.zst` is appended to the name of a compressed one.
        rows: (n, S) token ids of any integer dtype.
        dtype: uint16 or uint32; the dtype of `rows` if not given.
        compression: None or "zstd".
        level: 1 to 22, for zstd.

    Returns:
        What `index.json` says of this shard.

    Raises:
        ShardError: if an id does not fit `dtype`, the shard is empty or too large, or the file
            cannot be written.
    """
    path = Path(path)
    tokens = _checked_tokens(path, rows, np.dtype(dtype or rows.dtype))
    num_rows, seq_len = tokens.shape
    header = shard_header(num_rows, seq_len, tokens.dtype)
    little = tokens.astype(tokens.dtype.newbyteorder("<"), copy=False)
    body = little.reshape(-1).view(np.uint8).data
    raw = _file_entry(path.name, (header, body))
    columns = token_columns(seq_len, tokens.dtype)
    if compression is None:
        write_whole(path, (header, body))
        return ShardEntry(num_rows=num_rows, raw=raw, columns=columns)
    if compression != "zstd" or not 1 <= level <= 22:
        raise ShardError(f"compression {compression!r} at level {level}; choose zstd, 1 to 22")
    import zstandard

    packer = zstandard.ZstdCompressor(level=level).compressobj(size=raw.num_bytes)
    packed = packer.compress(header) + packer.compress(body) + packer.flush()
    zip_path = path.with_name(path.name + ".zst")
    write_whole(zip_path, (packed,))
    return ShardEntry(
        num_rows=num_rows,
        raw=raw,
        zip=_file_entry(zip_path.name, (packed,)),
        compression=f"zstd:{level}",
        columns=columns,
    )


def _checked_tokens(path: Path, rows: Rows, dtype: np.dtype[np.generic]) -> Rows:
    """The rows as a contiguous array of `dtype`; an id out of its range is an error, not a wrap."""
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ShardError(
            f"{path}: rows of shape {rows.shape} and dtype {rows.dtype.name}; "
            f"a shard takes an (n, S) array of integers"
        )
    token_columns(1, dtype)
    if rows.size and not np.can_cast(rows.dtype, dtype):
        low, high, limit = int(rows.min()), int(rows.max()), 256**dtype.itemsize - 1
        if low < 0 or high > limit:
            raise ShardError(
                f"{path}: token ids run from {low} to {high}, but {dtype.name} holds 0 to {limit}"
            )
    return np.ascontiguousarray(rows, dtype)


def _file_entry(name: str, parts: Iterable[bytes | memoryview]) -> FileEntry:
    digest, num_bytes = xxhash.xxh3_64(), 0
    for part in parts:
        digest.update(part)
        num_bytes += len(part)
    return FileEntry(name=name, num_bytes=num_bytes, hashes=((HASH, digest.hexdigest()),))


def write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file that appears under its name complete and on the disk, or not at all.

    What is left after a kill is a hidden file `.NAME.*.tmp` in the same folder.

    Raises:
        ShardError: if the file cannot be written; it names the path and what the system said.
    """
    try:
        with _temporary_beside(path) as temporary:
            # O_EXCL: no two writers share a temporary; 0o666: the umask decides, as for any file.
            number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with open(number, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)
    except ShardError:
        raise
    except OSError as error:
        raise ShardError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is only as safe as its folder."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def map_bytes(path: Path, num_bytes: int) -> NDArray[np.uint8]:
    """A read-only map of a file; a file of another size is refused, for a map would kill us later.

    Raises:
        ShardError: if the file is missing, cannot be read, or is not of `num_bytes` bytes.
    """
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != num_bytes or found == 0:
                raise ShardCorruptError(
                    f"{path} has {found} bytes, but its index says {num_bytes}. "
                    f"The copy is incomplete or of another corpus: copy or convert it again."
                )
            mapped = _mapped(file.fileno(), num_bytes)
            return np.frombuffer(mapped, np.uint8)
    except ShardError:
        raise
    except OSError as error:
        kind = ShardMissingError if isinstance(error, FileNotFoundError) else ShardError
        raise kind(
            f"cannot open shard {path}: {error.strerror or error}. "
            f"Its index names it: copy it here, or convert the corpus again."
        ) from error


def _mapped(file: int, num_bytes: int) -> mmap.mmap:
    """A map that holds no file descriptor of its own, where Python can leave it out."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(file, num_bytes, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(file, num_bytes, access=mmap.ACCESS_READ)
