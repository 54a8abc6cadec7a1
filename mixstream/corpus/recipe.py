"""What a user asks of a conversion -> a Recipe: checked settings and each domain's raw files."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mixstream.corpus.files import list_files, shown
from mixstream.corpus.packing import open_packer
from mixstream.corpus.tokenizers import Tokenizer
from mixstream.errors import RecipeError, SourceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DomainFiles", "Recipe", "RowSettings", "domain_files", "read_recipe"]

DomainFiles: TypeAlias = dict[str, tuple[tuple[str, Path], ...]]
"""For each domain its files in order, each with its name in the corpus's records."""

DEFAULT_SHARD_BYTES = 64 * 2**20
DEFAULT_UNIT_BYTES = 256 * 2**20
DEFAULT_MAX_DOCUMENT_BYTES = 128 * 2**20
_MAX_SHARD_BYTES = 2**32 - 2**26  # offsets are uint32; the header needs some of them


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSettings:
    """Everything that the rows of a document depend on, the tokenizer's file by its hash."""

    tokenizer: Tokenizer
    """Text to ids."""
    seq_len: int
    """S, tokens a row."""
    packing: str = "concat"
    """"concat" or "best_fit"."""
    text_field: str = "text"
    """Field or column that holds the text."""
    compression: str | None = None
    """None, or "zstd"."""
    shard_bytes: int = DEFAULT_SHARD_BYTES
    """Bytes of the rows of a shard, before compression."""
    max_document_bytes: int = DEFAULT_MAX_DOCUMENT_BYTES
    """A longer document is dropped and counted as too_long."""
    on_bad_document: Literal["skip", "raise"] = "skip"
    """"skip" drops and counts a bad document, "raise" ends the conversion at it."""

    def __post_init__(self) -> None:
        open_packer(self.packing, self.seq_len, self.tokenizer.end_id)
        for name in ("seq_len", "shard_bytes", "max_document_bytes"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.shard_bytes > _MAX_SHARD_BYTES:
            raise RecipeError(
                f"shard_bytes is {self.shard_bytes}; the offsets of a shard end at "
                f"{_MAX_SHARD_BYTES}. Take a smaller one."
            )
        if self.compression not in (None, "zstd"):
            raise RecipeError(f"compression is {self.compression!r}; take 'zstd', or none at all.")
        if self.on_bad_document not in ("skip", "raise"):
            raise RecipeError(
                f"on_bad_document is {self.on_bad_document!r}; take 'skip' or 'raise'."
            )

    @property
    def dtype(self) -> str:
        """The smallest of uint16 and uint32 that holds the vocabulary."""
        return "uint16" if self.tokenizer.vocab_size <= 2**16 else "uint32"

    @property
    def rows_per_shard(self) -> int:
        """Rows of every shard of a unit but the last."""
        return max(1, self.shard_bytes // (self.seq_len * (2 if self.dtype == "uint16" else 4)))

    def described(self) -> dict[str, str | int | None]:
        """The settings as JSON holds them; equal descriptions give equal rows."""
        tokenizer = self.tokenizer
        return {
            **{
                field.name: getattr(self, field.name)
                for field in fields(self)
                if field.name != "tokenizer"
            },
            "tokenizer": tokenizer.name,
            "tokenizer_sha256": tokenizer.sha256,
            "end_id": tokenizer.end_id,
            "vocab_size": tokenizer.vocab_size,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One conversion: what to read, how to turn it into rows, and in what portions."""

    rows: RowSettings
    """What the rows depend on."""
    files: DomainFiles
    """What is read."""
    unit_bytes: int = DEFAULT_UNIT_BYTES
    """Bytes of files that make a unit of work; a larger file is a unit of its own."""


def domain_files(
    raw: Path | None, patterns: Mapping[str, str | Sequence[str]] | None, *, leave_out: Path
) -> DomainFiles:
    """The files of each domain, domains in order of their names.

    Args:
        raw: folder whose sub-folders are the domains; with patterns, the folder they start from.
        patterns: glob patterns by domain, in place of the sub-folders; "**" goes through folders,
            and a pattern that matches a folder takes the files in it.
        leave_out: the output, which may lie within raw.

    Raises:
        RecipeError: no domain, a domain without files, or a name that makes no folder.
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
        found = {name: _matches(name, raw or Path(), patterns[name]) for name in sorted(patterns)}
    else:
        assert raw is not None, "no folder and no patterns"
        found = {folder.name: _in_folder(folder) for folder in _sub_folders(raw, leave_out)}
    if not found:
        raise RecipeError(
            f"{shown(raw or Path())} has no sub-folders; put each domain's files into one of its "
            f"own, or name them: --domain name=glob."
        )
    for name, files in found.items():
        _check_domain(name, len(files))
    return found


def read_recipe(path: Path) -> dict[str, object]:
    """The arguments of `convert` that a TOML file gives; paths in it start from its folder.

    Raises:
        RecipeError: no file, no TOML, or a key that `convert` does not take.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"recipe {shown(path)} cannot be read as TOML: {error}.") from error
    for key, value in content.items():
        if key not in _RECIPE_TYPES:
            raise RecipeError(
                f"unknown key {key!r} in recipe {shown(path)}; known are "
                f"{', '.join(sorted(_RECIPE_TYPES))}."
            )
        if not isinstance(value, _RECIPE_TYPES[key]) or isinstance(value, bool):
            raise RecipeError(
                f"{key} in recipe {shown(path)} is {value!r}; give a {_RECIPE_TYPES[key].__name__}."
            )
    domains = content.get("domains", {})
    for name, patterns in domains.items():
        if not all(isinstance(pattern, str) for pattern in _as_list(patterns)):
            raise RecipeError(
                f"domains.{name} in recipe {shown(path)} is {patterns!r}; give a glob pattern or a "
                f"list of them."
            )
        domains[name] = [str(path.parent / pattern) for pattern in _as_list(patterns)]
    for key in ("raw", "tokenizer"):
        if key in content and content[key] != "bytes":
            content[key] = str(path.parent / content[key])
    return content


_RECIPE_TYPES: dict[str, type] = {
    "raw": str,
    "domains": dict,
    "tokenizer": str,
    "end_of_text": str,
    "seq_len": int,
    "packing": str,
    "text_field": str,
    "compression": str,
    "shard_bytes": int,
    "unit_bytes": int,
    "max_document_bytes": int,
    "on_bad_document": str,
    "workers": int,
}


def _as_list(patterns: str | Sequence[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _sub_folders(raw: Path, leave_out: Path) -> list[Path]:
    """The domains' folders in order of their names; hidden ones and the output are none."""
    try:
        entries = sorted(raw.iterdir(), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise SourceError(f"{shown(raw)}: cannot list this folder ({error.strerror}).") from error
    return [
        entry
        for entry in entries
        if entry.is_dir()
        and not entry.name.startswith((".", "_"))
        and entry.resolve() != leave_out.resolve()
    ]


def _in_folder(folder: Path) -> tuple[tuple[str, Path], ...]:
    return tuple((path.relative_to(folder).as_posix(), path) for path in list_files(folder))


def _matches(name: str, base: Path, patterns: str | Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """The files of one domain's patterns, each once, in order of their names."""
    found: dict[str, Path] = {}
    for pattern in _as_list(patterns):
        start = "" if Path(pattern).is_absolute() else str(base)
        matches = [
            Path(start, match)
            for match in glob.glob(pattern, root_dir=start or None, recursive=True)
        ]
        if not matches:
            raise RecipeError(
                f"pattern {pattern!r} of domain {name!r} matches nothing below "
                f"{shown(base.absolute())}; mend the pattern, or leave it out."
            )
        for match in matches:
            files = list_files(match) if match.is_dir() else [match]
            found.update({path.as_posix(): path for path in files})
    root = os.path.commonpath([path.absolute().parent for path in found.values()]) if found else ""
    named = [(path.absolute().relative_to(root).as_posix(), path) for path in found.values()]
    return tuple(sorted(named, key=lambda file: os.fsencode(file[0])))


def _check_domain(name: str, num_files: int) -> None:
    if name in ("", ".", "..") or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise RecipeError(
            f"domain name {name!r} makes no folder; take one without slashes and leading dots."
        )
    if num_files == 0:
        raise RecipeError(
            f"domain {name!r} has no files (hidden, *.tmp and _* files do not count); put some "
            f"there, or leave the domain out."
        )
