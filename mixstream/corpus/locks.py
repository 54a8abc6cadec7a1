"""A path -> a lock of that name between threads and processes, which dies with its holder.

The kernel gives up a flock when its holder ends in any way, so nothing has to be cleaned by hand.
The file of a lock is removed while it is held; whoever then holds a lock of the removed file finds
that its path names another file or none, and starts again.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mixstream.errors import ShardUnreachableError

__all__ = ["held_lock", "lasting_lock", "try_lock", "unlock"]

_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.001, 0.02

_held: set[int] = set()
"""File numbers of all locks of this process."""


@contextmanager
def held_lock(path: Path, timeout_seconds: float) -> Iterator[int]:
    """Hold the lock of a name, in a file that is there only while somebody holds or awaits it.

    Yields:
        The number of the open file, which others may read.

    Raises:
        ShardUnreachableError: another holder lived and held on for longer than the timeout.
        OSError: the file cannot be made.
    """
    number = _awaited(path, timeout_seconds)
    try:
        yield number
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        unlock(number)


@contextmanager
def lasting_lock(path: Path, timeout_seconds: float) -> Iterator[int]:
    """Hold the lock of a file that stays, and may hold something; raises as `held_lock` does."""
    number = _awaited(path, timeout_seconds)
    try:
        yield number
    finally:
        unlock(number)


def try_lock(path: Path) -> int | None:
    """The number of the locked file of a name; None while anybody else holds it."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(number)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(number), os.stat(path)):
            return number
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        unlock(number)
        raise
    unlock(number)
    return None


def unlock(number: int) -> None:
    """Give up a lock; said aloud, because a forked child may share its file."""
    _held.discard(number)
    fcntl.flock(number, fcntl.LOCK_UN)
    os.close(number)


def _awaited(path: Path, timeout_seconds: float) -> int:
    deadline = time.monotonic() + timeout_seconds
    pause = _FIRST_POLL_SECONDS
    while True:
        number = try_lock(path)
        if number is not None:
            return number
        if time.monotonic() > deadline:
            raise ShardUnreachableError(
                f"another process has held {path} for {timeout_seconds:.0f} s. See what it waits "
                f"for (fuser names it), or end it: its lock ends with it."
            )
        time.sleep(pause)
        pause = min(2 * pause, _LAST_POLL_SECONDS)


def _leave_to_parent() -> None:
    """A forked child drops its copies: they would keep the locks of a parent that is killed."""
    for number in _held:
        os.close(number)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
