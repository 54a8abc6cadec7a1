"""A shard as its folder holds it, raw or compressed -> a raw file that can be mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import xxhash
import zstandard

from mixstream.corpus.shard import FileEntry, ShardEntry, write_whole
from mixstream.errors import ShardError

__all__ = ["check_file", "decompress", "raw_shard_path"]

CHUNK_BYTES = 1 << 20


class Digest(Protocol):
    """A running checksum."""

    def update(self, chunk: bytes, /) -> None:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """The checksum of all bytes so far."""


def raw_shard_path(folder: Path, entry: ShardEntry, cache: Path | None = None) -> Path:
    """Where the raw form of a shard lies, after decompressing it if need be.

    A raw shard is used where it lies. A compressed one is decompressed once, beside itself or
    under `cache`, to a file that is checked before it appears. Processes that race for one shard
    each make the same file.

    Args:
        folder: the domain's folder.
        entry: what its index says of the shard.
        cache: a folder for raw shards; it may serve many corpora.

    Raises:
        ShardError: if the shard is missing or damaged, or there is no room or no right to write.
    """
    beside = folder / entry.raw.name
    if entry.zip is None or _size(beside) == entry.raw.num_bytes:
        return beside
    target = beside if cache is None else cache / _cache_name(folder, entry)
    if _size(target) == entry.raw.num_bytes:
        return target
    decompress(folder, entry, target)
    return target


def decompress(folder: Path, entry: ShardEntry, target: Path) -> None:
    """Makes the raw form of a compressed shard, checked, whatever lies there already.

    Raises:
        ShardError: the shard is missing or damaged, or there is no room or no right to write.
    """
    assert entry.zip is not None, "a raw shard has nothing to decompress"
    beside = folder / entry.raw.name
    if entry.compression is None or entry.compression.partition(":")[0] != "zstd":
        raise ShardError(
            f"{folder / entry.zip.name} is compressed with {entry.compression!r}; mixstream reads "
            f"zstd and raw shards. Decompress it to {entry.raw.name}, or convert the corpus again."
        )
    packed = folder / entry.zip.name
    if _size(packed) < 0:
        raise ShardError(
            f"neither {packed} nor {beside} is there, but the index names them. "
            f"Copy the shard here, or convert the corpus again."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, _checked_chunks(packed, entry.zip, entry.raw))
    except OSError as error:
        # A damaged shard is a ShardError of its own; the rest is the disk's or the folder's.
        if isinstance(error, ShardError) and not isinstance(error.__cause__, OSError):
            raise
        raise ShardError(
            f"cannot decompress {packed} to {target} ({entry.raw.num_bytes} bytes): {error}. "
            f"Make room there, or give a folder that has it: open_corpus(..., cache=...)."
        ) from error


def _size(path: Path) -> int:
    """Bytes of a file; -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _cache_name(folder: Path, entry: ShardEntry) -> Path:
    """A name under a cache that no other corpus, and no other conversion to this folder, has."""
    where = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    content = hashlib.blake2b(repr((entry.raw, entry.zip)).encode(), digest_size=8).hexdigest()
    return Path(f"{folder.resolve().name}-{where}") / f"{content}.{entry.raw.name}"


def _checked_chunks(path: Path, packed: FileEntry, raw: FileEntry) -> Iterator[bytes]:
    """The raw bytes of a compressed shard; an error comes before the end if they are not right."""
    digest, num_bytes = _digest(raw), 0
    try:
        with open(path, "rb") as file:
            check_file(path, file, "compressed", packed)
            for chunk in _decompressed(file):
                num_bytes += len(chunk)
                if num_bytes > raw.num_bytes:
                    raise ShardError(
                        f"{path} decompresses to more than the {raw.num_bytes} bytes that its "
                        f"index says. It is damaged or not to be trusted: copy it again."
                    )
                if digest:
                    digest.update(chunk)
                yield chunk
    except zstandard.ZstdError as error:
        raise ShardError(f"{path} is no zstd file ({error}). Copy it again.") from error
    _check(path, "decompressed", raw, (num_bytes, digest))


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    while chunk := reader.read(CHUNK_BYTES):
        yield chunk


def check_file(path: Path, file: BinaryIO, form: str, stated: FileEntry) -> None:
    """Compare an open file with its index, and go back to its start.

    Raises:
        ShardError: its size or checksum is another; both are named.
    """
    digest, num_bytes = _digest(stated), 0
    while chunk := file.read(CHUNK_BYTES):
        num_bytes += len(chunk)
        if digest:
            digest.update(chunk)
    _check(path, form, stated, (num_bytes, digest))
    file.seek(0)


def _digest(file: FileEntry) -> Digest | None:
    """A new checksum of the algorithm that the index names; None if it names none we know."""
    for algorithm, _ in file.hashes:
        if algorithm in xxhash.algorithms_available:
            made: Digest = getattr(xxhash, algorithm)()
            return made
        if algorithm in hashlib.algorithms_available and not algorithm.startswith("shake"):
            return hashlib.new(algorithm)
    return None


def _check(path: Path, form: str, stated: FileEntry, found: tuple[int, Digest | None]) -> None:
    num_bytes, digest = found
    hashes = dict(stated.hashes)
    wanted = next(iter(hashes.values()), "no checksum") if digest else "no checksum"
    got = digest.hexdigest() if digest else "no checksum"
    if (num_bytes, got) != (stated.num_bytes, wanted):
        raise ShardError(
            f"{path}: its {form} bytes are {num_bytes} with checksum {got}, but its index says "
            f"{stated.num_bytes} with {wanted}. It is damaged: copy it again."
        )
