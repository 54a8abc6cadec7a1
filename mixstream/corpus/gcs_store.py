"""A folder of a bucket -> a Store and SourceStore, by google-cloud-storage.

Credentials are Google's application default ones; STORAGE_EMULATOR_HOST names another server, as
the tests do, whose emulator knows neither generations nor checksums of parts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixstream.corpus.remote import RemotePath
from mixstream.corpus.store import ChangedError, Digests, Found, Listed

__all__ = ["GcsStore"]

_PIECE_BYTES = 2**22


class GcsStore:
    """One request an object, which Google shows whole or not at all, and compares with its MD5.

    Args:
        remote: gs://bucket/folder.
        timeout_seconds: how long a silent connection is waited for.
    """

    def __init__(self, remote: RemotePath, timeout_seconds: float) -> None:
        from google.cloud.storage import Client  # type: ignore[import-untyped]

        _, _, bucket, *parts = remote.url.split("/")
        self._prefix = "".join(f"{part}/" for part in parts)
        self._client: Any = Client()
        self._bucket = self._client.bucket(bucket)
        self._once: dict[str, Any] = {"timeout": timeout_seconds, "retry": None}

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._prefix + name)

    def stat(self, name: str) -> Found | None:
        """The object's metadata."""
        from google.api_core.exceptions import NotFound

        blob = self._blob(name)
        try:
            blob.reload(**self._once)
        except NotFound:
            return None
        return Found(num_bytes=int(blob.size), md5=_hex(blob.md5_hash))

    def send(self, name: str, path: Path, digests: Digests) -> None:
        """One upload, which the store refuses where the MD5 of what came is another."""
        blob = self._blob(name)
        blob.md5_hash = base64.b64encode(bytes.fromhex(digests.md5)).decode()
        with path.open("rb") as file:
            blob.upload_from_file(file, size=digests.num_bytes, checksum=None, **self._once)

    def copy(self, source: str, target: str) -> None:
        """Within the store; large objects take several requests."""
        there, token = self._blob(target), None
        while True:
            token, _, _ = there.rewrite(self._blob(source), token=token, **self._once)
            if token is None:
                return

    def read(self, name: str) -> Iterator[bytes]:
        """A request for every 4 MiB."""
        blob = self._blob(name)
        blob.reload(**self._once)
        for start in range(0, int(blob.size), _PIECE_BYTES):
            end = min(start + _PIECE_BYTES, int(blob.size))
            piece = _downloaded(blob, start, end, self._once)
            if len(piece) != end - start:
                raise ConnectionError(f"{len(piece)} of {end - start} bytes came")
            yield piece

    def names(self, prefix: str) -> Iterator[str]:
        """A request for every thousand."""
        for blob in self._client.list_blobs(
            self._bucket, prefix=self._prefix + prefix, fields=_FIELDS, **self._once
        ):
            yield blob.name[len(self._prefix) :]

    def listed(self, prefix: str) -> Iterator[Listed]:
        """A request for every thousand; names that end in a slash are folders of the console."""
        for blob in self._client.list_blobs(
            self._bucket, prefix=self._prefix + prefix, fields=_FIELDS, **self._once
        ):
            if not blob.name.endswith("/"):
                md5 = _hex(blob.md5_hash)
                yield Listed(
                    name=blob.name[len(self._prefix) :],
                    num_bytes=int(blob.size),
                    mtime_ns=int(blob.updated.timestamp() * 1e6) * 1000,
                    version=str(blob.generation),
                    content=f"md5:{md5}" if md5 else f"crc32c:{blob.crc32c}",
                )

    def read_range(self, name: str, start: int, end: int, version: str) -> bytes:
        """One request, for just this generation of the object."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._bucket.blob(self._prefix + name, generation=int(version))
        try:
            return _downloaded(blob, start, end, self._once)
        except PreconditionFailed as error:
            raise ChangedError from error
        except NotFound as error:
            raise ChangedError from error  # a generation that was written over is not found

    def remove(self, names: Sequence[str]) -> None:
        """A request an object."""
        from google.api_core.exceptions import NotFound

        for name in names:
            try:
                self._blob(name).delete(**self._once)
            except NotFound:
                continue


_FIELDS = "items(name,size,updated,generation,md5Hash,crc32c),nextPageToken"


def _downloaded(blob: Any, start: int, end: int, once: dict[str, Any]) -> bytes:
    found: bytes = blob.download_as_bytes(
        start=start, end=end - 1, checksum=None, raw_download=True, **once
    )  # raw: as the bytes are stored
    return found


def _hex(md5: str | None) -> str | None:
    return base64.b64decode(md5).hex() if md5 else None
