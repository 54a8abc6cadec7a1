"""A compressed shard -> its raw form in a file; any file of a shard -> compared with its index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import xxhash
import zstandard

from mixstream.corpus.remote import Folder
from mixstream.corpus.shard import FileEntry, ShardEntry, write_whole
from mixstream.errors import ShardCorruptError, ShardError, ShardMissingError

__all__ = [
    "check_compression",
    "check_file",
    "checked_raw",
    "decompress",
    "has_checksum",
    "packed_path",
    "size_of",
]

CHUNK_BYTES = 1 << 20


class Digest(Protocol):
    """A running checksum."""

    def update(self, chunk: bytes, /) -> None:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """The checksum of all bytes so far."""


def decompress(folder: Path, entry: ShardEntry, target: Path) -> None:
    """Makes the raw form of a compressed shard, checked, whatever lies there already.

    Raises:
        ShardError: the shard is missing or damaged, or there is no room or no right to write.
    """
    packed = packed_path(folder, entry)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, checked_raw(packed, entry))
    except OSError as error:
        # A damaged shard is a ShardError of its own; the rest is the disk's or the folder's.
        if isinstance(error, ShardError) and not isinstance(error.__cause__, OSError):
            raise
        raise ShardError(
            f"cannot decompress {packed} to {target} ({entry.raw.num_bytes} bytes): {error}. "
            f"Make room there, or give a folder that has it: open_corpus(..., cache=...)."
        ) from error


def packed_path(folder: Path, entry: ShardEntry) -> Path:
    """Where the compressed form of a shard lies.

    Raises:
        ShardError: it is not there, or of a compression that mixstream does not read.
    """
    assert entry.zip is not None, "a raw shard has nothing to decompress"
    check_compression(folder, entry)
    packed = folder / entry.zip.name
    if size_of(packed) < 0:
        raise ShardMissingError(
            f"neither {packed} nor {folder / entry.raw.name} is there, but the index names them. "
            f"Copy the shard here, or convert the corpus again."
        )
    return packed


def check_compression(folder: Folder, entry: ShardEntry) -> None:
    """Refuse a compression that mixstream does not read."""
    if entry.zip and (entry.compression or "").partition(":")[0] != "zstd":
        raise ShardError(
            f"{folder / entry.zip.name} is compressed with {entry.compression!r}; mixstream reads "
            f"zstd and raw shards. Decompress it to {entry.raw.name}, or convert the corpus again."
        )


def size_of(path: Path) -> int:
    """Bytes of a file; -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def checked_raw(path: Path, entry: ShardEntry) -> Iterator[bytes]:
    """The raw bytes of a compressed shard; an error comes before the end if they are not right."""
    assert entry.zip is not None, "a raw shard has nothing to decompress"
    packed, raw = entry.zip, entry.raw
    digest, num_bytes = _digest(raw), 0
    try:
        with open(path, "rb") as file:
            check_file(path, file, "compressed", packed)
            for chunk in _decompressed(file):
                num_bytes += len(chunk)
                if num_bytes > raw.num_bytes:
                    raise ShardCorruptError(
                        f"{path} decompresses to more than the {raw.num_bytes} bytes that its "
                        f"index says. It is damaged or not to be trusted: copy it again."
                    )
                if digest:
                    digest.update(chunk)
                yield chunk
    except zstandard.ZstdError as error:
        raise ShardCorruptError(f"{path} is no zstd file ({error}). Copy it again.") from error
    _check(path, "decompressed", raw, (num_bytes, digest))


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    while chunk := reader.read(CHUNK_BYTES):
        yield chunk


def check_file(path: Folder, file: BinaryIO, form: str, stated: FileEntry) -> None:
    """Compare an open file with its index, and go back to its start.

    Raises:
        ShardCorruptError: its size or checksum is another; both are named.
    """
    digest, num_bytes = _digest(stated), 0
    while chunk := file.read(CHUNK_BYTES):
        num_bytes += len(chunk)
        if digest:
            digest.update(chunk)
    _check(path, form, stated, (num_bytes, digest))
    file.seek(0)


def has_checksum(file: FileEntry) -> bool:
    """Whether the index names a checksum of the file that we can compute."""
    return _digest(file) is not None


def _digest(file: FileEntry) -> Digest | None:
    """A new checksum of the algorithm that the index names; None if it names none we know."""
    for algorithm, _ in file.hashes:
        if algorithm in xxhash.algorithms_available:
            made: Digest = getattr(xxhash, algorithm)()
            return made
        if algorithm in hashlib.algorithms_available and not algorithm.startswith("shake"):
            return hashlib.new(algorithm)
    return None


def _check(path: Folder, form: str, stated: FileEntry, found: tuple[int, Digest | None]) -> None:
    num_bytes, digest = found
    hashes = dict(stated.hashes)
    wanted = next(iter(hashes.values()), "no checksum") if digest else "no checksum"
    got = digest.hexdigest() if digest else "no checksum"
    if (num_bytes, got) != (stated.num_bytes, wanted):
        raise ShardCorruptError(
            f"{path}: its {form} bytes are {num_bytes} with checksum {got}, but its index says "
            f"{stated.num_bytes} with {wanted}. It is damaged: copy it again."
        )
