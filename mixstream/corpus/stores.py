"""A URL -> what talks to its storage."""

from __future__ import annotations

import functools
import os

from mixstream.corpus.remote import RemotePath
from mixstream.corpus.store import SourceStore, Store

__all__ = ["SOURCE_SCHEMES", "STORE_SCHEMES", "open_store", "source_store"]

STORE_SCHEMES = ("s3", "gs", "sftp")
"""What a corpus can be written to."""

SOURCE_SCHEMES = (*STORE_SCHEMES, "hf")
"""What raw files can be read from."""


_PLACES = ("S3_ENDPOINT_URL", "STORAGE_EMULATOR_HOST", "HF_ENDPOINT")


def open_store(remote: RemotePath, timeout_seconds: float) -> Store:
    """What writes to a folder, whose scheme is one of STORE_SCHEMES."""
    if remote.scheme == "s3":
        from mixstream.corpus.s3_store import S3Store

        return S3Store(remote, timeout_seconds)
    if remote.scheme == "gs":
        from mixstream.corpus.gcs_store import GcsStore

        return GcsStore(remote, timeout_seconds)
    from mixstream.corpus.sftp_store import SftpStore

    return SftpStore(remote, timeout_seconds)


def source_store(server: str, timeout_seconds: float) -> SourceStore:
    """What reads from a server or bucket, one a process; of a scheme of SOURCE_SCHEMES."""
    return _source_store(server, timeout_seconds, os.getpid(), *map(os.environ.get, _PLACES))


@functools.lru_cache(maxsize=64)
def _source_store(server: str, timeout_seconds: float, *_: object) -> SourceStore:
    """Made anew where a process was forked, or an endpoint is another."""
    remote = RemotePath(server)
    if remote.scheme == "s3":
        from mixstream.corpus.s3_store import S3Store

        return S3Store(remote, timeout_seconds)
    if remote.scheme == "gs":
        from mixstream.corpus.gcs_store import GcsStore

        return GcsStore(remote, timeout_seconds)
    if remote.scheme == "sftp":
        from mixstream.corpus.sftp_store import SftpStore

        return SftpStore(remote, timeout_seconds)
    from mixstream.corpus.hf_store import HfStore

    return HfStore(remote, timeout_seconds)
