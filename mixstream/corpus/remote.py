"""A path or URL as a user gives it -> a local folder or a remote one, with a `/` for both."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mixstream.errors import ShardError

__all__ = ["Folder", "RemotePath", "as_folder", "is_remote"]

SCHEMES = ("s3", "gs", "oci", "azure", "azure-dl", "hf", "sftp", "dbfs", "alipan", "file")
"""Those that mosaicml-streaming downloads from; `file` is a folder of a slow or shared disk."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A folder or an object of remote storage."""

    url: str
    """With its scheme, without a slash at its end; it may hold a password."""

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    def __str__(self) -> str:
        """The URL as it may be shown: a password is left out."""
        return re.sub(r"^([^/]*://[^/@]*?):[^/@]*@", r"\1:***@", self.url)

    @property
    def scheme(self) -> str:
        """What stands before the colon."""
        return self.url.partition(":")[0]

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in; itself for the root of a server or bucket."""
        return self if self.url == self.server else RemotePath(self.url.rpartition("/")[0])

    @property
    def server(self) -> str:
        """Scheme and host or bucket: what one connection serves."""
        return "/".join(self.url.split("/")[:3])

    def resolve(self) -> RemotePath:
        """Itself: remote storage has no links."""
        return self


Folder: TypeAlias = "Path | RemotePath"


def is_remote(path: str) -> bool:
    """Whether a text is a URL rather than a local path."""
    return _SCHEME.match(path) is not None


def as_folder(path: str | os.PathLike[str]) -> Folder:
    """A local path, or a remote one where the text has a scheme.

    Raises:
        ShardError: the scheme is not one that can be read, or a URL was made a Path.
    """
    text = os.fspath(path)
    found = _SCHEME.match(text)
    if found is None:
        return Path(path)
    scheme = found[1].lower()
    if not isinstance(path, str):
        raise ShardError(
            f"{path!r} is a local path, in which the URL of a remote corpus loses a slash. "
            f"Give the URL as text: open_corpus('{scheme}://...')."
        )
    if scheme not in SCHEMES or not (text[len(scheme) + 1 :].startswith("//") or scheme == "dbfs"):
        raise ShardError(
            f"{text!r} has a scheme that cannot be read; there are "
            f"{', '.join(f'{each}://' for each in SCHEMES)}. Write a local path as ./{text}."
        )
    return RemotePath(scheme + text[len(scheme) :].rstrip("/"))
