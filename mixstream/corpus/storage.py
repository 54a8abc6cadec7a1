"""A remote path -> a local file, through mosaicml-streaming's downloaders: tried, limited, checked.

The one file that imports `streaming`, on the first remote use (it takes 3 to 4 s). A downloader is
asked for a whole object. What it may not do is hang, fail without a reason or fill the disk: an
attempt runs in a thread of its own, and is given up when it takes too long or gets too large.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from mixstream.corpus.failures import failure_of, failure_text, is_disk_full, storage_error
from mixstream.corpus.remote import RemotePath
from mixstream.errors import ShardCorruptError

__all__ = ["Storage", "StorageSettings"]

T = TypeVar("T")

_LOG = logging.getLogger("mixstream")

_MIN_ATTEMPTS = 3
"""So that one attempt that hangs for all of retry_seconds is not the last."""

_POLL_SECONDS = 0.1
"""How often an unfinished download is looked at for its size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageSettings:
    """How long remote storage is waited for."""

    timeout_seconds: float = 60.0
    """How long an attempt may take that brings nothing."""
    min_bytes_per_second: float = 2.0**18
    """What an attempt must bring: it is given up after timeout_seconds, and the time that the bytes
    which have come take at this rate. Slower storage is treated as unreachable."""
    retry_seconds: float = 60.0
    """How long an unreachable object is tried again, and three times at least."""
    max_corrupt_downloads: int = 3
    """How often an object is fetched whose bytes are not what its index says."""
    first_wait_seconds: float = 0.5
    """Wait after the first failure, on average; twice as long after each further one."""
    max_wait_seconds: float = 15.0
    """The longest wait, on average."""
    max_downloads: int = 8
    """Objects that one process fetches at the same time."""

    def __post_init__(self) -> None:
        seconds = (self.timeout_seconds, self.min_bytes_per_second, self.first_wait_seconds)
        counts = (self.max_corrupt_downloads, self.max_downloads)
        if min(*seconds, self.max_wait_seconds) <= 0 or self.retry_seconds < 0 or min(counts) < 1:
            raise ValueError(
                f"{self} would never fetch anything; give times and rates above 0 (retry_seconds: "
                f"at least 0) and counts of at least 1."
            )

    def attempt_seconds(self, num_bytes: int) -> float:
        """How long one attempt may take that has brought so many bytes."""
        return self.timeout_seconds + num_bytes / self.min_bytes_per_second

    def fetch_seconds(self, num_bytes: int) -> float:
        """How long all attempts together may take, at most."""
        attempts = _MIN_ATTEMPTS + self.max_corrupt_downloads
        attempt = self.attempt_seconds(num_bytes)
        return self.retry_seconds + attempts * (attempt + self.max_wait_seconds)


class Downloader(Protocol):
    """What is used of streaming's CloudDownloader."""

    def download(self, remote: str, local: str, timeout: float, /) -> None:
        """Fetch one object to a file that is not there yet."""


class _FileDownloader:
    """Copies from a folder that is mounted; needs no SDK."""

    def download(self, remote: str, local: str, timeout: float, /) -> None:  # noqa: ARG002
        shutil.copyfile(remote.partition("://")[2], local)


class Storage:
    """Fetches objects; may be used by many threads, pickled, and used after a fork."""

    def __init__(self, settings: StorageSettings | None = None) -> None:
        self.settings = settings or StorageSettings()
        self._reset()

    def __reduce__(self) -> tuple[object, ...]:
        return Storage, (self.settings,)

    def _reset(self) -> None:
        """Start without connections: a forked child must not speak on its parent's."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._idle: dict[str, list[Downloader]] = {}

    def fetch(
        self,
        remote: RemotePath,
        folder: Path,
        check: Callable[[Path], None],
        *,
        max_bytes: int,
    ) -> Path:
        """The object as a file in `folder`, a private one, after `check` has found it right.

        Args:
            remote: the object.
            folder: of nobody else's; each attempt gets a folder in it, which one that was given
                up may write to no longer.
            check: raises ShardCorruptError for bytes that are not what they should be.
            max_bytes: how large the object may be.

        Raises:
            ShardMissingError, ShardForbiddenError: at once.
            ShardCorruptError: after max_corrupt_downloads.
            ShardUnreachableError: after retry_seconds.
            OSError: no room in `folder`, as the system says it.
        """
        started, attempts, corrupt = time.monotonic(), 0, 0
        while True:
            attempts += 1
            target = folder / secrets.token_hex(4) / remote.name
            target.parent.mkdir(parents=True)
            failed = self._attempt(remote, target, max_bytes)
            if failed is None:
                try:
                    check(target)
                except ShardCorruptError as error:
                    failed = error
                else:
                    return target
            corrupt += isinstance(failed, ShardCorruptError)
            shutil.rmtree(target.parent, ignore_errors=True)
            seconds = time.monotonic() - started
            self._raise_if_final(remote, failed, (attempts, corrupt, seconds))
            pause = 0.0 if isinstance(failed, ShardCorruptError) else self._pause(attempts)
            _LOG.warning(
                "%s: attempt %d failed (%s); again in %.1f s",
                remote,
                attempts,
                failure_text(failed),
                pause,
            )
            time.sleep(pause)

    def _pause(self, attempts: int) -> float:
        """Seconds to wait after so many attempts: doubling, and random by half to either side."""
        settings = self.settings
        mean = min(
            settings.first_wait_seconds * 2.0 ** min(attempts - 1, 30), settings.max_wait_seconds
        )
        return mean * random.uniform(0.5, 1.5)

    def _raise_if_final(
        self, remote: RemotePath, failed: BaseException, spent: tuple[int, int, float]
    ) -> None:
        """Raise what ends the attempts; return to try again."""
        attempts, corrupt, seconds = spent
        if isinstance(failed, ShardCorruptError):
            if corrupt >= self.settings.max_corrupt_downloads:
                raise ShardCorruptError(
                    f"{remote} is damaged in storage: of {attempts} attempts {corrupt} brought "
                    f"wrong bytes. Upload it again, or convert the corpus again. The last: {failed}"
                ) from failed
            return
        if is_disk_full(failed):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from failed
        failure = failure_of(failed)
        is_over = seconds >= self.settings.retry_seconds and attempts >= _MIN_ATTEMPTS
        if failure != "unreachable" or is_over:
            raise storage_error(failure, remote, failed, attempts, seconds) from failed

    def _attempt(self, remote: RemotePath, target: Path, max_bytes: int) -> BaseException | None:
        """Download once; None if the file is there, else why it is not."""
        taken: Future[Downloader] = Future()
        _run(taken, lambda: self._take(remote))
        if (error := taken.exception()) is not None:
            return error
        downloader, outcome = taken.result(), Future[None]()
        timeout = self.settings.timeout_seconds / 2  # a silent socket leaves time for another
        # A daemon: one that is given up must not keep the process from ending.
        threading.Thread(
            target=_run,
            args=(outcome, lambda: downloader.download(remote.url, str(target), timeout)),
            daemon=True,
            name="mixstream-download",
        ).start()
        failed = self._watch(outcome, target, max_bytes)
        self._give_back(remote, downloader, failed)
        if failed is None and not target.exists():
            # streaming's GCS downloader passes over some answers
            return OSError(f"the downloader of {remote.scheme}:// brought no file")
        return failed

    def _watch(self, outcome: Future[None], target: Path, max_bytes: int) -> BaseException | None:
        """Wait for a download while it keeps to its limits of time and size."""
        started = time.monotonic()
        while not wait([outcome], timeout=_POLL_SECONDS).done:
            found = _bytes_in(target.parent)
            if found > max_bytes:
                return ShardCorruptError(f"more than the {max_bytes} bytes that it may have came")
            limit = self.settings.attempt_seconds(found)
            if time.monotonic() - started > limit:
                return TimeoutError(f"{found} bytes came within {limit:.1f} s")
        return outcome.exception()

    def _take(self, remote: RemotePath) -> Downloader:
        """A downloader that nobody else uses; of S3 one that all may use."""
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            idle = self._idle.setdefault(remote.server, [])
            if remote.scheme == "s3" and idle:
                return idle[0]  # boto3's clients serve many threads, and take 0.1 s to make
            if idle:
                return idle.pop()
            made = _new_downloader(remote, self.settings.timeout_seconds / 2)
            if remote.scheme == "s3":
                idle.append(made)
            return made

    def _give_back(
        self, remote: RemotePath, downloader: Downloader, failed: BaseException | None
    ) -> None:
        """Keep a downloader that works; another one is made after one that does not."""
        works = failed is None or failure_of(failed) == "missing"
        with self._lock:
            idle = self._idle.setdefault(remote.server, [])
            if works and downloader not in idle:
                idle.append(downloader)
            elif not works and downloader in idle:
                idle.remove(downloader)


def _new_downloader(remote: RemotePath, timeout_seconds: float) -> Downloader:
    if remote.scheme == "file":
        return _FileDownloader()
    from streaming.base.storage import CloudDownloader

    made: Downloader = CloudDownloader.get(remote.url)
    make_client = getattr(made, "_create_s3_client", None)
    if make_client is not None:  # now, by one thread; else by each that finds none, at once
        make_client(timeout=timeout_seconds)
    return made


def _run(outcome: Future[T], call: Callable[[], T]) -> None:
    """Run an SDK to its end, which nobody may be waiting for any more."""
    try:
        outcome.set_result(call())
    except Exception as error:  # noqa: BLE001 (an SDK's own: `failure_of` sorts it, and it is raised)
        outcome.set_exception(error)


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, some of which may go at any time."""
    sizes = []
    for path in folder.glob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)
