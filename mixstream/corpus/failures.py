"""What a storage SDK raised -> what went wrong, and an error that names object, attempts and mend.

The SDKs behind mosaicml-streaming's downloaders share no exception, and are not imported here:
they are told apart by HTTP status, errno and class name.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal, TypeAlias

from mixstream.corpus.remote import RemotePath
from mixstream.errors import (
    ShardError,
    ShardForbiddenError,
    ShardMissingError,
    ShardUnreachableError,
)

__all__ = ["Failure", "failure_of", "failure_text", "is_disk_full", "storage_error"]

Failure: TypeAlias = Literal["missing", "forbidden", "misused", "unreachable"]

_FORBIDDEN = {
    "AuthenticationException",
    "BadHostKeyException",
    "ClientAuthenticationError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "RefreshError",
    "RecursionError",  # the S3 downloader asks for ever where every answer is 400
    "UnauthorizedSSOTokenError",
}
_MISUSED = {"NoRegionError", "ParamValidationError", "ProfileNotFound"}
_UNREACHABLE = {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}
"""Errors of huggingface_hub about the network that call themselves FileNotFoundError."""


def failure_of(error: BaseException) -> Failure:
    """What an SDK's exception means; what nobody knows is taken to be the network's."""
    for link in _causes(error):
        found = _failure_of_one(link)
        if found is not None:
            return found
    return "unreachable"


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no room to write, here and not there."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(link, OSError) and link.errno in full for link in _causes(error))


def storage_error(
    failure: Failure, remote: RemotePath, error: BaseException, attempts: int, seconds: float
) -> ShardError:
    """The error to raise after so many attempts over so many seconds."""
    detail = failure_text(error)
    tried = f"{attempts} attempt{'s' if attempts > 1 else ''}"
    if failure == "missing":
        return ShardMissingError(
            f"{remote} is not there ({tried}): {detail}. "
            f"Check bucket and path; upload the object again, or convert the corpus again."
        )
    if failure == "forbidden":
        return ShardForbiddenError(
            f"{remote} may not be read ({tried}): {detail}. Check the key, the secret and their "
            f"rights; a bucket that they may not list says this of missing objects, too."
        )
    if failure == "misused":
        return ShardError(
            f"{remote} cannot be read with what is installed or set here ({tried}): {detail}. "
            f"Mend that; mosaicml-streaming's documentation says what {remote.scheme}:// needs."
        )
    return ShardUnreachableError(
        f"{remote} could not be fetched in {tried} over {seconds:.1f} s; the last one failed with "
        f"{detail}. Check endpoint and network, or wait longer: open_corpus(..., retry_seconds=)."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and what it was raised from."""
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__ or getattr(link, "last_exception", None)  # the latter is s3transfer's


def _failure_of_one(error: BaseException) -> Failure | None:
    """What one exception says by itself; None if it says nothing sure."""
    name = type(error).__name__
    if name in _UNREACHABLE:
        return "unreachable"
    if name in _FORBIDDEN:
        return "forbidden"
    if name in _MISUSED:
        return "misused"
    status = _status(error)
    if status is not None:
        if status in (404, 410):
            return "missing"
        return "forbidden" if status in (400, 401, 403, 407) else "unreachable"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, PermissionError) or _is_ssh_refusal(error):
        return "forbidden"
    if isinstance(error, ImportError) or (
        isinstance(error, ValueError | KeyError | TypeError | AttributeError | AssertionError)
        and not isinstance(error, OSError)
    ):
        return "misused"
    return None


def _is_ssh_refusal(error: BaseException) -> bool:
    text = str(error).lower()
    return type(error).__name__ == "SSHException" and (
        "known_hosts" in text or "authentication" in text
    )


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception carries, wherever its SDK keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return found if isinstance(found, int) else None
    holders = ((response, "status_code"), (error, "status_code"), (error, "code"))
    for holder, key in (*holders, (error, "status")):
        found = getattr(holder, key, None)
        if isinstance(found, int) and 100 <= found < 600:  # google's code is an IntEnum
            return int(found)
    return None


def failure_text(error: BaseException) -> str:
    """An exception in one line; of botocore's the answer, for the text around it may be wrong."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        said = response.get("Error", {})
        parts = ("HTTP", _status(error), said.get("Code"), said.get("Message"))
        return " ".join(dict.fromkeys(str(part) for part in parts if part is not None))
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
