"""A file -> an object of remote storage that is known to hold its bytes, and back.

What was stored is compared, not what was sent: an object is right when the store's own MD5 of it
is that of the file, or, where the store tells none, when it was read back and its bytes are.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import xxhash

from mixstream.corpus.failures import Failure, failure_of, failure_text
from mixstream.corpus.remote import RemotePath
from mixstream.corpus.storage import StorageSettings
from mixstream.errors import (
    ShardCorruptError,
    ShardError,
    ShardForbiddenError,
    ShardMissingError,
    ShardUnreachableError,
)

__all__ = ["Digests", "Found", "ObjectFolder", "Store", "digests_of"]

T = TypeVar("T")

_LOG = logging.getLogger("mixstream")
_MIN_ATTEMPTS = 3
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Digests:
    """What tells the bytes of a file from others."""

    num_bytes: int
    md5: str
    """Hex digits, as all others: what stores compute by themselves."""
    sha256: str
    """What S3 compares with the bytes that reach it."""
    xxh3: str
    """xxh3_64, as the index of a domain names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An object as its store knows it."""

    num_bytes: int
    md5: str | None
    """Of its bytes, as the store found them; None where it does not say."""


class Store(Protocol):
    """What a kind of storage must do; names are relative to one folder. Errors are its SDK's."""

    def stat(self, name: str) -> Found | None:
        """The object, or None where there is none."""

    def send(self, name: str, path: Path, digests: Digests) -> None:
        """Make a whole object of a file; a store that checks digests itself is given them."""

    def copy(self, source: str, target: str) -> None:
        """Make a whole object of another one, within the store."""

    def read(self, name: str) -> Iterator[bytes]:
        """The object's bytes."""

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all objects that begin so."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects; those that are not there are passed over."""


def digests_of(chunks: Iterable[bytes]) -> Digests:
    """The digests of some bytes."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    xxh3, num_bytes = xxhash.xxh3_64(), 0
    for chunk in chunks:
        num_bytes += len(chunk)
        for each in (md5, sha256, xxh3):
            each.update(chunk)
    return Digests(
        num_bytes=num_bytes,
        md5=md5.hexdigest(),
        sha256=sha256.hexdigest(),
        xxh3=xxh3.hexdigest(),
    )


def file_digests(path: Path) -> Digests:
    """The digests of a file; or ShardError."""
    try:
        with path.open("rb") as file:
            return digests_of(iter(lambda: file.read(_CHUNK_BYTES), b""))
    except OSError as error:
        raise ShardError(f"cannot read {path}: {error.strerror}. Run the same again.") from error


class ObjectFolder:
    """A folder of a store: every call is tried again for a while, every object is verified.

    Args:
        remote: the folder.
        store: what talks to it; may be used by many threads.
        settings: how long the store is waited for.
    """

    def __init__(self, remote: RemotePath, store: Store, settings: StorageSettings) -> None:
        self.remote, self._store, self._settings = remote, store, settings

    def put(self, name: str, path: Path, xxh3: str | None = None) -> None:
        """Make the file an object, or find that it is one already; then it is not sent again.

        Raises:
            ShardCorruptError: the file is not what its xxh3_64 says, or what was stored is not
                what was sent, in max_corrupt_downloads attempts; then it is removed.
            ShardError: the object cannot be written; its class says why.
        """
        local = file_digests(path)
        if xxh3 not in (None, local.xxh3):
            raise ShardCorruptError(
                f"{path} has xxh3_64 {local.xxh3}, but was written with {xxh3}: the disk or the "
                f"memory of this machine changes bytes. Run the same again, on another one."
            )
        self._make(
            name,
            lambda: self._store.send(name, path, local),
            lambda: self._holds(name, local.num_bytes, md5=local.md5, xxh3=local.xxh3),
        )

    def copy(self, source: str, target: str, *, num_bytes: int, xxh3: str) -> None:
        """Make a verified object appear under another name too; raises what `put` does."""
        found = self._tried(source, lambda: self._store.stat(source))
        if found is None and self._holds(target, num_bytes, md5=None, xxh3=xxh3):
            return  # an earlier run was here
        if found is None:
            raise ShardMissingError(
                f"{self.remote / source} is not there any more: somebody else removed it. Empty "
                f"{self.remote} and convert again."
            )
        self._make(
            target,
            lambda: self._store.copy(source, target),
            lambda: self._holds(target, num_bytes, md5=found.md5, xxh3=xxh3),
        )

    def read(self, name: str) -> bytes | None:
        """All bytes of a small object; None where there is none."""
        if self._tried(name, lambda: self._store.stat(name)) is None:
            return None
        return self._tried(name, lambda: b"".join(self._store.read(name)))

    def names(self, prefix: str = "") -> list[str]:
        """The sorted names of all objects that begin so."""
        return self._tried(prefix, lambda: sorted(self._store.names(prefix)))

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        if names:
            self._tried(names[0], lambda: self._store.remove(names))

    def _make(self, name: str, make: Callable[[], None], is_right: Callable[[], bool]) -> None:
        """Make an object until it is right; it may be at once."""
        if is_right():
            return
        for _ in range(self._settings.max_corrupt_downloads):
            self._tried(name, make)
            if is_right():
                return
            _LOG.warning("%s: what was stored is not what was sent; again", self.remote / name)
        self.remove([name])
        raise ShardCorruptError(
            f"{self.remote / name} did not come to hold what was sent, in "
            f"{self._settings.max_corrupt_downloads} attempts; it was removed. Bytes change on the "
            f"way or in the store: mend that, then run the same again."
        )

    def _holds(self, name: str, num_bytes: int, *, md5: str | None, xxh3: str) -> bool:
        """Whether the object is there and has these bytes, by the store's MD5 or by reading it."""
        found = self._tried(name, lambda: self._store.stat(name))
        if found is None or found.num_bytes != num_bytes:
            return False
        if md5 is not None and found.md5 == md5:
            return True
        return self._tried(name, lambda: digests_of(self._store.read(name))).xxh3 == xxh3

    def _tried(self, name: str, call: Callable[[], T]) -> T:
        """What a call gives, tried for retry_seconds and three times at least."""
        started, attempts = time.monotonic(), 0
        while True:
            attempts += 1
            try:
                return call()
            except Exception as error:  # an SDK's own: sorted here, and raised
                seconds = time.monotonic() - started
                failure: Failure = "unreachable" if _is_passing(error) else failure_of(error)
                is_over = seconds >= self._settings.retry_seconds and attempts >= _MIN_ATTEMPTS
                if failure != "unreachable" or is_over:
                    place = self.remote / name if name else self.remote
                    raise _write_error(failure, place, error, (attempts, seconds)) from error
                mean = self._settings.first_wait_seconds * 2.0 ** min(attempts - 1, 30)
                pause = min(mean, self._settings.max_wait_seconds) * random.uniform(0.5, 1.5)
                _LOG.warning(
                    "%s: attempt %d failed (%s); again in %.1f s",
                    self.remote / name,
                    attempts,
                    failure_text(error),
                    pause,
                )
            time.sleep(pause)


_PASSING = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}
"""What S3 answers with status 400 where the bytes were spoiled or lost on the way."""


def _is_passing(error: BaseException) -> bool:
    response = getattr(error, "response", None)
    said = response.get("Error", {}) if isinstance(response, Mapping) else {}
    return said.get("Code") in _PASSING


def _write_error(
    failure: Failure, remote: RemotePath, error: BaseException, spent: tuple[int, float]
) -> ShardError:
    attempts, seconds = spent
    detail = failure_text(error)
    tried = f"{attempts} attempt{'s' if attempts > 1 else ''}"
    if failure == "missing":
        return ShardMissingError(
            f"{remote} cannot be written ({tried}): {detail}. Make the bucket or folder first."
        )
    if failure == "forbidden":
        return ShardForbiddenError(
            f"{remote} may not be written ({tried}): {detail}. Check the key, the secret and their "
            f"rights: to list, read, write and delete. Then run the same again."
        )
    if failure == "misused":
        return ShardError(
            f"{remote} cannot be written with what is installed or set here ({tried}): {detail}. "
            f"Mend that, then run the same again."
        )
    return ShardUnreachableError(
        f"{remote} could not be written in {tried} over {seconds:.1f} s; the last one failed with "
        f"{detail}. What was uploaded is kept: check endpoint and network, then run the same again."
    )
