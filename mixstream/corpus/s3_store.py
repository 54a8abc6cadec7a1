"""A folder of a bucket -> a Store and SourceStore, by boto3, which mosaicml-streaming brings along.

mosaicml-streaming's own uploader is not used: it compares nothing, and asks for no checksum.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mixstream.corpus.remote import RemotePath
from mixstream.corpus.store import ChangedError, Digests, Found, Listed

__all__ = ["S3Store"]

_MD5 = re.compile(r'"([0-9a-f]{32})"')
_MAX_PUT_BYTES = 5 * 10**9
"""Of one request, by the API; provenance and hashes.bin may be larger."""
_MAX_REMOVED = 1000
"""That one request removes, by the API."""


class S3Store:
    """One request an object, which S3 shows whole or not at all (up to 5 GB; a shard is below 4).

    The store is told MD5 and SHA-256 of what it is to get. S3 refuses other bytes (BadDigest);
    servers that do not are found out by the ETag, which is the MD5 of what they have stored. That
    holds for one PUT without a customer's or KMS key; else the ETag says nothing here.

    Args:
        remote: s3://bucket/folder. Endpoint (S3_ENDPOINT_URL), keys and region are found where
            mosaicml-streaming's downloader finds them.
        timeout_seconds: how long a silent connection is waited for.
    """

    def __init__(self, remote: RemotePath, timeout_seconds: float) -> None:
        from boto3.session import Session  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        _, _, self._bucket, *parts = remote.url.split("/")
        self._prefix = "".join(f"{part}/" for part in parts)
        self._client: Any = Session().client(
            "s3",
            endpoint_url=os.environ.get("S3_ENDPOINT_URL"),
            config=Config(
                connect_timeout=timeout_seconds,
                read_timeout=timeout_seconds,
                retries={"mode": "standard", "total_max_attempts": 1},  # ObjectFolder tries again
                max_pool_connections=32,
                response_checksum_validation="when_required",  # ObjectFolder compares by itself
            ),
        )

    def stat(self, name: str) -> Found | None:
        """What a HEAD request tells."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except ClientError as error:
            code = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code == 404:
                return None
            raise
        told = _MD5.fullmatch(head["ETag"])
        is_content = "SSECustomerAlgorithm" not in head and not str(
            head.get("ServerSideEncryption", "")
        ).startswith("aws:kms")
        return Found(num_bytes=head["ContentLength"], md5=told[1] if told and is_content else None)

    def send(self, name: str, path: Path, digests: Digests) -> None:
        """One PUT request; of what is too large for one, several parts, and nothing is compared."""
        if digests.num_bytes > _MAX_PUT_BYTES:
            self._client.upload_file(str(path), self._bucket, self._prefix + name)
            return
        with path.open("rb") as file:
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=file,
                ContentLength=digests.num_bytes,
                ChecksumAlgorithm="SHA256",
                ContentMD5=_base64(digests.md5),
                ChecksumSHA256=_base64(digests.sha256),
            )

    def copy(self, source: str, target: str) -> None:
        """One request, no bytes."""
        self._client.copy_object(
            Bucket=self._bucket,
            Key=self._prefix + target,
            CopySource={"Bucket": self._bucket, "Key": self._prefix + source},
        )

    def read(self, name: str) -> Iterator[bytes]:
        """One GET request."""
        answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        with closing(answer["Body"]) as body:
            yield from body.iter_chunks(2**20)

    def names(self, prefix: str) -> Iterator[str]:
        """A request for every thousand."""
        for found in self._found(prefix):
            yield found["Key"][len(self._prefix) :]

    def listed(self, prefix: str) -> Iterator[Listed]:
        """A request for every thousand; names that end in a slash are folders of the console."""
        for found in self._found(prefix):
            if not found["Key"].endswith("/"):
                told = _MD5.fullmatch(found["ETag"])
                yield Listed(
                    name=found["Key"][len(self._prefix) :],
                    num_bytes=found["Size"],
                    mtime_ns=int(found["LastModified"].timestamp()) * 10**9,
                    version=found["ETag"],
                    content=f"md5:{told[1]}" if told else f"etag:{found['ETag'].strip(chr(34))}",
                )

    def read_range(self, name: str, start: int, end: int, version: str) -> bytes:
        """One GET request, on the condition that the ETag is as it was listed."""
        from botocore.exceptions import ClientError

        try:
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Range=f"bytes={start}-{end - 1}",
                IfMatch=version,
            )
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (412, 416):
                raise ChangedError from error
            raise
        with closing(answer["Body"]) as body:
            found: bytes = body.read()
        return found

    def _found(self, prefix: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        for page in pages:
            yield from page.get("Contents", ())

    def remove(self, names: Sequence[str]) -> None:
        """A request for every thousand."""
        for start in range(0, len(names), _MAX_REMOVED):
            some = [{"Key": self._prefix + name} for name in names[start : start + _MAX_REMOVED]]
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": some, "Quiet": True}
            )
            for error in answer.get("Errors", ()):
                raise OSError(f"{error.get('Key')}: {error.get('Code')} {error.get('Message')}")


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()
