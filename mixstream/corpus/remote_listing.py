"""A URL whose sub-folders are domains, or patterns -> the raw files there, in the order of names.

The rules are those of local folders (files.list_files, domain_files): hidden, `_*` and `*.tmp`
names are left out with all that is in them, patterns are those of Python's glob with "**".
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mixstream.corpus.files import KINDS
from mixstream.corpus.remote import Folder, RemotePath, as_folder
from mixstream.corpus.remote_file import RemoteFile
from mixstream.corpus.retry import Failed, tried
from mixstream.corpus.storage import StorageSettings
from mixstream.corpus.stores import SOURCE_SCHEMES, source_store
from mixstream.errors import RecipeError, ShardError, SourceError

__all__ = ["as_source", "check_source", "files_by_folder", "matching_files"]


def as_source(path: str | os.PathLike[str]) -> Folder:
    """A path or URL of raw files; of file:// the path. Raises RecipeError for an unknown scheme."""
    try:
        found = as_folder(path)
    except ShardError as error:
        raise RecipeError(str(error)) from error
    if isinstance(found, RemotePath) and found.scheme == "file":
        return Path(found.url.removeprefix("file://") or "/")
    return found


def check_source(remote: RemotePath) -> None:
    """Raises RecipeError where raw files cannot be read from there."""
    if remote.scheme not in SOURCE_SCHEMES:
        raise RecipeError(
            f"{remote} cannot be listed; mixstream convert reads from folders and from "
            f"{', '.join(f'{each}://' for each in SOURCE_SCHEMES)}. Mount it, or copy it first."
        )


def files_by_folder(
    raw: RemotePath, leave_out: RemotePath | None
) -> dict[str, tuple[tuple[str, RemoteFile], ...]]:
    """The files of each sub-folder, by their names in it; folders in order of their names.

    Args:
        raw: the folder.
        leave_out: the output, which may lie within raw, and then is no input.

    Raises:
        RecipeError: no sub-folder, or files beside them that could be read.
        SourceError: it cannot be listed.
    """
    found: dict[str, list[tuple[str, RemoteFile]]] = {}
    for parts, file in _listed(raw, "", leave_out):
        if _is_hidden(parts):
            continue
        if len(parts) == 1:
            if parts[0].lower().endswith(tuple(KINDS)):
                raise RecipeError(
                    f"{file} lies beside the domains' folders and would belong to no domain; move "
                    f"it into one, or name each domain's files: --domain name=glob."
                )
            continue
        found.setdefault(parts[0], []).append(("/".join(parts[1:]), file))
    if not found:
        raise RecipeError(
            f"{raw} has no sub-folders; put each domain's files into one of its own, or name them: "
            f"--domain name=glob."
        )
    return {name: _in_order(found[name]) for name in sorted(found, key=str.encode)}


def matching_files(
    name: str, patterns: Sequence[RemotePath], leave_out: RemotePath | None
) -> tuple[tuple[str, RemoteFile], ...]:
    """The files of one domain's patterns, each once, by their names below what they share.

    Args:
        name: the domain's, for messages.
        patterns: all of one server or bucket; one that matches a folder takes the files in it.
        leave_out: the output, whose files are no input.

    Raises:
        RecipeError: patterns of two servers, or one that matches nothing.
        SourceError: a place that cannot be listed.
    """
    servers = list(dict.fromkeys(pattern.server for pattern in patterns))
    if len(servers) > 1:
        raise RecipeError(
            f"the patterns of domain {name!r} are of {len(servers)} places "
            f"({', '.join(str(RemotePath(each)) for each in servers)}); name the files of a domain "
            f"in one, or make two domains of them."
        )
    found: dict[tuple[str, ...], RemoteFile] = {}
    for pattern in patterns:
        matches = dict(_matches(pattern, leave_out))
        if not matches:
            raise RecipeError(
                f"pattern {str(pattern)!r} of domain {name!r} matches nothing; mend the pattern, "
                f"or leave it out."
            )
        found |= matches
    shared = _shared_folder(list(found))
    return _in_order([("/".join(parts[shared:]), file) for parts, file in found.items()])


def _matches(
    pattern: RemotePath, leave_out: RemotePath | None
) -> Iterator[tuple[tuple[str, ...], RemoteFile]]:
    """What a pattern matches, or has in a folder that it matches, by the parts of its name."""
    server = RemotePath(pattern.server)
    asked = pattern.url[len(server.url) + 1 :].split("/")
    plain = "/".join(asked)
    start = re.search(r"[*?[]", plain)
    spelled = {part for part in asked if not glob.has_magic(part)}
    for parts, file in _listed(server, plain[: start.start()] if start else plain, leave_out):
        for num_parts in range(len(parts), 0, -1):
            if _fits(parts[:num_parts], asked, is_folder=num_parts < len(parts)):
                wild = [part for part in parts[:num_parts] if part not in spelled]
                if not (_is_marker(wild) or _is_hidden(parts[num_parts:])):
                    yield parts, file
                break


def _fits(parts: Sequence[str], asked: Sequence[str], *, is_folder: bool) -> bool:
    """Whether the parts of a name are what a pattern's parts ask for, as Python's glob sees it.

    "**" goes through any number of folders; at the end it also takes what is in them.
    """
    if not parts or not asked:
        return not parts and (not asked or (is_folder and set(asked) == {"**"}))
    is_hidden = parts[0].startswith(".")
    if asked[0] == "**":
        if _fits(parts, asked[1:], is_folder=is_folder):
            return True
        rest = asked if len(parts) > 1 or len(asked) > 1 else ()
        return not is_hidden and _fits(parts[1:], rest, is_folder=is_folder)
    return (
        (asked[0].startswith(".") or not is_hidden)
        and fnmatch.fnmatchcase(parts[0], asked[0])
        and _fits(parts[1:], asked[1:], is_folder=is_folder)
    )


def _listed(
    folder: RemotePath, prefix: str, leave_out: RemotePath | None
) -> Iterator[tuple[tuple[str, ...], RemoteFile]]:
    """All objects of a folder whose names in it begin so: the parts of that name, and the file."""
    settings = StorageSettings()
    server = RemotePath(folder.server)
    before = folder.url[len(server.url) + 1 :]
    before = f"{before}/" if before else ""

    def found() -> list[tuple[str, RemoteFile]]:
        store = source_store(server.url, settings.timeout_seconds / 2)
        return [
            (each.name, RemoteFile(
                server / each.name, each.num_bytes, each.mtime_ns, each.version, each.content
            ))
            for each in store.listed(before + prefix)
        ]  # fmt: skip

    place = folder / prefix if prefix else folder
    for name, file in tried(found, settings, place, lambda failed: _cannot_list(place, failed)):
        if leave_out is None or not file.remote.url.startswith(f"{leave_out.url}/"):
            yield tuple(name[len(before) :].split("/")), file


def _cannot_list(place: RemotePath, failed: Failed) -> SourceError:
    mends = {
        "missing": "Name a bucket or folder that exists.",
        "forbidden": "Check the key, the secret and their rights: to list and to read.",
        "misused": "Mend what is installed or set here.",
        "unreachable": "Check endpoint and network.",
    }
    return SourceError(
        f"{place}: cannot be listed ({failed.failure}; {failed.tried} over {failed.seconds:.1f} s; "
        f"the last: {failed.detail}). {mends[failed.failure]}"
    )


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") for part in parts) or _is_marker(parts)


def _is_marker(parts: Sequence[str]) -> bool:
    return any(part.startswith("_") or part.lower().endswith(".tmp") for part in parts)


def _in_order(files: list[tuple[str, RemoteFile]]) -> tuple[tuple[str, RemoteFile], ...]:
    return tuple(sorted(files, key=lambda file: file[0].encode()))


def _shared_folder(names: list[tuple[str, ...]]) -> int:
    """How many folders all names begin with."""
    folders = [name[:-1] for name in names]
    first, last = min(folders), max(folders)
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return shared
