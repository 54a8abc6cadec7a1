"""A shard of an index, here or remote, raw or compressed -> a raw file that can be mapped."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from mixstream.corpus.cache_folder import CacheFolder
from mixstream.corpus.failures import is_disk_full
from mixstream.corpus.layout import read_layout
from mixstream.corpus.remote import Folder, RemotePath
from mixstream.corpus.shard import ShardEntry
from mixstream.corpus.storage import Storage
from mixstream.corpus.unpack import (
    check_compression,
    check_file,
    checked_raw,
    decompress,
    has_checksum,
    packed_path,
    size_of,
)
from mixstream.errors import ShardCorruptError, ShardError

__all__ = ["ShardFetches", "ShardStore"]

_LOG = logging.getLogger("mixstream")

_NAME_BYTES = 100
"""Of a folder's or shard's own name that its name in the cache keeps; a name has 255."""


@dataclass(slots=True)
class ShardFetches:
    """What a store did in this process."""

    hits: int = 0
    """Shards that were in the cache."""
    fetched: int = 0
    """Shards that were downloaded, or decompressed, into the cache."""
    fetched_bytes: int = 0
    """Of them, as they were stored."""


class ShardStore:
    """Where the shards of any corpus lie as raw files; used by threads, pickled, and after a fork.

    A raw shard of a local folder is used where it lies. A compressed one is decompressed once,
    into the cache, or beside itself without one. A remote one is fetched into the cache. What
    appears in the cache has been compared with its index: size, checksum, header.
    """

    def __init__(self, cache: CacheFolder | None = None, storage: Storage | None = None) -> None:
        self._cache, self._storage = cache, storage or Storage()
        self._reset()

    def __reduce__(self) -> tuple[object, ...]:
        return ShardStore, (self._cache, self._storage)

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._fetches = ShardFetches()

    @property
    def fetches(self) -> ShardFetches:
        """A copy of the counts so far."""
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            found = {
                field.name: getattr(self._fetches, field.name) for field in fields(ShardFetches)
            }
        return ShardFetches(**found)

    @property
    def max_downloads(self) -> int:
        """Shards that one process fetches at the same time."""
        return self._storage.settings.max_downloads

    @property
    def max_cache_bytes(self) -> int | None:
        """The budget of the cache; None for a cache without one, and without a cache."""
        return None if self._cache is None else self._cache.max_bytes

    def path(self, folder: Folder, entry: ShardEntry) -> Path:
        """Where the raw form of a shard lies, after it has been brought there if need be.

        It may be evicted at any time: who finds it gone asks again.

        Raises:
            ShardError: one of its kinds says what is wrong, with which shard.
        """
        place = self._lasting_path(folder, entry)
        if place is not None:
            return place
        target, _ = self._cached(folder, entry)
        if size_of(target) == entry.raw.num_bytes:
            self._count(hits=1)
        else:
            self._make(folder, entry, target)
        assert self._cache is not None, "_cached has made sure"
        self._cache.touch(target)
        return target

    def bring(self, shards: Sequence[tuple[Folder, ShardEntry]]) -> None:
        """Have several shards near, fetched at the same time; raises as `path` does.

        What half of the cache's budget does not hold is left for `path`, or the last would push the
        first out before they are opened.
        """
        missing = [shard for shard in shards if not self.is_near(*shard)]
        if self._cache is not None and self._cache.max_bytes is not None:
            sizes = np.cumsum([entry.raw.num_bytes for _, entry in missing])
            missing = missing[: int((sizes <= self._cache.max_bytes // 2).sum())]
        if len(missing) < 2:
            return  # `path` does as well
        threads = min(len(missing), self._storage.settings.max_downloads)
        with ThreadPoolExecutor(threads, thread_name_prefix="mixstream-bring") as pool:
            futures = [pool.submit(self.path, *shard) for shard in missing]
            try:
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def is_near(self, folder: Folder, entry: ShardEntry) -> bool:
        """Whether `path` would answer at once."""
        if self._lasting_path(folder, entry, make=False) is not None:
            return True
        if self._cache is None:
            return False
        return size_of(self._cached(folder, entry)[0]) == entry.raw.num_bytes

    def evicts(self, folder: Folder, entry: ShardEntry) -> bool:
        """Whether the raw form of a shard belongs into the cache, from which it may go."""
        return self._lasting_path(folder, entry, make=False) is None and self._cache is not None

    def expect(self, folder: Folder, entry: ShardEntry, when: float) -> None:
        """Note when a shard will be needed, in seconds since 1970; those needed last go first."""
        if self.evicts(folder, entry):
            assert self._cache is not None, "or nothing is evicted"
            self._cache.touch(self._cached(folder, entry)[0], when)

    def _lasting_path(self, folder: Folder, entry: ShardEntry, *, make: bool = True) -> Path | None:
        """The raw file in a local folder; None if the shard belongs into the cache."""
        if isinstance(folder, RemotePath):
            return None
        beside = folder / entry.raw.name
        if entry.zip is None or size_of(beside) == entry.raw.num_bytes:
            return beside
        if self._cache is None and make:
            decompress(folder, entry, beside)
            return beside
        return None

    def _cached(self, folder: Folder, entry: ShardEntry) -> tuple[Path, CacheFolder]:
        """The place of a shard in the cache: no other corpus or conversion has the same one."""
        if self._cache is None:
            raise ShardError(
                f"{folder} is remote: name a local folder for what is fetched from there, "
                f"open_corpus(..., cache='/nvme/mix', cache_bytes=...)."
            )
        where = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
        content = hashlib.blake2b(repr((entry.raw, entry.zip)).encode(), digest_size=8).hexdigest()
        name = f"{_short(folder.resolve().name)}-{where}"
        return self._cache.path / name / f"{content}.{_short(entry.raw.name)}", self._cache

    def _make(self, folder: Folder, entry: ShardEntry, target: Path) -> None:
        """Bring a shard into the cache, unless another process does so first."""
        _, cache = self._cached(folder, entry)
        num_bytes = entry.raw.num_bytes
        if isinstance(folder, RemotePath) and entry.zip is not None:
            num_bytes += entry.zip.num_bytes
        if size_of(target) not in (-1, entry.raw.num_bytes):
            target.unlink(missing_ok=True)  # not ours: what we rename is whole
        try:
            self._make_once(folder, entry, target, num_bytes)
        except ShardError as error:
            if not (is_disk_full(error) and cache.shrink(num_bytes)):
                raise
            self._make_once(folder, entry, target, num_bytes)

    def _make_once(self, folder: Folder, entry: ShardEntry, target: Path, num_bytes: int) -> None:
        _, cache = self._cached(folder, entry)
        patience = 2 * self._storage.settings.fetch_seconds(num_bytes)
        with cache.room(target, num_bytes, patience) as work:
            if size_of(target) == entry.raw.num_bytes:
                self._count(hits=1)
                return
            made = self._made(folder, entry, work)
            _sync(made)
            made.replace(target)
        self._count(fetched=1, fetched_bytes=(entry.zip or entry.raw).num_bytes)

    def _made(self, folder: Folder, entry: ShardEntry, work: Path) -> Path:
        """The raw form of a shard as a new file in `work`, found right."""
        if isinstance(folder, RemotePath):
            return self._fetched(folder, entry, work)
        packed = packed_path(folder, entry)
        made = work / "raw"
        _write(made, packed, entry)
        return made

    def _fetched(self, folder: RemotePath, entry: ShardEntry, work: Path) -> Path:
        """The raw form of a remote shard."""
        if entry.zip is None:

            def check(path: Path) -> None:
                with open(path, "rb") as file:
                    check_file(folder / entry.raw.name, file, "raw", entry.raw)
                _check_header(path, entry)

            return self._storage.fetch(
                folder / entry.raw.name, work, check, max_bytes=entry.raw.num_bytes
            )
        check_compression(folder, entry)
        made = work / "raw"

        def unpack(path: Path) -> None:
            _write(made, path, entry)
            _check_header(made, entry)

        packed = self._storage.fetch(
            folder / entry.zip.name, work, unpack, max_bytes=entry.zip.num_bytes
        )
        packed.unlink()
        return made

    def _count(self, **more: int) -> None:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            for name, number in more.items():
                setattr(self._fetches, name, getattr(self._fetches, name) + number)


def _write(target: Path, packed: Path, entry: ShardEntry) -> None:
    """Decompress into a folder of our own, from which it is renamed later."""
    with open(target, "wb") as file:
        for chunk in checked_raw(packed, entry):
            file.write(chunk)


def _check_header(path: Path, entry: ShardEntry) -> None:
    """Compare a raw shard's header with its index.

    Raises:
        ShardCorruptError: they differ, and no checksum has said that these are the right bytes.
        ShardError: they differ, and another download would bring the same bytes.
    """
    try:
        read_layout(path, entry)
    except ShardError as error:
        if has_checksum(entry.raw):
            raise
        raise ShardCorruptError(str(error)) from error


def _sync(path: Path) -> None:
    """A rename must not outlive the bytes when the power goes."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _short(name: str) -> str:
    return name.encode()[-_NAME_BYTES:].decode(errors="ignore")
