"""A path, or paths by domain name -> a Corpus: (domain, row) -> a view, addresses -> a block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixstream.arrays import Addresses, Counts, Rows
from mixstream.corpus.cache import ShardStore
from mixstream.corpus.cache_folder import CacheFolder, OnFullDisk
from mixstream.corpus.catalog import Catalog
from mixstream.corpus.gather import RowPool, warn_of_few_maps
from mixstream.corpus.layout import TokenDtype
from mixstream.corpus.manifest import Manifest
from mixstream.corpus.mapped import OnBadShard
from mixstream.corpus.opening import CorpusContents, Opener
from mixstream.corpus.remote import as_folder
from mixstream.corpus.storage import Storage, StorageSettings
from mixstream.errors import ShardError

__all__ = ["Corpus", "open_corpus"]


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
    path: str | None
    """The folder or URL that it was opened from; None for a mapping of several."""
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
    cache_bytes: int | None = None,
    on_full_disk: OnFullDisk = "raise",
    on_bad_shard: OnBadShard = "raise",
    end_id: int | None = None,
    timeout_seconds: float = 60.0,
    retry_seconds: float = 60.0,
    max_downloads: int = 8,
) -> Corpus:
    """Open a converted corpus, or MDS folders of token rows that others wrote, here or remote.

    Only the manifest and the indexes are read, and the first shard of a domain whose index does
    not state the length of its rows.

    Args:
        path: a folder that `mixstream convert` made; or one MDS folder, which becomes one domain of
            its name; or a mapping from domain name to MDS folder. Rows are of one length in all
            folders; ids of several dtypes come as the smallest one that holds them all. A folder
            may be the URL of a remote one: s3, gs, azure, azure-dl, oci, hf, sftp, dbfs, alipan, as
            mosaicml-streaming reads them (it documents their environment variables, such as
            S3_ENDPOINT_URL), or file:///folder for one that is to be copied to the cache.
        cache: a folder for the raw forms of remote and of compressed shards, which any number of
            processes and runs may share. Remote corpora need one; without, compressed shards are
            opened beside themselves.
        cache_bytes: what the cache may hold, on disk, together with what is being fetched; shards
            that are needed last go first. None for no limit.
        on_full_disk: "raise", or "shrink" the cache to what the disk has.
        on_bad_shard: "raise", or "skip": a shard that stays missing or damaged is read as the next
            good one of its domain with at least as many rows, and a warning is logged. Which shards
            those are depends on the stored bytes alone, so all ranks skip the same.
        end_id: the end-of-text id of a corpus of others; converted ones know their own, and so do
            single folders of one that are opened where they lie.
        timeout_seconds: how long one attempt at a remote object waits for it to come; it has 4 s
            more for each MiB that has come.
        retry_seconds: how long an unreachable object is tried again, with growing pauses.
        max_downloads: remote shards that one process fetches at the same time.

    Raises:
        ShardError: if there is no such corpus, or it is unfinished, damaged or of another format.
    """
    if cache is None and (cache_bytes is not None or on_full_disk != "raise"):
        raise ShardError(
            "cache_bytes and on_full_disk are about a cache, and none is named: "
            "open_corpus(..., cache='/nvme/mix', cache_bytes=...)."
        )
    settings = StorageSettings(
        timeout_seconds=timeout_seconds, retry_seconds=retry_seconds, max_downloads=max_downloads
    )
    folder = None
    if cache is not None:
        folder = CacheFolder(Path(cache), max_bytes=cache_bytes, on_full_disk=on_full_disk)
    storage = Storage(settings)
    store = ShardStore(folder, storage)
    opener = Opener(Catalog(storage), store)
    if isinstance(path, Mapping):
        contents = opener.folders({n: as_folder(each) for n, each in path.items()}, end_id)
    else:
        contents = opener.folder(as_folder(path), end_id)
    warn_of_few_maps(len(contents.domains))
    pool = RowPool(
        contents.domains,
        seq_len=contents.seq_len,
        dtype=contents.dtype,
        store=store,
        on_bad_shard=on_bad_shard,
    )
    where = None if isinstance(path, Mapping) else as_folder(path)
    if isinstance(where, Path):
        where = where.absolute()
    return _corpus(contents, pool, None if where is None else str(where))


def _corpus(contents: CorpusContents, pool: RowPool, path: str | None) -> Corpus:
    stored = [domain.index.stored_bytes for domain in contents.domains]
    return Corpus(
        domains=tuple(domain.name for domain in contents.domains),
        seq_len=contents.seq_len,
        dtype=contents.dtype,
        end_id=contents.end_id,
        fingerprint=contents.fingerprint,
        manifest=contents.manifest,
        layout={domain.name: domain.index.num_rows for domain in contents.domains},
        shard_bytes=np.array(stored, np.int64),
        path=path,
        pool=pool,
    )
