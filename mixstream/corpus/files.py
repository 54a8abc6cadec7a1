"""A folder of raw files -> their paths in a fixed order, and what the name of each says it is."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from mixstream.corpus.remote_file import RemoteFile
from mixstream.errors import SourceError

__all__ = ["KINDS", "NOT_A_FILE", "FileKind", "RawFile", "file_kind", "list_files", "shown"]

RawFile: TypeAlias = "Path | RemoteFile"
"""A raw file, here or in remote storage."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a raw file is, as told by the ending of its name."""

    format: Literal["jsonl", "txt", "parquet"]
    """How documents stand in it."""
    compression: Literal["none", "gzip", "zstd"] = "none"
    """What its bytes are wrapped in."""


KINDS = {
    ".jsonl": FileKind("jsonl"),
    ".jsonl.gz": FileKind("jsonl", "gzip"),
    ".jsonl.zst": FileKind("jsonl", "zstd"),
    ".txt": FileKind("txt"),
    ".txt.gz": FileKind("txt", "gzip"),
    ".txt.zst": FileKind("txt", "zstd"),
    ".parquet": FileKind("parquet"),
}
"""Every ending that mixstream reads."""


def shown(path: RawFile) -> str:
    """The path as one printable line: quoted and escaped where it holds newlines or odd bytes."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def file_kind(path: RawFile) -> FileKind:
    """What the ending of the name says, upper case or lower.

    Raises:
        SourceError: the ending is none of KINDS.
    """
    name = path.name.lower()
    for ending, kind in KINDS.items():
        if name.endswith(ending):
            return kind
    raise SourceError(
        f"{shown(path)}: mixstream does not know this ending; it reads {', '.join(KINDS)}. "
        f"Rename the file to what it is, convert it, or move it out of the domain."
    )


def list_files(folder: Path) -> list[Path]:
    """Every raw file under a folder, sub-folders too, sorted by the bytes of its relative path.

    Names that begin with "." (hidden) or "_" (marker files and folders of Spark and Hadoop, such as
    _SUCCESS and _temporary), and names that end in ".tmp" (unfinished), are left out with all that
    is in them. Links to files are read; links to folders below `folder` are not followed. A folder
    called x.jsonl is a folder. An empty folder gives an empty list.

    Raises:
        SourceError: the folder is missing or unreadable; a fifo, socket or device, a dangling link
            or a loop of links lies in it.
    """
    found: list[Path] = []
    folders = [folder]
    while folders:
        for entry in _entries(folders.pop()):
            if not _is_left_out(entry.name):
                _sort_in(entry, found, folders)
    return sorted(found, key=lambda path: os.fsencode(path.relative_to(folder).as_posix()))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise SourceError(
            f"{shown(folder)}: cannot list this folder ({error.strerror}). "
            f"Name a folder that exists and that you may read."
        ) from error


def _is_left_out(name: str) -> bool:
    return name.startswith((".", "_")) or name.lower().endswith(".tmp")


def _sort_in(entry: os.DirEntry[str], found: list[Path], folders: list[Path]) -> None:
    """Adds one entry of a folder to the files found, or to the folders still to walk."""
    path = Path(entry.path)
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        raise SourceError(
            f"{shown(path)}: a link that leads nowhere ({error.strerror}). Mend it or remove it."
        ) from error
    if stat.S_ISREG(mode):
        found.append(path)
    elif not stat.S_ISDIR(mode):
        raise SourceError(f"{shown(path)}: {NOT_A_FILE}")
    elif not entry.is_symlink():
        folders.append(path)


NOT_A_FILE = "not a file but a fifo, socket, device or folder. Move it out of the domain."
