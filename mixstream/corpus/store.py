"""What a kind of remote storage must do, to be converted from and to; and what it tells of objects.

Errors are its SDK's, which failures.py sorts; only what no SDK says in the same way has a class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["ChangedError", "Digests", "Found", "Listed", "SourceStore", "Store"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Digests:
    """What tells the bytes of a file from others."""

    num_bytes: int
    md5: str
    """Hex digits, as all others: what stores compute by themselves."""
    sha256: str
    """What S3 compares with the bytes that reach it."""
    xxh3: str
    """xxh3_64, as the index of a domain names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An object as its store knows it."""

    num_bytes: int
    md5: str | None
    """Of its bytes, as the store found them; None where it does not say."""


class Store(Protocol):
    """What is written to; names are relative to one folder."""

    def stat(self, name: str) -> Found | None:
        """The object, or None where there is none."""

    def send(self, name: str, path: Path, digests: Digests) -> None:
        """Make a whole object of a file; a store that checks digests itself is given them."""

    def copy(self, source: str, target: str) -> None:
        """Make a whole object of another one, within the store; `source` may be gone after it."""

    def read(self, name: str) -> Iterator[bytes]:
        """The object's bytes."""

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all objects that begin so."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects; those that are not there are passed over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """An object as a listing tells of it."""

    name: str
    num_bytes: int
    mtime_ns: int
    """Of its last change, nanoseconds since 1970; 0 where the store does not say."""
    version: str
    """By which `read_range` gives the bytes of just this object, or ChangedError."""
    content: str | None
    """What tells its bytes from others, "KIND:DIGITS"; "md5" and "sha256" are those of the bytes
    ("md5" not surely: it is S3's ETag where that looks like one). None if nothing does."""


class ChangedError(Exception):
    """An object is no more the one that was listed."""


class SourceStore(Protocol):
    """What is read from; names are those of a whole server or bucket."""

    def listed(self, prefix: str) -> Iterator[Listed]:
        """All objects whose names begin so, in any order."""

    def read_range(self, name: str, start: int, end: int, version: str) -> bytes:
        """Some of the object's bytes; fewer than asked for mean that the answer was cut."""
