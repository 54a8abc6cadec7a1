"""One raw file -> its bytes, decompressed, and what they look like.

Memory is bounded: a chunk is at most 1 MiB, and no decompressor opens more than 32 MiB at a time
(zstd adds its window, which the file asks for: at most 2 GiB).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, cast

from mixstream.corpus.files import NOT_A_FILE, RawFile, shown
from mixstream.errors import SourceError

__all__ = ["Meter", "described", "read_bytes", "read_lines_within", "read_pieces"]

MAX_CHUNK_BYTES = 2**20
MIN_CHUNK_BYTES = 2**17


@dataclass(slots=True)
class Meter:
    """Counts the bytes of raw files that have been read."""

    num_bytes: int = 0


def read_bytes(
    path: RawFile, compression: str = "none", meter: Meter | None = None
) -> Iterator[bytes]:
    """The bytes of a file, decompressed, in chunks of 1 byte to 1 MiB.

    All members of a gzip file and all frames of a zstd file are read, skippable ones too; zero
    bytes after a gzip member are padding. A file of no bytes gives none, whatever its name. What
    stands before a damage comes out before the error does, up to a chunk.

    Raises:
        SourceError: the file cannot be read, is not compressed as `compression` says, ends in the
            middle of a member or frame, or is damaged. The place is a byte of the file itself.
    """
    if compression == "none":
        return read_pieces(path, MAX_CHUNK_BYTES, meter=meter)
    return _even(_decompressed(path, _CODECS[compression](), meter))


def read_lines_within(
    path: RawFile, start: int, end: int, meter: Meter | None = None
) -> Iterator[bytes]:
    r"""The lines that begin in a range of bytes of a raw file, whole, in chunks of up to 1 MiB.

    A line begins at byte 0 and after every "\n". So ranges that meet give every line once.

    Raises:
        SourceError: the file cannot be read.
    """
    at = max(start - 1, 0)
    is_inside = start == 0
    for piece in read_pieces(path, MAX_CHUNK_BYTES, start=at, meter=meter):
        skipped = 0 if is_inside else piece.find(b"\n") + 1
        is_inside = is_inside or skipped > 0
        if not is_inside or (skipped and at + skipped >= end):
            if at + len(piece) >= end:
                return
        else:
            stop = piece.find(b"\n", max(end - 1 - at, 0)) + 1
            yield piece[skipped : stop or None]
            if stop:
                return
        at += len(piece)


def read_pieces(
    path: RawFile, piece_bytes: int, *, start: int = 0, meter: Meter | None = None
) -> Iterator[bytes]:
    """The raw bytes of a regular file, at most `piece_bytes` at a time; or SourceError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # asked first: opening a fifo would hang
            raise SourceError(f"{shown(path)}: {NOT_A_FILE}")
        with path.open("rb", buffering=MAX_CHUNK_BYTES) as stream:
            stream.seek(start)
            while piece := stream.read(piece_bytes):
                if meter is not None:
                    meter.num_bytes += len(piece)
                yield piece
    except OSError as error:
        raise SourceError(
            f"{shown(path)}: cannot be read ({error.strerror}). Name a file that you may read."
        ) from error


def _even(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of 128 KiB to 1 MiB (the last may be shorter, none is empty)."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= MIN_CHUNK_BYTES:
            whole = b"".join(held)
            held.clear()
            yield from (whole[at : at + MAX_CHUNK_BYTES] for at in range(0, size, MAX_CHUNK_BYTES))
            del whole  # before the next chunk is made: it may be 32 MiB
            size = 0
    if size:
        yield b"".join(held)


_GZIP_MAGIC = b"\x1f\x8b"


class _Frame(Protocol):
    """One gzip member or one zstd frame while it opens: zlib and zstandard agree on these names."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, piece: bytes, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Codec:
    name: str
    part: str
    error: type[Exception]
    open_frame: Callable[[], _Frame]
    piece_bytes: int
    padding: bytes
    magic: bytes
    """What a part begins with; asked here where the library would wait for a whole header."""


def _gzip_codec() -> _Codec:
    """Intel's ISA-L opens gzip at three times the speed of zlib."""
    from isal import isal_zlib

    fault = cast(type[Exception], isal_zlib.error)  # its stub calls the class an instance

    def open_frame() -> _Frame:
        frame: _Frame = isal_zlib.decompressobj(wbits=31)  # 31: gzip header and CRC, checked
        return frame

    return _Codec("gzip", "member", fault, open_frame, 2**14, b"\0", _GZIP_MAGIC)


def _zstd_codec() -> _Codec:
    """Frame by frame with decompressobj: stream_reader ends a cut frame without an error.

    4 bytes of zstd open to at most 128 KiB, so that a piece of 1 KiB opens to at most 32 MiB.
    """
    import zstandard

    opener = zstandard.ZstdDecompressor(max_window_size=2**31)
    return _Codec("zstd", "frame", zstandard.ZstdError, opener.decompressobj, 2**10, b"", b"")


_CODECS: dict[str, Callable[[], _Codec]] = {"gzip": _gzip_codec, "zstd": _zstd_codec}


def _decompressed(path: RawFile, codec: _Codec, meter: Meter | None) -> Iterator[bytes]:
    frame: _Frame | None = None
    frame_start = offset = 0
    for piece in read_pieces(path, codec.piece_bytes, meter=meter):
        rest = piece.lstrip(codec.padding) if offset and frame is None else piece
        offset += len(piece)
        while rest:
            at = offset - len(rest)
            if frame is None:
                frame, frame_start = codec.open_frame(), at
                if not rest.startswith(codec.magic[: len(rest)]):
                    raise _damage(path, codec, "no header", frame_start, rest, at)
            try:
                opened = frame.decompress(rest)
            except codec.error as error:
                raise _damage(path, codec, error, frame_start, rest, at) from error
            rest = frame.unused_data.lstrip(codec.padding) if frame.eof else b""
            frame = None if frame.eof else frame
            yield opened
            del opened  # before the next is made: it may be 32 MiB
    if frame is not None:
        raise SourceError(
            f"{shown(path)}: cut short: it ends at byte {offset:,} in the middle of the "
            f"{codec.name} {codec.part} that begins at byte {frame_start:,}. "
            f"Fetch or write it again."
        )


def _damage(
    path: RawFile, codec: _Codec, error: object, frame_start: int, rest: bytes, at: int
) -> SourceError:
    looks = described(rest)
    if at == frame_start and looks != codec.name:
        mend = "Rename the file to what it is." if at == 0 else "Fetch or write the file again."
        return SourceError(
            f"{shown(path)}: its name says {codec.name}, but at byte {at:,} stands no {codec.name} "
            f"{codec.part}; the bytes look like {looks}. {mend}"
        )
    return SourceError(
        f"{shown(path)}: damaged {codec.name} {codec.part} at or after byte {at:,} "
        f"({error}; the {codec.part} begins at byte {frame_start:,}). Fetch or write it again."
    )


_MAGIC = {
    _GZIP_MAGIC: "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "Parquet",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe\0\0": "UTF-32 text",
    b"\0\0\xfe\xff": "UTF-32 text",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"{\0": "UTF-16 text",
    b"\0{": "UTF-16 text",
}


def described(head: bytes) -> str:
    """What the first bytes of a file look like, in words; "text" when nothing speaks against it."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5:
        return "zstd"  # a skippable frame
    if not head.strip(b"\0"):
        return "zero bytes"
    if b"\0" in head[:64] or any(byte < 9 for byte in head[:64]):
        return f"binary data ({head[:8].hex(' ')})"
    return "JSON text" if head.lstrip()[:1] in (b"{", b"[") else "text"
