"""What a user asks of a conversion -> a Recipe: checked settings and each domain's raw files."""

from __future__ import annotations

import glob
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from mixstream.corpus.domain_files import DomainFiles, domain_files, pattern_list
from mixstream.corpus.files import shown
from mixstream.corpus.packing import DEFAULT_WINDOW_TOKENS, RowForm, open_packer
from mixstream.corpus.remote import is_remote
from mixstream.corpus.shard import MAX_SHARD_BYTES
from mixstream.corpus.tokenizers import Tokenizer
from mixstream.errors import RecipeError

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

DEFAULT_SHARD_BYTES = 64 * 2**20
DEFAULT_UNIT_BYTES = 128 * 2**20  # of English in two-byte ids, about one shard
DEFAULT_MAX_DOCUMENT_BYTES = 128 * 2**20
DEFAULT_ID_FIELD = "id"
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
    provenance: bool = False
    """Whether to note where each piece of each document stands and comes from."""
    id_field: str | None = None
    """With provenance: field or column that says what a document is called."""
    dedup: str | None = None
    """"exact" keeps the first document of each text; None keeps all."""

    def __post_init__(self) -> None:
        for name in ("seq_len", "shard_bytes", "max_document_bytes", "packing_window"):
            if name != "packing_window" or self.packing_window is not None:
                check_size(name, getattr(self, name))
        tokenizer, bad = self.tokenizer, self.on_bad_document
        if self.packing == "best_fit" and self.packing_window is None:
            object.__setattr__(self, "packing_window", DEFAULT_WINDOW_TOKENS)
        window = self.packing_window
        open_packer(self.packing, RowForm(self.seq_len, tokenizer.end_id), window_tokens=window)
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
        if self.dedup not in (None, "exact"):
            raise RecipeError(f"dedup is {self.dedup!r}; take 'exact', or none at all.")
        if self.provenance and self.id_field is None:
            object.__setattr__(self, "id_field", DEFAULT_ID_FIELD)
        if self.id_field is not None and not self.provenance:
            raise RecipeError(
                f"id_field is {self.id_field!r}, but nothing notes the ids of documents without "
                f"provenance. Ask for provenance, or leave id_field out."
            )

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
        """The settings as JSON holds them; equal descriptions give equal rows.

        The last three are there when they are asked for: older corpora do not know them.
        """
        tokenizer = self.tokenizer
        stated = {field.name: getattr(self, field.name) for field in fields(self)}
        optional = ("provenance", "id_field", "dedup")
        return {
            **{
                name: value
                for name, value in stated.items()
                if name != "tokenizer" and (value or name not in optional)
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


def read_recipe(path: Path) -> dict[str, object]:
    """The arguments of `convert` that a TOML file gives.

    Paths in it start from its folder; patterns of domains from its `raw`, where it names one. URLs
    stay as they are.

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
        listed = pattern_list(patterns, f"domains.{name} in recipe {shown(path)}")
        content["domains"][name] = [
            pattern if is_remote(pattern) else str(start / pattern) for pattern in listed
        ]
    if "raw" in content and not is_remote(content["raw"]):
        content["raw"] = str(path.parent / content["raw"])
    if content.get("tokenizer", "bytes") != "bytes":
        content["tokenizer"] = str(path.parent / content["tokenizer"])
    return content


_RECIPE_TYPES: dict[str, type] = {
    **dict.fromkeys(("raw", "tokenizer", "end_of_text", "packing", "text_field"), str),
    **dict.fromkeys(("compression", "on_bad_document", "tokenizer_backend"), str),
    **dict.fromkeys(("dedup", "id_field", "check"), str),
    **dict.fromkeys(("seq_len", "shard_bytes", "unit_bytes", "max_document_bytes"), int),
    **dict.fromkeys(("packing_window", "workers", "memory"), int),
    **dict.fromkeys(("bos", "provenance", "redo_changed"), bool),
    "domains": dict,
}
