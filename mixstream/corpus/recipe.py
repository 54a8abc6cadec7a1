"""What a user asks of a conversion -> a Recipe: checked settings and each domain's raw files."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mixstream.corpus.files import KINDS, file_kind, list_files, shown
from mixstream.corpus.jsonfile import MAX_NAME_BYTES, checked_name
from mixstream.corpus.packing import DEFAULT_WINDOW_TOKENS, open_packer
from mixstream.corpus.shard import MAX_SHARD_BYTES
from mixstream.corpus.tokenizers import Tokenizer
from mixstream.errors import RecipeError, ShardError, SourceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DomainFiles",
    "Recipe",
    "RowSettings",
    "check_size",
    "domain_files",
    "read_recipe",
]

DomainFiles: TypeAlias = dict[str, tuple[tuple[str, Path], ...]]
"""For each domain its files in order, each with its name in the corpus's records."""

DEFAULT_SHARD_BYTES = 64 * 2**20
DEFAULT_UNIT_BYTES = 128 * 2**20  # of English in two-byte ids, about one shard
DEFAULT_MAX_DOCUMENT_BYTES = 128 * 2**20
_MAX_HEADER_BYTES = 2 * 4096  # of a shard, the offsets of its rows apart


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSettings:
    """Everything that the rows of a document depend on, the tokenizer's file by its hash."""

    tokenizer: Tokenizer
    """Text to ids."""
    seq_len: int
    """S, tokens a row."""
    packing: str = "concat"
    """"concat", "best_fit" or "pad"."""
    packing_window: int | None = None
    """Tokens that best_fit packs at a time; the default, or None for the other policies."""
    bos_id: int | None = None
    """Put before each document; None for nothing."""
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
        for name in ("seq_len", "shard_bytes", "max_document_bytes", "packing_window"):
            if name != "packing_window" or self.packing_window is not None:
                check_size(name, getattr(self, name))
        tokenizer, bad = self.tokenizer, self.on_bad_document
        if self.packing == "best_fit" and self.packing_window is None:
            object.__setattr__(self, "packing_window", DEFAULT_WINDOW_TOKENS)
        window = self.packing_window
        open_packer(self.packing, self.seq_len, tokenizer.end_id, window_tokens=window)
        if self.bos_id == tokenizer.end_id:
            raise RecipeError(
                f"tokenizer {tokenizer.name!r} has one id, {self.bos_id}, for the beginning and "
                f"the end of a text; two of them in a row would read as padding. Leave bos out: "
                f"the end id before a document marks its beginning."
            )
        if not 0 <= tokenizer.end_id < tokenizer.vocab_size:
            raise RecipeError(
                f"tokenizer {tokenizer.name!r} states end_id {tokenizer.end_id}, but a vocabulary "
                f"of {tokenizer.vocab_size}; mend its vocab_size."
            )
        if tokenizer.vocab_size > 2**32:
            raise RecipeError(
                f"tokenizer {tokenizer.name!r} states a vocabulary of {tokenizer.vocab_size}, but "
                f"rows hold ids below 2**32; renumber its ids."
            )
        num_bytes = self.rows_per_shard * (self._row_bytes + 4) + _MAX_HEADER_BYTES
        if num_bytes > MAX_SHARD_BYTES:
            raise RecipeError(
                f"shard_bytes {self.shard_bytes} and seq_len {self.seq_len} make shards of "
                f"{num_bytes} bytes, but the offsets in a shard end at {MAX_SHARD_BYTES}. Take a "
                f"smaller one."
            )
        if self.compression not in (None, "zstd"):
            raise RecipeError(f"compression is {self.compression!r}; take 'zstd', or none at all.")
        if bad not in ("skip", "raise"):
            raise RecipeError(f"on_bad_document is {bad!r}; take 'skip' or 'raise'.")

    @property
    def dtype(self) -> str:
        """The smallest of uint16 and uint32 that holds the vocabulary."""
        return "uint16" if self.tokenizer.vocab_size <= 2**16 else "uint32"

    @property
    def rows_per_shard(self) -> int:
        """Rows of every shard of a unit but the last."""
        return max(1, self.shard_bytes // self._row_bytes)

    @property
    def _row_bytes(self) -> int:
        return self.seq_len * (2 if self.dtype == "uint16" else 4)

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

    def __post_init__(self) -> None:
        check_size("unit_bytes", self.unit_bytes)


def check_size(name: str, value: int) -> None:
    """Raises RecipeError unless a setting is a whole number of at least 1."""
    if type(value) is not int:
        raise RecipeError(f"{name} is {value!r}; give a whole number.")
    if value < 1:
        raise RecipeError(f"{name} is {value}; give at least 1.")


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


def read_recipe(path: Path) -> dict[str, object]:
    """The arguments of `convert` that a TOML file gives.

    Paths in it start from its folder; patterns of domains from its `raw`, where it names one.

    Raises:
        RecipeError: no file, no TOML, or a key that `convert` does not take.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"recipe {shown(path)} cannot be read as TOML: {error}.") from error
    for key, value in content.items():
        if key not in _RECIPE_TYPES:
            known = ", ".join(sorted(_RECIPE_TYPES))
            raise RecipeError(f"unknown key {key!r} in recipe {shown(path)}; known are {known}.")
        if type(value) is not _RECIPE_TYPES[key]:
            raise RecipeError(
                f"{key} in recipe {shown(path)} is {value!r}; give a {_RECIPE_TYPES[key].__name__}."
            )
    start = Path() if "raw" in content else Path(glob.escape(str(path.parent.absolute())))
    for name, patterns in content.get("domains", {}).items():
        listed = _pattern_list(patterns, f"domains.{name} in recipe {shown(path)}")
        content["domains"][name] = [str(start / pattern) for pattern in listed]
    if "raw" in content:
        content["raw"] = str(path.parent / content["raw"])
    if content.get("tokenizer", "bytes") != "bytes":
        content["tokenizer"] = str(path.parent / content["tokenizer"])
    return content


_RECIPE_TYPES: dict[str, type] = {
    **dict.fromkeys(("raw", "tokenizer", "end_of_text", "packing", "text_field"), str),
    **dict.fromkeys(("compression", "on_bad_document", "tokenizer_backend"), str),
    **dict.fromkeys(("seq_len", "shard_bytes", "unit_bytes", "max_document_bytes"), int),
    **dict.fromkeys(("packing_window", "workers", "memory"), int),
    "bos": bool,
    "domains": dict,
}


def _pattern_list(patterns: str | Sequence[str], of: str) -> list[str]:
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
    for pattern in _pattern_list(patterns, f"the pattern of domain {name!r}"):
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
    if not fits or name.startswith(".") or name == "corpus.json":
        raise RecipeError(
            f"domain name {name!r} makes no folder of a corpus; take one in UTF-8, of at most "
            f"{MAX_NAME_BYTES} bytes, without slashes, control characters and a leading dot."
        )
    if num_files == 0:
        raise RecipeError(
            f"domain {name!r} has no files (hidden, *.tmp and _* files do not count); put some "
            f"there, or leave the domain out."
        )
