"""A folder, or patterns by domain -> the raw files of each domain, in order."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from mixstream.corpus.files import KINDS, file_kind, list_files, shown
from mixstream.corpus.jsonfile import MAX_NAME_BYTES, checked_name
from mixstream.errors import RecipeError, ShardError, SourceError

__all__ = ["DomainFiles", "domain_files", "pattern_list"]

DomainFiles: TypeAlias = dict[str, tuple[tuple[str, Path], ...]]
"""For each domain its files in order, each with its name in the corpus's records."""

_TAKEN_NAMES = ("corpus.json", "inputs.json", "hashes.bin")  # files of a corpus beside its domains


def domain_files(
    raw: Path | None, patterns: Mapping[str, str | Sequence[str]] | None, *, leave_out: Path
) -> DomainFiles:
    """The files of each domain, domains in order of their names.

    Args:
        raw: folder whose sub-folders are the domains; with patterns, the folder they start from.
        patterns: glob patterns by domain, in place of the sub-folders; "**" goes through folders,
            and a pattern that matches a folder takes the files in it.
        leave_out: the output, which may lie within raw, and then is no input.

    Raises:
        RecipeError: no domain, a domain without files, a name that makes no folder, or raw files
            that would belong to no domain.
        SourceError: a folder that cannot be listed.
    """
    if raw is None and not patterns:
        raise RecipeError(
            "nothing to convert: give a folder with a sub-folder for each domain, or patterns by "
            "domain (--domain name=glob, or [domains] in a recipe file)."
        )
    if raw is not None and not raw.is_dir():
        raise RecipeError(f"{shown(raw)} is no folder; give one with a sub-folder for each domain.")
    if patterns:
        start = raw or Path()
        found = {
            name: _matches(name, start, patterns[name], leave_out) for name in sorted(patterns)
        }
    else:
        assert raw is not None, "no folder and no patterns"
        folders = _sub_folders(raw, leave_out)
        found = {folder.name: _in_folder(folder, leave_out) for folder in folders}
    for name, files in found.items():
        _check_domain(name, len(files))
    _check_endings([path for files in found.values() for _, path in files])
    return found


def pattern_list(patterns: str | Sequence[str], of: str) -> list[str]:
    """Patterns as a list. Raises RecipeError, naming what they are `of`, where they are none."""
    listed = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(listed, Sequence) or not all(isinstance(each, str) for each in listed):
        raise RecipeError(f"{of} is {patterns!r}; give a glob pattern or a list of them.")
    return list(listed)


def _sub_folders(raw: Path, leave_out: Path) -> list[Path]:
    """The domains' folders in order of their names; hidden ones and the output are none."""
    try:
        entries = sorted(raw.iterdir(), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise SourceError(f"{shown(raw)}: cannot list this folder ({error.strerror}).") from error
    entries = [entry for entry in entries if not entry.name.startswith((".", "_"))]
    folders = [each for each in entries if each.is_dir() and each.resolve() != leave_out.resolve()]
    if not folders:
        raise RecipeError(
            f"{shown(raw)} has no sub-folders; put each domain's files into one of its own, or "
            f"name them: --domain name=glob."
        )
    for entry in entries:
        if entry.is_file() and entry.name.lower().endswith(tuple(KINDS)):
            raise RecipeError(
                f"{shown(entry)} lies beside the domains' folders and would belong to no domain; "
                f"move it into one, or name each domain's files: --domain name=glob."
            )
    return folders


def _in_folder(folder: Path, leave_out: Path) -> tuple[tuple[str, Path], ...]:
    files = [path for path in list_files(folder) if not _lies_in(path, leave_out)]
    return tuple((path.relative_to(folder).as_posix(), path) for path in files)


def _matches(
    name: str, base: Path, patterns: str | Sequence[str], leave_out: Path
) -> tuple[tuple[str, Path], ...]:
    """The files of one domain's patterns, each once, in order of their names."""
    found: dict[str, Path] = {}
    for pattern in pattern_list(patterns, f"the pattern of domain {name!r}"):
        start = "" if Path(pattern).is_absolute() else str(base)
        matches = [
            Path(start, match)
            for match in glob.glob(pattern, root_dir=start or None, recursive=True)
            if not _is_left_out(match, pattern)
        ]
        if not matches:
            raise RecipeError(
                f"pattern {pattern!r} of domain {name!r} matches nothing below "
                f"{shown(base.absolute())}; mend the pattern, or leave it out."
            )
        for match in matches:
            for path in list_files(match) if match.is_dir() else [match]:
                if not _lies_in(path, leave_out):
                    found[os.path.abspath(path)] = path
    root = os.path.commonpath([os.path.dirname(place) for place in found]) if found else ""
    named = [(os.path.relpath(place, root), path) for place, path in found.items()]
    return tuple(sorted(named, key=lambda file: os.fsencode(file[0])))


def _is_left_out(match: str, pattern: str) -> bool:
    """Whether a wildcard took what folders leave out; as with hidden files, spelling it helps."""
    wild = set(Path(match).parts) - set(Path(pattern).parts)
    return any(part.startswith("_") or part.lower().endswith(".tmp") for part in wild)


def _lies_in(path: Path, folder: Path) -> bool:
    return folder.exists() and folder.resolve() in path.resolve().parents


def _check_endings(paths: Sequence[Path]) -> None:
    """Refuses files that cannot be read before any is read, all of them at once."""
    faults = []
    for path in paths:
        try:
            file_kind(path)
        except SourceError as error:
            faults.append(str(error))
    if faults:
        more = f" So are {len(faults) - 1} more files." if len(faults) > 1 else ""
        raise SourceError(faults[0] + more)


def _check_domain(name: str, num_files: int) -> None:
    try:
        checked_name(name, "")  # what a reader of corpus.json takes
        fits = len(name.encode()) <= MAX_NAME_BYTES
    except (ShardError, UnicodeEncodeError):
        fits = False
    if not fits or name.startswith(".") or name in _TAKEN_NAMES:
        raise RecipeError(
            f"domain name {name!r} makes no folder of a corpus; take one in UTF-8, of at most "
            f"{MAX_NAME_BYTES} bytes, without slashes, control characters and a leading dot."
        )
    if num_files == 0:
        raise RecipeError(
            f"domain {name!r} has no files (hidden, *.tmp and _* files do not count); put some "
            f"there, or leave the domain out."
        )
