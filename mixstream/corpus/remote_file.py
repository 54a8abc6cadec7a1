"""A raw file of remote storage -> a binary stream over its bytes, read block by block.

It stands where a Path stands in the files of a domain: it has a name, a size, a time of change, and
it opens. Nothing is put on this machine's disk. A block is asked for under the version that was
listed, tried again for a while, and given up when it comes too slowly; while one is in use, the
next is on its way. A file that is read from end to end is compared with the digest that its store
tells, where it tells one.
"""

from __future__ import annotations

import hashlib
import io
import logging
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from mixstream.corpus.remote import RemotePath
from mixstream.corpus.retry import Failed, tried
from mixstream.corpus.storage import StorageSettings
from mixstream.corpus.store import ChangedError
from mixstream.corpus.stores import source_store
from mixstream.errors import SourceError

__all__ = ["RemoteFile", "RemoteStatus"]

T = TypeVar("T")

_LOG = logging.getLogger("mixstream")

_FIRST_BYTES = 2**18
"""Of the first block: many files are looked into and no more."""
_BLOCK_BYTES = 2**22
"""Of the others: at 80 MB/s a request's delay of 30 ms costs a third, which the next one covers."""
_KEPT_BLOCKS = 2
"""Parquet's columns and footer are read in turns."""
_WITHOUT_DIGESTS: set[str] = set()
"""Servers and buckets whose objects came the same twice, and not as they tell: asked once."""


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What is asked of os.stat_result."""

    st_size: int
    st_mtime_ns: int
    st_mode: int = stat.S_IFREG | 0o444


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object that is a raw file, as it was when it was listed; may be pickled."""

    remote: RemotePath
    """The object."""
    num_bytes: int
    mtime_ns: int
    """0 where the store does not say."""
    version: str
    """See store.Listed."""
    content: str | None
    """See store.Listed."""

    def __str__(self) -> str:
        """Its URL as it may be shown."""
        return str(self.remote)

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.remote.name

    def stat(self) -> RemoteStatus:
        """Its size and time of change when it was listed."""
        return RemoteStatus(self.num_bytes, self.mtime_ns)

    def absolute(self) -> RemoteFile:
        """Itself."""
        return self

    def open(self, mode: str = "rb", buffering: int = -1) -> io.BufferedReader:
        """A seekable stream over its bytes, which raises SourceError; for one thread."""
        assert mode == "rb", "raw files are read"
        size = buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE
        return io.BufferedReader(_RemoteStream(self, StorageSettings()), size)


class _RemoteStream(io.RawIOBase):
    """The bytes of an object by ranges; holds two blocks, and one that is on its way."""

    def __init__(self, file: RemoteFile, settings: StorageSettings) -> None:
        self._file, self._settings = file, settings
        self._at = 0
        self._blocks: dict[int, bytes] = {}
        self._coming: tuple[int, Future[bytes]] | None = None
        kind, _, self._told = (file.content or "").partition(":")
        is_known = kind in ("md5", "sha256")
        self._digest = hashlib.new(kind, usedforsecurity=False) if is_known else None
        self._num_hashed = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.num_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """The bytes up to the end of a block, or of the buffer."""
        if self._at >= self._file.num_bytes:
            return 0
        number = _block_at(self._at)
        begin = self._at - _block_start(number)
        piece = memoryview(self._block(number))[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            return self._blocks[number]
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] == number:
            found = coming[1].result()
        else:
            found = self._fetch(number)
        is_next = number - 1 in self._blocks
        while len(self._blocks) >= _KEPT_BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        found = self._checked(number, found)
        self._blocks[number] = found
        if is_next and _block_start(number + 1) < self._file.num_bytes:
            self._coming = number + 1, _in_thread(lambda: self._fetch(number + 1))
        return found

    def _checked(self, number: int, found: bytes) -> bytes:
        """The block; at the end of a file read in order, after its digest is compared."""
        if self._digest is None or number != self._num_hashed:
            return found
        self._digest.update(found)
        self._num_hashed += 1
        is_last = _block_start(number + 1) >= self._file.num_bytes
        digest, server = self._digest.hexdigest(), self._file.remote.server
        if not is_last or digest == self._told or server in _WITHOUT_DIGESTS:
            return found
        _LOG.warning("%s: what came has not the digest its store tells; again", self._file)
        again = hashlib.new(self._digest.name, usedforsecurity=False)
        for each in range(number + 1):
            found = self._fetch(each)
            again.update(found)
        if again.hexdigest() == digest:  # it is no digest of the bytes, as of an encrypted object
            _WITHOUT_DIGESTS.add(server)
        elif number or again.hexdigest() != self._told:  # but the first of one block may be mended
            raise SourceError(
                f"{self._file}: its bytes changed on the way here: two readings gave two files. "
                f"Mend network or memory, then run the same again."
            )
        return found

    def _fetch(self, number: int) -> bytes:
        """A block, tried again for a while; or SourceError."""
        start = _block_start(number)
        end = min(_block_start(number + 1), self._file.num_bytes)
        remote, settings = self._file.remote, self._settings
        name = remote.url[len(remote.server) + 1 :]

        def read() -> bytes | None:
            store = source_store(remote.server, settings.timeout_seconds / 2)
            try:
                found = store.read_range(name, start, end, self._file.version)
            except ChangedError:
                return None
            if len(found) != end - start:
                raise ConnectionError(f"{len(found)} of {end - start} bytes came")
            return found

        limit = settings.attempt_seconds(end - start)
        content = tried(lambda: _in_thread(read).result(limit), settings, remote, self._final)
        if content is None:
            raise SourceError(
                f"{self._file} is no more what it was when this conversion listed it: it was "
                f"changed or removed. Run the same again once it is at rest."
            )
        return content

    def _final(self, failed: Failed) -> SourceError:
        mends = {
            "missing": "It was there when it was listed: put it back, or run the same again.",
            "forbidden": "Check the key, the secret and their rights: to list and to read.",
            "misused": "Mend what is installed or set here.",
            "unreachable": "What is finished is kept: check endpoint and network, then run the "
            "same again.",
        }
        return SourceError(
            f"{self._file}: cannot be read ({failed.failure}; {failed.tried} over "
            f"{failed.seconds:.1f} s; the last: {failed.detail}). {mends[failed.failure]}"
        )


def _block_at(place: int) -> int:
    return 0 if place < _FIRST_BYTES else 1 + (place - _FIRST_BYTES) // _BLOCK_BYTES


def _block_start(number: int) -> int:
    return 0 if number == 0 else _FIRST_BYTES + (number - 1) * _BLOCK_BYTES


def _in_thread(call: Callable[[], T]) -> Future[T]:
    """What a call gives, by a thread that keeps no process from ending."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:  # noqa: BLE001 (whoever asks for the result gets it)
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True, name="mixstream-read").start()
    return outcome
