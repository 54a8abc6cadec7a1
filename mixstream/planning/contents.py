"""A corpus, or the description of one that does not exist -> rows and bytes of every shard."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.arrays import Counts
from mixstream.corpus.corpus import Corpus
from mixstream.corpus.shard import MAX_SHARD_BYTES
from mixstream.errors import RecipeError
from mixstream.tomlfile import read_toml

__all__ = ["Contents", "contents_of", "described_contents"]

_HEADER_BYTES = 4
"""Of a shard's header, for each row: where it starts."""
_DTYPE_BYTES = {"uint16": 2, "uint32": 4}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contents:
    """What a plan needs to know of a corpus. Shards are numbered domain by domain, T of them."""

    layout: dict[str, Counts]
    """Rows of each shard of each domain."""
    seq_len: int
    """S, token ids a row."""
    stored_bytes: Counts
    """(T,) int64, what a download brings: compressed where the shard is."""
    raw_bytes: Counts
    """(T,) int64, what the cache holds of it."""
    made_bytes: Counts
    """(T,) int64, what it takes in the cache while it is made."""
    is_described: bool
    """Whether there is no such corpus, so that all bytes are estimates."""

    @property
    def num_rows(self) -> Counts:
        """(K,) int64, rows of each domain."""
        return np.array([rows.sum() for rows in self.layout.values()], np.int64)

    @property
    def first_shard(self) -> Counts:
        """(K + 1,) int64, the number of each domain's first shard, then T."""
        return np.cumsum([0, *(len(rows) for rows in self.layout.values())], dtype=np.int64)


def contents_of(corpus: Corpus) -> Contents:
    """What the indexes of an open corpus say; no shard is read."""
    indexes = [domain.index for domain in corpus.pool.shards.domains]
    raw = np.concatenate([index.raw_bytes for index in indexes])
    packed = np.concatenate([index.zip_bytes for index in indexes])
    return Contents(
        layout=corpus.layout,
        seq_len=corpus.seq_len,
        stored_bytes=np.where(packed > 0, packed, raw),
        raw_bytes=raw,
        made_bytes=raw + packed,
        is_described=False,
    )


def described_contents(text: str, *, seq_len: int | None = None) -> Contents:
    """A corpus that does not exist, its shards raw and of one size.

    Args:
        text: `NAME=ROWS:SHARDS,...` as in `web=1e12:1000000,code=2e9:4000`; or the path of a TOML
            file (it ends in .toml) of `seq_len`, `dtype` ("uint16" or "uint32") and a table
            `[domains]` of `NAME = { rows = N, shards = N }`.
        seq_len: ids of a row; 2,048 if neither this nor the file says.

    Raises:
        RecipeError: naming the file or the part that is wrong.
    """
    top: Mapping[str, Any] = (
        read_toml(Path(text)) if text.endswith(".toml") else {"domains": _parts(text)}
    )
    for key in top:
        if key not in ("seq_len", "dtype", "domains"):
            raise RecipeError(f"{text}: unknown key {key!r}; it knows seq_len, dtype, domains.")
    dtype = top.get("dtype", "uint32")
    if dtype not in _DTYPE_BYTES:
        raise RecipeError(f"{text}: 'dtype' is {dtype!r}; give one of {', '.join(_DTYPE_BYTES)}.")
    ids = _count(seq_len or top.get("seq_len", 2048), f"{text}: 'seq_len'")
    domains = top.get("domains")
    if not isinstance(domains, Mapping) or not domains:
        raise RecipeError(
            f"{text}: no domains; give NAME=ROWS:SHARDS, or a table [domains] of "
            f"NAME = {{ rows = N, shards = N }}."
        )
    layout = {
        name: _shard_rows(value, f"{text}, domain {name!r}") for name, value in domains.items()
    }
    row_bytes = ids * _DTYPE_BYTES[dtype] + _HEADER_BYTES
    for name, rows in layout.items():
        if rows.max() > MAX_SHARD_BYTES // row_bytes:
            raise RecipeError(
                f"{text}, domain {name!r}: shards of {rows.max()} rows of {row_bytes} bytes; a "
                f"shard holds {MAX_SHARD_BYTES} bytes at most. Give at least "
                f"{-(-int(rows.sum()) // (MAX_SHARD_BYTES // row_bytes))} shards."
            )
    raw = np.concatenate(list(layout.values())) * row_bytes
    return Contents(
        layout=layout,
        seq_len=ids,
        stored_bytes=raw,
        raw_bytes=raw,
        made_bytes=raw,
        is_described=True,
    )


def _parts(text: str) -> dict[str, Any]:
    """`web=10:2,code=5:1` -> {"web": {"rows": "10", "shards": "2"}, ...}."""
    domains: dict[str, Any] = {}
    for part in text.split(","):
        name, _, counts = part.rpartition("=")
        rows, colon, shards = counts.partition(":")
        if not (name and colon):
            raise RecipeError(f"{part!r} is not NAME=ROWS:SHARDS, as in web=1e12:1000000.")
        if name in domains:
            raise RecipeError(f"domain {name!r} is described twice; give each once.")
        domains[name] = {"rows": rows, "shards": shards}
    return domains


def _shard_rows(value: object, where: str) -> Counts:
    """Rows of each shard as `convert` cuts them: all of one size but the last."""
    if not isinstance(value, Mapping) or set(value) != {"rows", "shards"}:
        raise RecipeError(f"{where} is {value!r}; give {{ rows = N, shards = N }}.")
    rows, shards = (_count(value[key], f"{where}: {key!r}") for key in ("rows", "shards"))
    if shards > rows:
        raise RecipeError(
            f"{where}: {shards} shards of {rows} rows; give no more shards than rows."
        )
    size = -(-rows // shards)
    if size * (shards - 1) >= rows:  # too few rows for that: 10 rows in 7 shards
        return np.diff(np.arange(shards + 1) * rows // shards)
    return np.append(np.full(shards - 1, size, np.int64), rows - size * (shards - 1))


def _count(value: object, where: str) -> int:
    """A whole number of at least 1, perhaps as text and as in 1e12."""
    number = 0.0
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError):
            number = float(value)
    if not (1 <= number < 2**62 and number == int(number)):
        raise RecipeError(f"{where} is {value!r}; give a whole number of at least 1, as in 1e12.")
    return value if isinstance(value, int) else int(number)
