"""A folder that many processes fill -> room in it for one more file, within a budget of bytes.

There is no server and no shared memory: what processes must agree on stands in the folder.

- `NAME-0123456789abcdef/0123456789abcdef.NAME` are the files; nothing else there is counted or
  removed. Each came by rename, whole. Its time of change says when it is needed: in the past, when
  it was opened last; in the future, when it is expected to be opened.
- `.FILE.lock` is there, and locked, while a process makes FILE; it holds the bytes that it may
  take. `.FILE.tmp` is a folder of that process. Without a living holder both are swept.
- `.usage` holds the sum of files and promises. It is changed under its own lock, before a file
  grows and after it shrinks, so after a kill it says too much, never too little; and when it says
  that there is no room, the folder is counted anew.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from mixstream.corpus.locks import held_lock, lasting_lock, try_lock, unlock
from mixstream.corpus.unpack import size_of
from mixstream.errors import ShardError, ShardUnreachableError

__all__ = ["CacheFolder", "OnFullDisk"]

_LOG = logging.getLogger("mixstream")

OnFullDisk: TypeAlias = Literal["raise", "shrink"]

_FOLDER = re.compile(r".*-[0-9a-f]{16}")
_FILE = re.compile(r"[0-9a-f]{16}\..+")
_LEDGER_TIMEOUT_SECONDS = 60.0
_SPARE_SHARE = 0.05
"""An eviction frees so much of the cache more than it must: it has looked at every file."""
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.01, 0.25


@dataclass(slots=True)
class _Content:
    """What is in the folder by a fresh count."""

    num_bytes: int = 0
    """Of files and promises."""
    files: list[tuple[float, int, Path]] = field(default_factory=list)
    """(seconds from now to its need, either way; bytes; path)."""


class CacheFolder:
    """A cache on disk; may be shared by processes, pickled, and used after a fork.

    Args:
        path: of the folder; made on first use.
        max_bytes: the budget; None for all that the disk has. Where processes have different
            ones, the smallest rules.
        on_full_disk: where the disk ends before the budget does, "raise" an error, or "shrink" the
            cache to what there is.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int | None = None,
        on_full_disk: OnFullDisk = "raise",
    ) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"cache_bytes is {max_bytes}; give at least the bytes of one shard.")
        if on_full_disk not in ("raise", "shrink"):
            raise ValueError(f"on_full_disk is {on_full_disk!r}; choose 'raise' or 'shrink'.")
        self.path, self.max_bytes, self._on_full_disk = path, max_bytes, on_full_disk
        self._is_swept = False

    @contextmanager
    def room(self, target: Path, num_bytes: int, wait_seconds: float) -> Iterator[Path]:
        """Be the one process that makes `target`, with `num_bytes` to do it in.

        Another one may have made it while this one waited: look before you fetch.

        Args:
            target: a file of this cache.
            num_bytes: that it takes while it is made, at most.
            wait_seconds: how long to wait for another maker of it, and then for room.

        Yields:
            An empty folder for whatever comes before the rename; it is removed at the end.

        Raises:
            ShardError: the budget is too small for it, or the disk is full.
            ShardUnreachableError: others held the file or the room for longer than the limit.
        """
        try:
            if not self._is_swept:
                self.sweep()
            target.parent.mkdir(parents=True, exist_ok=True)
            with held_lock(_lock_path(target), wait_seconds) as lock:
                work = _work_path(target)
                shutil.rmtree(work, ignore_errors=True)  # of a killed process
                if size_of(target) < 0:
                    self._promise(lock, target, num_bytes, wait_seconds)
                try:
                    work.mkdir()
                    yield work
                finally:
                    shutil.rmtree(work, ignore_errors=True)
                    self._settle(lock, target)
        except OSError as error:
            if isinstance(error, ShardError):
                raise
            raise self._disk_error(target, num_bytes, error) from error

    def touch(self, path: Path, when: float | None = None) -> None:
        """Note when a file is needed, in seconds since 1970: now, or then."""
        with suppress(OSError):  # gone, or somebody else's: it is only a hint
            now = time.time()
            os.utime(path, (now, now if when is None else when))

    def sweep(self) -> int:
        """Remove what killed processes left; returns the bytes of all files and promises."""
        self.path.mkdir(parents=True, exist_ok=True)
        with lasting_lock(self._usage_path, _LEDGER_TIMEOUT_SECONDS) as ledger:
            content = self._counted()
            _write_number(ledger, content.num_bytes)
        self._is_swept = True
        return content.num_bytes

    def shrink(self, num_bytes: int) -> bool:
        """Remove files of so many bytes, for a full disk; False where an error is asked for."""
        if self._on_full_disk == "raise":
            return False
        _LOG.warning("the disk of %s is full; the cache gets smaller", self.path)
        with lasting_lock(self._usage_path, _LEDGER_TIMEOUT_SECONDS) as ledger:
            content = self._counted()
            _evict(content, num_bytes)
            _write_number(ledger, content.num_bytes)
        return True

    @property
    def _usage_path(self) -> Path:
        return self.path / ".usage"

    def _promise(self, lock: int, target: Path, num_bytes: int, wait_seconds: float) -> None:
        """Set bytes aside for a file, evicting others if need be."""
        if self.max_bytes is not None and num_bytes > self.max_bytes:
            raise ShardError(
                f"{target} takes {num_bytes} bytes while it is made, but cache_bytes is "
                f"{self.max_bytes}. Give the cache at least several shards' bytes."
            )
        deadline = time.monotonic() + wait_seconds
        pause = _FIRST_POLL_SECONDS
        while not self._promised(lock, num_bytes):
            if time.monotonic() > deadline:
                raise ShardUnreachableError(
                    f"{self.path} had no room for {num_bytes} bytes in {wait_seconds:.0f} s: "
                    f"other downloads hold its {self.max_bytes} bytes. Raise cache_bytes, or let "
                    f"fewer processes share the folder."
                )
            time.sleep(pause)
            pause = min(2 * pause, _LAST_POLL_SECONDS)

    def _promised(self, lock: int, num_bytes: int) -> bool:
        """Try to set bytes aside; False while the promises of others take what there is."""
        with lasting_lock(self._usage_path, _LEDGER_TIMEOUT_SECONDS) as ledger:
            used = _read_number(ledger)
            if used < 0 or self._excess(used, num_bytes) > 0:
                content = self._counted()
                excess = self._excess(content.num_bytes, num_bytes)
                if excess > 0:
                    _evict(content, excess, int(_SPARE_SHARE * content.num_bytes))
                used = content.num_bytes
                _write_number(ledger, used)
            if self.max_bytes is not None and used + num_bytes > self.max_bytes:
                return False
            if shutil.disk_usage(self.path).free < num_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _write_number(ledger, used + num_bytes)
            _write_number(lock, num_bytes)
        return True

    def _excess(self, used: int, num_bytes: int) -> int:
        """Bytes that must go before so many more can come; negative if there is room."""
        excess = -1 if self.max_bytes is None else used + num_bytes - self.max_bytes
        if self._on_full_disk == "shrink":
            excess = max(excess, num_bytes - shutil.disk_usage(self.path).free)
        return excess

    def _settle(self, lock: int, target: Path) -> None:
        """Take back the promise, and count the file if there is one."""
        promised = max(_read_number(lock), 0)
        if promised == 0:
            return
        with lasting_lock(self._usage_path, _LEDGER_TIMEOUT_SECONDS) as ledger:
            used = _read_number(ledger)
            if used >= 0:
                _write_number(ledger, max(used - promised, 0) + max(size_of(target), 0))
            _write_number(lock, 0)

    def _counted(self) -> _Content:
        """All files and all promises of the living; what the dead left is removed."""
        content, now = _Content(), time.time()
        for folder in (each for each in os.scandir(self.path) if _FOLDER.fullmatch(each.name)):
            targets = set()
            for entry in os.scandir(folder.path):
                name = entry.name
                if name.startswith(".") and name.endswith((".lock", ".tmp")):
                    targets.add(Path(folder.path) / name[1:].rpartition(".")[0])
                elif _FILE.fullmatch(name):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        need = abs(status.st_mtime - now)
                        content.files.append((need, status.st_size, Path(entry.path)))
                        content.num_bytes += status.st_size
            content.num_bytes += sum(map(_promise_of, targets))
        return content

    def _disk_error(self, target: Path, num_bytes: int, error: OSError) -> ShardError:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return ShardError(
                f"cannot write {target}: {error.strerror or error}. Give a folder that can be "
                f"written: open_corpus(..., cache=...)."
            )
        budget = "no limit" if self.max_bytes is None else f"{self.max_bytes} bytes"
        return ShardError(
            f"the disk of {self.path} is full: {target.name} takes {num_bytes} bytes, "
            f"{shutil.disk_usage(self.path).free} are free, the cache holds "
            f"{self._counted().num_bytes} and its budget is {budget}. Free some, lower "
            f"cache_bytes, or let the cache be as small as the disk demands: "
            f"open_corpus(..., on_full_disk='shrink')."
        )


def _evict(content: _Content, num_bytes: int, spare_bytes: int = 0) -> None:
    """Remove the files that are needed last: so many bytes of them, and no more than some to spare.

    A file that was opened long ago is taken to be needed again in as long a time, as LRU does; one
    that is expected, when it is expected. Who has it mapped goes on reading it.
    """
    for _, size, path in sorted(content.files, reverse=True):
        if num_bytes <= 0 and num_bytes + spare_bytes < size:
            return
        path.unlink(missing_ok=True)
        num_bytes -= size
        content.num_bytes -= size


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _work_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.tmp")


def _promise_of(target: Path) -> int:
    """Bytes that a living process may take for a file; what a dead one left is removed."""
    lock = _lock_path(target)
    number = try_lock(lock)
    if number is None:
        with suppress(FileNotFoundError, ValueError):
            return int(lock.read_text() or 0)
        return 0
    shutil.rmtree(_work_path(target), ignore_errors=True)
    lock.unlink(missing_ok=True)
    unlock(number)
    return 0


def _read_number(number: int) -> int:
    """The number in an open file; -1 if there is none."""
    text = os.pread(number, 32, 0).strip()
    return int(text) if text.isdigit() else -1


def _write_number(number: int, value: int) -> None:
    os.pwrite(number, str(value).encode().ljust(20), 0)
