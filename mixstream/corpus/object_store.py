"""A file -> an object of remote storage that is known to hold its bytes, and back.

What was stored is compared, not what was sent: an object is right when the store's own MD5 of it
is that of the file, or, where the store tells none, when it was read back and its bytes are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import xxhash

from mixstream.corpus.remote import RemotePath
from mixstream.corpus.retry import Failed, tried
from mixstream.corpus.shard import write_whole
from mixstream.corpus.storage import StorageSettings
from mixstream.corpus.store import Digests, Store
from mixstream.errors import (
    ShardCorruptError,
    ShardError,
    ShardForbiddenError,
    ShardMissingError,
    ShardUnreachableError,
)

__all__ = ["ObjectFolder", "digests_of", "file_digests", "write_error"]

T = TypeVar("T")

_LOG = logging.getLogger("mixstream")
_CHUNK_BYTES = 2**20


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

    def fetch(self, name: str, path: Path) -> bool:
        """Make a file of the object, which appears whole; False where there is none."""
        found = self._tried(name, lambda: self._store.stat(name))
        if found is None:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(self._settings.max_corrupt_downloads):
            self._tried(name, lambda: write_whole(path, map(bytes, self._store.read(name))))
            local = file_digests(path)
            if local.num_bytes == found.num_bytes and found.md5 in (None, local.md5):
                return True
        path.unlink()
        raise ShardCorruptError(
            f"{self.remote / name} does not come as it was stored, in "
            f"{self._settings.max_corrupt_downloads} attempts. Bytes change on the way: mend that, "
            f"then run the same again."
        )

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
        place = self.remote / name if name else self.remote
        return tried(call, self._settings, place, lambda failed: write_error(failed, place))


def write_error(failed: Failed, remote: RemotePath) -> ShardError:
    """The error of an object or folder that cannot be written."""
    if failed.failure == "missing":
        return ShardMissingError(
            f"{remote} cannot be written ({failed.tried}): {failed.detail}. Make the bucket or "
            f"folder first."
        )
    if failed.failure == "forbidden":
        return ShardForbiddenError(
            f"{remote} may not be written ({failed.tried}): {failed.detail}. Check the key, the "
            f"secret and their rights: to list, read, write and delete. Then run the same again."
        )
    if failed.failure == "misused":
        return ShardError(
            f"{remote} cannot be written with what is installed or set here ({failed.tried}): "
            f"{failed.detail}. Mend that, then run the same again."
        )
    return ShardUnreachableError(
        f"{remote} could not be written in {failed.tried} over {failed.seconds:.1f} s; the last "
        f"one failed with {failed.detail}. What was uploaded is kept: check endpoint and network, "
        f"then run the same again."
    )
