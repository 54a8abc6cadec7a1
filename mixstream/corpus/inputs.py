"""The raw files of a corpus -> `inputs.json`, by which a later call tells what differs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

import xxhash

from mixstream.corpus.domain_files import DomainFiles
from mixstream.corpus.file_bytes import read_bytes
from mixstream.corpus.files import RawFile
from mixstream.corpus.jsonfile import Json, read_object, wanted, write_json
from mixstream.corpus.plan import file_status
from mixstream.corpus.remote_file import RemoteFile
from mixstream.errors import RecipeError

__all__ = [
    "CHECKS",
    "INPUTS",
    "Input",
    "Inputs",
    "differences",
    "inputs_json",
    "inputs_of",
    "new_files",
    "read_inputs",
    "refuse_unfinished",
    "shown_name",
    "stated_inputs",
    "write_inputs",
]

INPUTS = "inputs.json"
"""Its name, beside corpus.json."""

CHECKS = ("size", "time", "content")
"""How a file is told from another one of its name: each looks at the sizes, too."""

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Input:
    """What is known of a raw file."""

    num_bytes: int
    mtime_ns: int
    """Time of its last change, nanoseconds since 1970."""
    content: str | None
    """What tells its bytes from others: the hex digits of their xxh3_128, or what a store says of a
    remote file (see store.Listed), which costs nothing. None where nobody asked."""


Inputs: TypeAlias = dict[str, dict[str, Input]]
"""Domain -> name of each raw file, in the order in which they were converted -> what is known."""


def shown_name(name: str) -> str:
    """A file name in UTF-8: bytes that are none are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def inputs_of(files: DomainFiles, check: str) -> Inputs:
    """What can be known of the files now; reads them whole where `check` is "content".

    Raises:
        SourceError: a file cannot be read.
    """
    return {
        domain: {shown_name(name): _input(path, check == "content") for name, path in named}
        for domain, named in files.items()
    }


def _input(path: RawFile, with_content: bool) -> Input:
    status, digest = file_status(path), xxhash.xxh3_128()
    if isinstance(path, RemoteFile) and path.content is not None:
        return Input(status.st_size, status.st_mtime_ns, path.content)
    if with_content:
        for piece in read_bytes(path):
            digest.update(piece)
    found = digest.hexdigest() if with_content else None
    return Input(status.st_size, status.st_mtime_ns, found)


def write_inputs(path: Path, inputs: Inputs) -> None:
    """Writes inputs.json whole or not at all."""
    value: Json = {
        domain: [
            [name, each.num_bytes, each.mtime_ns, each.content] for name, each in files.items()
        ]
        for domain, files in inputs.items()
    }
    write_json(path, value)


def read_inputs(folder: Path) -> Inputs | None:
    """What inputs.json of a corpus says; None for one that has none."""
    if not (folder / INPUTS).exists():
        return None
    return stated_inputs(read_object(folder / INPUTS), str(folder / INPUTS))


def stated_inputs(stated: dict[str, object], place: str) -> Inputs:
    """What the content of an inputs.json says, which stands in some place."""
    return {
        domain: {
            name: Input(num_bytes, mtime_ns, digest)
            for name, num_bytes, mtime_ns, digest in wanted(stated, domain, list, place)
        }
        for domain in stated
    }


def inputs_json(inputs: Inputs) -> dict[str, Json]:
    """Of each domain the number of files, their bytes, and a digest of names and sizes."""
    found: dict[str, Json] = {}
    for domain, files in inputs.items():
        digest = blake2b(digest_size=8)
        for name, each in files.items():
            digest.update(f"{name}\0{each.num_bytes}\0".encode())
        num_bytes = sum(each.num_bytes for each in files.values())
        found[domain] = {"files": len(files), "bytes": num_bytes, "digest": digest.hexdigest()}
    return found


def differences(
    now: Inputs, then: Inputs, check: str, of_new: str = "append takes new files"
) -> Iterator[str]:
    """A line for each file that is not as it was, is new, or is gone."""
    for domain in sorted({*now, *then}):
        files, known = now.get(domain, {}), then.get(domain, {})
        for name in dict.fromkeys([*files, *known]):
            if name not in known:
                yield f"{domain}/{name} is new ({of_new})"
            elif name not in files:
                yield f"{domain}/{name} is gone"
            elif what := _difference(files[name], known[name], check):
                yield f"{domain}/{name} {what}"


def _difference(now: Input, then: Input, check: str) -> str | None:
    if now.num_bytes != then.num_bytes:
        return f"has {now.num_bytes:,} bytes and had {then.num_bytes:,}"
    if check == "size":
        return None
    if now.content is not None and then.content is not None:
        return None if now.content == then.content else "has another content"
    if check == "content":
        return "was converted without check='content', so that its content cannot be compared"
    if now.mtime_ns != then.mtime_ns:
        return (
            f"was changed since, though not in size: at {_shown_time(now)}, and before at "
            f"{_shown_time(then)} (check='size' takes it for the same)"
        )
    return None


def _shown_time(file: Input) -> str:
    found = datetime.fromtimestamp(file.mtime_ns // 10**9, timezone.utc)
    return found.strftime("%Y-%m-%d %H:%M:%S UTC")


def new_files(files: DomainFiles, known: Inputs, check: str, place: str) -> DomainFiles:
    """The files that a corpus does not hold yet.

    Raises:
        RecipeError: a file that it holds is not as it was, or seems to be there by another name.
    """
    now = inputs_of(files, check)
    then = {
        domain: {name: each for name, each in known[domain].items() if name in now[domain]}
        for domain in now.keys() & known.keys()
    }
    held = {domain: {n: now[domain][n] for n in then[domain]} for domain in then}
    refuse(list(differences(held, then, check)), place)
    found: DomainFiles = {}
    for domain, named in files.items():
        names = known.get(domain, {})
        by_look = {(Path(name).name, each.num_bytes, each.mtime_ns): name
                   for name, each in names.items()}  # fmt: skip
        fresh = tuple((name, path) for name, path in named if shown_name(name) not in names)
        for name, _ in fresh:
            each = now[domain][shown_name(name)]
            other = by_look.get((Path(shown_name(name)).name, each.num_bytes, each.mtime_ns))
            if other is not None:
                raise RecipeError(
                    f"{domain}/{shown_name(name)} looks like {domain}/{other}, which is in {place} "
                    f"already: the same name, size and time. Name the files from the same folder "
                    f"as before, or only those that are new."
                )
        if fresh:
            found[domain] = fresh
    return found


def refuse_unfinished(now: Inputs, begun: Inputs | None, check: str, place: str) -> None:
    """Raises RecipeError where unfinished work in some place was begun with other files.

    Args:
        now: what is asked for.
        begun: what was; None where nobody noted it.
        check: one of CHECKS.
        place: where the work is.
    """
    faults = [] if begun is None else list(differences(now, begun, check, "not there then"))
    refuse(
        faults,
        f"the unfinished work in {place}",
        "Give the same files again; or redo what changed and keep the rest: redo_changed=True "
        "(--redo-changed).",
    )


def refuse(
    faults: list[str], place: str, mend: str = "Give the same again, or name another folder."
) -> None:
    """Raises RecipeError if there are any, naming the first."""
    if faults:
        more = f", and {len(faults) - _SHOWN:,} more differ" if len(faults) > _SHOWN else ""
        raise RecipeError(
            f"{place} was made from other files: {'; '.join(faults[:_SHOWN])}{more}. {mend}"
        )


def check_known(check: str) -> None:
    """Raises RecipeError unless `check` is one of CHECKS."""
    if check not in CHECKS:
        raise RecipeError(f"check is {check!r}; take {', '.join(map(repr, CHECKS))}.")


def without(inputs: Inputs, domains: Mapping[str, object]) -> Inputs:
    """The inputs of these domains alone."""
    return {domain: files for domain, files in inputs.items() if domain in domains}
