"""A recipe -> units of conversion work: a few raw files of one domain, or a part of a large one.

A unit depends on names, sizes and settings and on nothing else, so that any number of workers, in
any order, and after any kill, write the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mixstream.corpus.files import FileKind, RawFile, file_kind, shown
from mixstream.corpus.recipe import Recipe
from mixstream.corpus.records import FilePart
from mixstream.corpus.remote_file import RemoteFile, RemoteStatus
from mixstream.errors import SourceError

__all__ = ["Unit", "file_status", "planned_units"]

MIN_PART_BYTES = 2**20
"""A part of a file is no smaller: it ends with a row of its own, as every unit does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """File parts of one domain that are converted in one go."""

    domain: str
    """Name."""
    index: int
    """Place among the domain's units."""
    parts: tuple[FilePart, ...]
    """In reading order."""
    num_bytes: int
    """Of the parts as they lie on disk."""
    digest: str
    """16 hex digits of the settings and of each file's name, size, time of change and, of a
    remote one, what its store says of its content."""

    @property
    def files(self) -> tuple[RawFile, ...]:
        """The files, in reading order."""
        return tuple(dict.fromkeys(part.path for part in self.parts))


def planned_units(recipe: Recipe) -> list[Unit]:
    """The units of a recipe: files in order, cut where a unit has `unit_bytes` of them.

    A larger file is a unit of its own, and raw jsonl of several times that size several: of parts
    of even size, each of the lines that begin in it.
    """
    settings = json.dumps(recipe.rows.described(), sort_keys=True)
    units: list[Unit] = []
    for domain, files in recipe.files.items():
        portion: list[_Piece] = []
        num_bytes = index = 0
        for piece in _pieces(files, recipe.unit_bytes):
            if portion and num_bytes + piece.num_bytes > recipe.unit_bytes:
                units.append(_unit(domain, index, portion, settings))
                portion, num_bytes, index = [], 0, index + 1
            portion.append(piece)
            num_bytes += piece.num_bytes
        units.append(_unit(domain, index, portion, settings))
    return units


@dataclass(frozen=True, slots=True)
class _Piece:
    part: FilePart
    num_bytes: int
    identity: bytes


def _pieces(files: Sequence[tuple[str, RawFile]], unit_bytes: int) -> Iterator[_Piece]:
    for name, path in files:
        status = file_status(path)
        size = status.st_size
        identity = os.fsencode(name) + f"\0{size} {status.st_mtime_ns}\0".encode()
        if isinstance(path, RemoteFile) and path.content is not None:
            identity += f"{path.content}\0".encode()
        num_parts = 1
        if file_kind(path) == FileKind("jsonl"):
            num_parts = max(1, min(-(-size // unit_bytes), size // MIN_PART_BYTES))
        if num_parts == 1:
            yield _Piece(FilePart(path), size, identity)
            continue
        edges = [size * number // num_parts for number in range(num_parts + 1)]
        for start, end in itertools.pairwise(edges):
            part = FilePart(path, start, end)
            yield _Piece(part, end - start, identity + f"{start}-{end}\0".encode())


def file_status(path: RawFile) -> os.stat_result | RemoteStatus:
    """Size and time of change of a raw file. Raises SourceError where there is none."""
    try:
        return path.stat()
    except OSError as error:
        raise SourceError(
            f"{shown(path)}: cannot be read ({error.strerror}). Name files that exist."
        ) from error


def _unit(domain: str, index: int, portion: Sequence[_Piece], settings: str) -> Unit:
    digest = hashlib.blake2b(f"{settings}\0{domain}\0{index}".encode(), digest_size=8)
    for piece in portion:
        digest.update(piece.identity)
    return Unit(
        domain=domain,
        index=index,
        parts=tuple(piece.part for piece in portion),
        num_bytes=sum(piece.num_bytes for piece in portion),
        digest=digest.hexdigest(),
    )
