"""A folder, or patterns by domain, here or remote -> the raw files of each domain, in order."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from mixstream.corpus.files import KINDS, RawFile, file_kind, list_files, shown
from mixstream.corpus.jsonfile import MAX_NAME_BYTES, checked_name
from mixstream.corpus.remote import Folder, RemotePath
from mixstream.corpus.remote_listing import as_source, check_source, files_by_folder, matching_files
from mixstream.errors import RecipeError, ShardError, SourceError

__all__ = ["DomainFiles", "domain_files", "pattern_list"]

DomainFiles: TypeAlias = dict[str, tuple[tuple[str, RawFile], ...]]
"""For each domain its files in order, each with its name in the corpus's records."""

_TAKEN_NAMES = ("corpus.json", "inputs.json", "hashes.bin")  # files of a corpus beside its domains


def domain_files(
    raw: Folder | None, patterns: Mapping[str, str | Sequence[str]] | None, *, leave_out: Folder
) -> DomainFiles:
    """The files of each domain, domains in order of their names.

    Args:
        raw: folder whose sub-folders are the domains; with patterns, the folder they start from.
        patterns: glob patterns by domain, in place of the sub-folders; "**" goes through folders,
            and a pattern that matches a folder takes the files in it. One with a scheme (s3://)
            is of remote storage, whatever raw is.
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
    if isinstance(raw, Path) and not raw.is_dir():
        raise RecipeError(f"{shown(raw)} is no folder; give one with a sub-folder for each domain.")
    found: DomainFiles
    if patterns:
        start = raw or Path()
        found = {
            name: _matches(name, start, patterns[name], leave_out) for name in sorted(patterns)
        }
    elif isinstance(raw, RemotePath):
        check_source(raw)
        found = {**files_by_folder(raw, _remote(leave_out))}
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


def _sub_folders(raw: Path, leave_out: Folder) -> list[Path]:
    """The domains' folders in order of their names; hidden ones and the output are none."""
    try:
        entries = sorted(raw.iterdir(), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise SourceError(f"{shown(raw)}: cannot list this folder ({error.strerror}).") from error
    entries = [entry for entry in entries if not entry.name.startswith((".", "_"))]
    folders = [each for each in entries if each.is_dir() and not _is_same(each, leave_out)]
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


def _in_folder(folder: Path, leave_out: Folder) -> tuple[tuple[str, Path], ...]:
    files = [path for path in list_files(folder) if not _lies_in(path, leave_out)]
    return tuple((path.relative_to(folder).as_posix(), path) for path in files)


def _matches(
    name: str, base: Folder, patterns: str | Sequence[str], leave_out: Folder
) -> tuple[tuple[str, RawFile], ...]:
    """The files of one domain's patterns, each once, in order of their names."""
    listed = [
        pattern.removeprefix("file://")
        for pattern in pattern_list(patterns, f"the pattern of domain {name!r}")
    ]
    placed = [_placed(base, pattern) for pattern in listed]
    remote = [pattern for pattern in placed if isinstance(pattern, RemotePath)]
    for pattern in remote:
        check_source(pattern)
    if not remote:
        start = base if isinstance(base, Path) else Path()  # else all of them are absolute
        return _local_matches(name, start, listed, leave_out)
    if len(remote) < len(placed):
        raise RecipeError(
            f"the patterns of domain {name!r} are partly here and partly in remote storage; "
            f"name the files of a domain in one place, or make two domains of them."
        )
    return matching_files(name, remote, _remote(leave_out))


def _placed(base: Folder, pattern: str) -> Folder:
    """A pattern with the folder it starts from, as far as either is remote."""
    found = as_source(pattern)
    if isinstance(found, RemotePath) or isinstance(base, Path) or found.is_absolute():
        return found
    return base / pattern.rstrip("/")


def _local_matches(
    name: str, base: Path, patterns: Sequence[str], leave_out: Folder
) -> tuple[tuple[str, RawFile], ...]:
    found: dict[str, Path] = {}
    for pattern in patterns:
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


def _remote(folder: Folder) -> RemotePath | None:
    return folder if isinstance(folder, RemotePath) else None


def _is_same(path: Path, folder: Folder) -> bool:
    return isinstance(folder, Path) and path.resolve() == folder.resolve()


def _lies_in(path: Path, folder: Folder) -> bool:
    if not isinstance(folder, Path):
        return False
    return folder.exists() and folder.resolve() in path.resolve().parents


def _check_endings(paths: Sequence[RawFile]) -> None:
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
