"""A folder of an SFTP server -> a Store and SourceStore, by paramiko.

Keys are found where mosaicml-streaming's downloader finds them: COMPOSER_SFTP_KEY_FILE and
COMPOSER_SFTP_KNOWN_HOSTS_FILE, an agent, ~/.ssh. A host whose key is not known is refused.
"""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import stat
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mixstream.corpus.remote import RemotePath
from mixstream.corpus.store import ChangedError, Digests, Found, Listed

__all__ = ["SftpStore"]

_PIECE_BYTES = 2**20
_TEMPORARIES = ".mixstream"
"""The work folder of a conversion, which is removed at its end with all that a kill left there."""


class SftpStore:
    """Files appear under their names by rename; a connection a thread, made anew after an error.

    Args:
        remote: sftp://user@host:port/folder.
        timeout_seconds: how long a silent connection is waited for.
    """

    def __init__(self, remote: RemotePath, timeout_seconds: float) -> None:
        self._url = urllib.parse.urlsplit(remote.server)
        self._folder = f"/{remote.url[len(remote.server) + 1 :]}".rstrip("/") + "/"
        self._timeout = timeout_seconds
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()

    def stat(self, name: str) -> Found | None:
        """Its size; a server tells no digest."""
        with self._connection() as sftp:
            try:
                found = sftp.stat(self._folder + name)
            except FileNotFoundError:
                return None
        return Found(num_bytes=found.st_size, md5=None)

    def send(self, name: str, path: Path, digests: Digests) -> None:  # noqa: ARG002
        """A file in the work folder, then renamed."""
        target = self._folder + name
        beside = f"{self._folder}{_TEMPORARIES}/sending-{secrets.token_hex(4)}.tmp"
        with self._connection() as sftp:
            for path_there in (beside, target):
                _make_folder(sftp, posixpath.dirname(path_there))
            try:
                sftp.put(str(path), beside, confirm=True)
                sftp.posix_rename(beside, target)
            except OSError:
                with suppress(OSError):
                    sftp.remove(beside)
                raise

    def copy(self, source: str, target: str) -> None:
        """By a rename: the protocol knows no copies."""
        with self._connection() as sftp:
            _make_folder(sftp, posixpath.dirname(self._folder + target))
            sftp.posix_rename(self._folder + source, self._folder + target)

    def read(self, name: str) -> Iterator[bytes]:
        """Piece by piece, requested ahead."""
        with self._connection() as sftp, sftp.open(self._folder + name, "rb") as file:
            file.prefetch(file.stat().st_size)
            while piece := file.read(_PIECE_BYTES):
                yield piece

    def names(self, prefix: str) -> Iterator[str]:
        """A request a folder."""
        for each in self.listed(prefix):
            yield each.name

    def listed(self, prefix: str) -> Iterator[Listed]:
        """A request a folder."""
        begin, slash, _ = prefix.rpartition("/")
        with self._connection() as sftp:
            folders = [begin + slash]
            while folders:
                folder = folders.pop()
                try:
                    entries = sftp.listdir_attr(self._folder + folder)
                except FileNotFoundError:
                    continue
                for entry in entries:
                    name = folder + entry.filename
                    found = entry
                    if stat.S_ISLNK(entry.st_mode or 0):
                        found = sftp.stat(self._folder + name)
                    if stat.S_ISDIR(found.st_mode or 0) and found is entry:
                        if f"{name}/".startswith(prefix) or prefix.startswith(f"{name}/"):
                            folders.append(f"{name}/")
                    elif stat.S_ISREG(found.st_mode or 0) and name.startswith(prefix):
                        yield _listed(name, found)

    def read_range(self, name: str, start: int, end: int, version: str) -> bytes:
        """A few requests, after size and time of change were compared."""
        with self._connection() as sftp, sftp.open(self._folder + name, "rb") as file:
            if _listed(name, file.stat()).version != version:
                raise ChangedError
            (found,) = file.readv([(start, end - start)])
            piece: bytes = found
        return piece

    def remove(self, names: Sequence[str]) -> None:
        """A request a file; folders that are empty then go too."""
        with self._connection() as sftp:
            for name in names:
                with suppress(FileNotFoundError):
                    sftp.remove(self._folder + name)
            folders = {folder for name in names for folder in _folders_of(name)}
            for folder in sorted(folders, key=len, reverse=True):
                with suppress(OSError):  # it holds other things, or is gone
                    sftp.rmdir(self._folder + folder)

    def _connection(self) -> _Lent:
        return _Lent(self._idle, self._lock, lambda: _Connection(self._url, self._timeout))


class _Connection:
    """An open session."""

    def __init__(self, url: urllib.parse.SplitResult, timeout_seconds: float) -> None:
        from paramiko import SSHClient  # type: ignore[import-untyped]

        self._ssh = SSHClient()
        self._ssh.load_system_host_keys(os.environ.get("COMPOSER_SFTP_KNOWN_HOSTS_FILE"))
        try:
            self._ssh.connect(
                hostname=str(url.hostname),
                port=url.port or 22,
                username=url.username,
                password=url.password,
                key_filename=os.environ.get("COMPOSER_SFTP_KEY_FILE"),
                timeout=timeout_seconds,
                banner_timeout=timeout_seconds,
                auth_timeout=timeout_seconds,
            )
            self.sftp: Any = self._ssh.open_sftp()
            self.sftp.get_channel().settimeout(timeout_seconds)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._ssh.close()


class _Lent:
    """A connection that nobody else uses; kept for the next after a block without an error."""

    def __init__(self, idle: list[_Connection], lock: threading.Lock, make: Any) -> None:
        self._idle, self._lock, self._make = idle, lock, make

    def __enter__(self) -> Any:
        with self._lock:
            self._mine = self._idle.pop() if self._idle else None
        self._mine = self._mine or self._make()
        return self._mine.sftp

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        assert self._mine is not None, "it was entered"
        if kind is None or issubclass(kind, FileNotFoundError):
            with self._lock:
                self._idle.append(self._mine)
        else:
            self._mine.close()


def _listed(name: str, found: Any) -> Listed:
    return Listed(
        name=name,
        num_bytes=found.st_size,
        mtime_ns=int(found.st_mtime) * 10**9,
        version=f"{found.st_size} {int(found.st_mtime)}",
        content=None,
    )


def _make_folder(sftp: Any, folder: str) -> None:
    """A folder with all above it."""
    try:
        sftp.stat(folder)
    except FileNotFoundError:
        _make_folder(sftp, posixpath.dirname(folder))
        try:
            sftp.mkdir(folder)
        except OSError as error:  # made by another thread or machine; else it says why
            if error.errno in (errno.EACCES, errno.ENOSPC):
                raise


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
