"""A corpus folder -> what its corpus.json says, every value checked; and the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

from mixstream.corpus.index import index_json, read_index
from mixstream.corpus.jsonfile import (
    MEND,
    Json,
    brief,
    checked_name,
    count,
    one_of,
    read_object,
    text_or_none,
    wanted,
    write_json,
)
from mixstream.errors import ShardError

__all__ = [
    "DomainEntry",
    "Json",
    "Manifest",
    "TokenizerEntry",
    "fingerprint",
    "index_json",
    "manifest_of",
    "read_index",
    "read_manifest",
    "write_json",
    "write_manifest",
]

FORMAT = 1
"""Version of corpus.json; a reader refuses any other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerEntry:
    """The tokenizer whose ids a corpus holds."""

    name: str
    sha256: str
    """Of the file that defines it; empty for one without a file."""
    vocab_size: int
    end_id: int
    """The end-of-text id that ends each document."""
    bos_id: int | None = None
    """The id that stands before each document; None for none."""
    special_ids: Mapping[str, int] = field(default_factory=dict)
    """Of all special tokens, by their spelling."""
    library: str = ""
    """What made the ids; empty for an object of one's own."""
    version: str = ""
    """Of that library."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainEntry:
    """What a conversion made of one domain: tokens = rows * S - padding + dropped_tokens."""

    documents: int
    tokens: int
    """Ids of all documents, end-of-text ids included, before packing."""
    rows: int
    padding: int
    """Ids that stand in rows only to fill them."""
    rows_per_shard: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> documents that went into no row for it."""
    dropped_tokens: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of all documents that went into rows."""
    documents_cut: int = 0
    """Documents that do not stand whole in one row; 0 too in a corpus that did not count them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What corpus.json says; the order of `domains` is the order of the weights."""

    tokenizer: TokenizerEntry
    seq_len: int
    dtype: str
    """uint16 or uint32."""
    packing: str
    compression: str | None
    recipe: Mapping[str, Json]
    """The settings of the conversion, as the conversion states them."""
    domains: Mapping[str, DomainEntry]
    fingerprint: str
    history: Sequence[Json] = ()
    """What the corpus was before it was appended to or lost a domain, oldest first: fingerprint,
    and for each domain the number of shards and rows, of which the corpus still has the first."""


def fingerprint(
    seq_len: int, dtype: str, domains: Mapping[str, Sequence[tuple[int, int, str]]]
) -> str:
    """16 hex digits that change when any row, shard border, domain name or domain order does.

    It is taken over raw shards, so a corpus and its compressed version have the same one. Shards
    that others wrote without hashes count by their sizes alone.

    Args:
        seq_len: S.
        dtype: name of the ids' dtype.
        domains: (rows, raw bytes, `algorithm:digest` of the raw file) of each domain's shards.
    """
    digest = blake2b(json.dumps([FORMAT, seq_len, dtype]).encode(), digest_size=8)
    for name, shards in domains.items():
        digest.update(json.dumps([name, len(shards)]).encode() + b"\n")
        lines = (f"{rows} {num_bytes} {raw_hash}\n" for rows, num_bytes, raw_hash in shards)
        digest.update("".join(lines).encode())
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write corpus.json, the last file of a conversion.

    The keys of a JSON object have no order that survives every tool, so `domain_order` states it.
    """
    value = asdict(manifest) | {"format": FORMAT, "domain_order": list(manifest.domains)}
    if not manifest.history:
        del value["history"]
    write_json(folder / "corpus.json", value)


def read_manifest(folder: Path) -> Manifest:
    """Read corpus.json.

    Raises:
        ShardError: if it is missing, damaged or of another format version.
    """
    return manifest_of(read_object(folder / "corpus.json"), str(folder / "corpus.json"))


def manifest_of(top: Mapping[str, object], where: str) -> Manifest:
    """The manifest in the JSON object of a corpus.json; raises as `read_manifest` does."""
    if (found := top.get("format")) != FORMAT:
        raise ShardError(
            f"{where}: key 'format' is {brief(found)}, but this version of mixstream reads "
            f"format {FORMAT}. Install the version that wrote it, or convert the corpus again."
        )
    return Manifest(
        tokenizer=_tokenizer(wanted(top, "tokenizer", dict, where), f"{where}, tokenizer"),
        seq_len=count(top, "seq_len", where, least=1),
        dtype=one_of(top, "dtype", ("uint16", "uint32"), where),
        packing=wanted(top, "packing", str, where),
        compression=text_or_none(top, "compression", where),
        recipe=wanted(top, "recipe", dict, where),
        domains=_domains(top, where),
        fingerprint=wanted(top, "fingerprint", str, where),
        history=tuple(wanted({"history": [], **top}, "history", list, where)),
    )


def _tokenizer(values: Mapping[str, object], where: str) -> TokenizerEntry:
    values = {"bos_id": None, "special_ids": {}, "library": "", "version": "", **values}
    special_ids: dict[str, object] = wanted(values, "special_ids", dict, where)
    return TokenizerEntry(
        name=wanted(values, "name", str, where),
        sha256=wanted(values, "sha256", str, where),
        vocab_size=count(values, "vocab_size", where, least=1),
        end_id=count(values, "end_id", where),
        bos_id=None if values["bos_id"] is None else count(values, "bos_id", where),
        special_ids={token: count(special_ids, token, where) for token in special_ids},
        library=wanted(values, "library", str, where),
        version=wanted(values, "version", str, where),
    )


def _domains(top: Mapping[str, object], where: str) -> dict[str, DomainEntry]:
    stated: dict[str, object] = wanted(top, "domains", dict, where)
    order = wanted(top, "domain_order", list, where)
    if not all(isinstance(name, str) for name in order) or sorted(order) != sorted(stated):
        raise ShardError(
            f"{where}: key 'domain_order' is {brief(order)}, but 'domains' names "
            f"{', '.join(stated):.80}. {MEND}"
        )
    return {name: _domain_entry(stated, checked_name(name, where), where) for name in order}


def _domain_entry(stated: Mapping[str, object], name: str, where: str) -> DomainEntry:
    values = wanted(stated, name, dict, f"{where}, domains")
    where = f"{where}, domain {name!r}"
    dropped: dict[str, object] = wanted(values, "dropped", dict, where)
    return DomainEntry(
        documents=count(values, "documents", where),
        tokens=count(values, "tokens", where),
        rows=count(values, "rows", where),
        padding=count(values, "padding", where),
        rows_per_shard=count(values, "rows_per_shard", where, least=1),
        dropped={reason: count(dropped, reason, f"{where}, dropped") for reason in dropped},
        dropped_tokens=count(values, "dropped_tokens", where),
        text_bytes=count(values, "text_bytes", where),
        documents_cut=count({"documents_cut": 0, **values}, "documents_cut", where),
    )
