"""A path, or paths by domain name -> a Corpus: (domain, row) -> a view, addresses -> a block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixstream.arrays import Addresses, Counts, Rows
from mixstream.corpus.cache import raw_shard_path
from mixstream.corpus.gather import DomainShards, RowPool
from mixstream.corpus.index import ShardIndex, read_index
from mixstream.corpus.layout import TokenDtype, read_layout, token_encoding
from mixstream.corpus.manifest import Manifest, fingerprint, read_manifest
from mixstream.errors import ShardError

__all__ = ["Corpus", "open_corpus"]

MAX_READERS = 32
"""Threads that read the indexes of many domains; each mostly waits for its file system."""

MIXED = "Files of two conversions are mixed: copy the corpus or convert it again."


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Corpus:
    """An open corpus; `open_corpus` makes one. It may be pickled, and used after a fork."""

    domains: tuple[str, ...]
    """K names, in manifest order."""
    seq_len: int
    """S, token ids a row."""
    dtype: TokenDtype
    """Of the ids in a gathered block."""
    end_id: int | None
    """The end-of-text id; None for a corpus of others that was opened without one."""
    fingerprint: str
    """16 hex digits; see `mixstream.corpus.manifest.fingerprint`."""
    manifest: Manifest | None
    """What corpus.json says; None for a corpus of others."""
    layout: dict[str, Counts]
    """Rows of each shard of each domain: all that a sampler needs to know."""
    shard_bytes: Counts
    """(K,) int64, bytes of each domain's shards as they lie on disk."""
    pool: RowPool
    """The mapped shards."""

    def __repr__(self) -> str:
        return (
            f"Corpus({len(self.domains)} domains, {int(self.num_rows.sum()):,} rows of "
            f"{self.seq_len:,} {self.dtype.name}, fingerprint {self.fingerprint})"
        )

    @property
    def num_rows(self) -> Counts:
        """(K,) int64, rows of each domain."""
        return self.pool.num_rows

    def row(self, domain: str | int, row: int) -> Rows:
        """One row, (S,), read-only.

        It is a view of the shard where that is aligned and of the corpus's dtype, as all converted
        shards are; else a copy.

        Raises:
            ShardError: if there is no such row, or its shard is missing or damaged.
        """
        if isinstance(domain, str):
            if domain not in self.layout:
                raise ShardError(
                    f"no domain {domain!r}; the corpus holds {', '.join(self.domains)}"
                )
            domain = self.domains.index(domain)
        return self.pool.row(domain, row)

    def gather(self, addresses: Addresses, *, out: Rows | None = None) -> Rows:
        """The rows of a batch in one block.

        Args:
            addresses: (B,) of `mixstream.arrays.ADDRESS`.
            out: (B, S) of the corpus's dtype, or of one that holds it; a new block if not given.

        Returns:
            (B, S) in the order of the addresses.

        Raises:
            ShardError: if an address is of no row, or a shard is missing or damaged.
        """
        return self.pool.gather(addresses, out)


def open_corpus(
    path: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    cache: str | os.PathLike[str] | None = None,
    end_id: int | None = None,
) -> Corpus:
    """Open a converted corpus, or MDS folders of token rows that others wrote.

    Args:
        path: a folder that `mixstream convert` made; or one MDS folder, which becomes one domain of
            its name; or a mapping from domain name to MDS folder. Rows are of one length in all
            folders; ids of several dtypes come as the smallest one that holds them all.
        cache: a folder for the raw forms of compressed shards; beside them if not given.
        end_id: the end-of-text id of a corpus of others; converted ones know their own, and so do
            single folders of one that are opened where they lie.

    Raises:
        ShardError: if there is no such corpus, or it is unfinished, damaged or of another format.
    """
    cache_folder = None if cache is None else Path(cache)
    if isinstance(path, Mapping):
        folders = {name: Path(folder) for name, folder in path.items()}
        return _open_folders(folders, cache_folder, _known_end_id(folders, end_id))
    folder = Path(path)
    if (folder / "corpus.json").is_file():
        return _open_converted(folder, cache_folder, end_id)
    if (folder / ".mixstream").exists():
        raise ShardError(
            f"the conversion to {folder} has not finished. "
            f"Run the same convert command again: it goes on where it stopped."
        )
    if (folder / "index.json").is_file():
        folders = {folder.resolve().name: folder}
        return _open_folders(folders, cache_folder, _known_end_id(folders, end_id))
    raise ShardError(
        f"{folder} holds neither corpus.json nor index.json. Give a folder that `mixstream "
        f"convert` made, or MDS folders: open_corpus({{'name': 'folder', ...}})."
    )


def _open_converted(folder: Path, cache: Path | None, end_id: int | None) -> Corpus:
    manifest = read_manifest(folder)
    if end_id not in (None, manifest.tokenizer.end_id):
        raise ShardError(
            f"{folder / 'corpus.json'} says that the end-of-text id is "
            f"{manifest.tokenizer.end_id}, not {end_id}. Leave end_id out."
        )
    dtype: TokenDtype = np.dtype(manifest.dtype)
    indexes = _read_indexes({name: folder / name for name in manifest.domains})
    for name, entry in manifest.domains.items():
        found = int(indexes[name].num_rows.sum())
        if found != entry.rows:
            raise ShardError(
                f"{folder / name / 'index.json'} counts {found} rows, but {folder / 'corpus.json'} "
                f"{entry.rows}. {MIXED}"
            )
    domains = [DomainShards(name=name, index=index, dtype=dtype) for name, index in indexes.items()]
    corpus = _corpus(
        domains, (manifest.seq_len, dtype), cache, (manifest, manifest.tokenizer.end_id)
    )
    if corpus.fingerprint != manifest.fingerprint:
        raise ShardError(
            f"the shards that the indexes in {folder} name have fingerprint {corpus.fingerprint}, "
            f"but corpus.json says {manifest.fingerprint}. {MIXED}"
        )
    return corpus


def _open_folders(folders: Mapping[str, Path], cache: Path | None, end_id: int | None) -> Corpus:
    if not folders:
        raise ShardError("no domains to open; give at least one folder")
    indexes = _read_indexes(folders)
    kinds = {
        name: _row_kind(index, cache) for name, index in indexes.items() if index.num_rows.any()
    }
    if len({seq_len for _, seq_len in kinds.values()}) != 1:
        lengths = ", ".join(f"{name}: {seq_len}" for name, (_, seq_len) in kinds.items())
        raise ShardError(
            f"the domains have rows of no one length ({lengths or 'none has a row'}). "
            f"Open those of one length together."
        )
    any_dtype, seq_len = next(iter(kinds.values()))
    common = np.result_type(*(dtype for dtype, _ in kinds.values()))
    if common.kind not in "iu":
        names = ", ".join(sorted({dtype.name for dtype, _ in kinds.values()}))
        raise ShardError(f"no integer dtype holds the ids of all domains ({names})")
    domains = [
        DomainShards(name=name, index=index, dtype=kinds.get(name, (any_dtype, 0))[0])
        for name, index in indexes.items()
    ]
    return _corpus(domains, (seq_len, common), cache, (None, end_id))


def _known_end_id(folders: Mapping[str, Path], end_id: int | None) -> int | None:
    """The given end-of-text id, or the one that all folders, parts of converted corpora, share."""
    found: set[int | None] = set()
    for folder in folders.values():
        place = folder.resolve()
        beside = place.parent / "corpus.json"
        manifest = read_manifest(place.parent) if beside.is_file() else None
        known = manifest is not None and place.name in manifest.domains
        found.add(manifest.tokenizer.end_id if manifest is not None and known else None)
    if end_id is None and len(found) == 1:
        return found.pop()
    return end_id


def _row_kind(index: ShardIndex, cache: Path | None) -> tuple[TokenDtype, int]:
    """(dtype, S) of a folder's rows, as its index says, or else its first shard."""
    dtype, seq_len = token_encoding(index.columns, str(index.folder / "index.json"))
    if seq_len is None:
        entry = index.entry(int(np.flatnonzero(index.num_rows)[0]))
        seq_len = read_layout(raw_shard_path(index.folder, entry, cache), entry).seq_len
    return dtype, seq_len


def _read_indexes(folders: Mapping[str, Path]) -> dict[str, ShardIndex]:
    with ThreadPoolExecutor(min(MAX_READERS, len(folders) or 1)) as readers:
        return dict(zip(folders, readers.map(read_index, folders.values()), strict=True))


def _corpus(
    domains: list[DomainShards],
    rows: tuple[int, TokenDtype],
    cache: Path | None,
    origin: tuple[Manifest | None, int | None],
) -> Corpus:
    seq_len, dtype = rows
    manifest, end_id = origin
    contents = {domain.name: domain.index.contents() for domain in domains}
    return Corpus(
        domains=tuple(domain.name for domain in domains),
        seq_len=seq_len,
        dtype=dtype,
        end_id=end_id,
        fingerprint=fingerprint(seq_len, dtype.name, contents),
        manifest=manifest,
        layout={domain.name: domain.index.num_rows for domain in domains},
        shard_bytes=np.array([domain.index.stored_bytes for domain in domains], np.int64),
        pool=RowPool(domains, seq_len=seq_len, dtype=dtype, cache=cache),
    )
