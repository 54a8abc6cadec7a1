"""Folders, here or remote -> the checked contents of a corpus: its domains and their shards."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mixstream.corpus.cache import ShardStore
from mixstream.corpus.catalog import Catalog
from mixstream.corpus.index import DomainShards, ShardIndex
from mixstream.corpus.layout import TokenDtype, read_layout, token_encoding
from mixstream.corpus.manifest import Manifest, fingerprint
from mixstream.corpus.remote import Folder, RemotePath
from mixstream.errors import ShardError, ShardForbiddenError, ShardMissingError

__all__ = ["CorpusContents", "Opener"]

_LOG = logging.getLogger("mixstream")

MIXED = "Files of two conversions are mixed: copy the corpus or convert it again."


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusContents:
    """What a corpus holds, by its manifest and indexes."""

    domains: list[DomainShards]
    seq_len: int
    """S."""
    dtype: TokenDtype
    """One that holds the ids of all domains."""
    manifest: Manifest | None
    end_id: int | None
    fingerprint: str


class Opener:
    """Opens corpora through one catalog, and one store for a shard that must be looked into."""

    def __init__(self, catalog: Catalog, store: ShardStore) -> None:
        self._catalog, self._store = catalog, store

    def folder(self, folder: Folder, end_id: int | None) -> CorpusContents:
        """A converted corpus, or one MDS folder as one domain."""
        if isinstance(folder, RemotePath):
            return self._open_remote(folder, end_id)
        if (folder / "corpus.json").is_file():
            return self._open_converted(folder, self._catalog.manifest(folder), end_id)
        if (folder / ".mixstream").exists():
            raise ShardError(
                f"the conversion to {folder} has not finished. "
                f"Run the same convert command again: it goes on where it stopped."
            )
        if (folder / "index.json").is_file():
            return self.folders({folder.resolve().name: folder}, end_id)
        raise ShardError(
            f"{folder} holds neither corpus.json nor index.json. Give a folder that `mixstream "
            f"convert` made, or MDS folders: open_corpus({{'name': 'folder', ...}})."
        )

    def _open_remote(self, folder: RemotePath, end_id: int | None) -> CorpusContents:
        try:
            manifest = self._catalog.manifest(folder)
        except (ShardMissingError, ShardForbiddenError) as error:
            try:
                return self.folders({folder.name: folder}, end_id)
            except (ShardMissingError, ShardForbiddenError):
                raise error from None
        return self._open_converted(folder, manifest, end_id)

    def _open_converted(
        self, folder: Folder, manifest: Manifest, end_id: int | None
    ) -> CorpusContents:
        if end_id not in (None, manifest.tokenizer.end_id):
            raise ShardError(
                f"{folder / 'corpus.json'} says that the end-of-text id is "
                f"{manifest.tokenizer.end_id}, not {end_id}. Leave end_id out."
            )
        dtype: TokenDtype = np.dtype(manifest.dtype)
        indexes = self._catalog.indexes({name: folder / name for name in manifest.domains})
        for name, entry in manifest.domains.items():
            # an append that is being put into place: its indexes come before its corpus.json
            indexes[name] = indexes[name].first_rows(entry.rows)
            found = int(indexes[name].num_rows.sum())
            if found != entry.rows:
                raise ShardError(
                    f"{folder / name / 'index.json'} counts {found} rows, but "
                    f"{folder / 'corpus.json'} {entry.rows}. {MIXED}"
                )
        domains = [
            DomainShards(name=name, index=index, dtype=dtype) for name, index in indexes.items()
        ]
        rows = (manifest.seq_len, dtype)
        corpus = _contents(domains, rows, (manifest, manifest.tokenizer.end_id))
        if corpus.fingerprint != manifest.fingerprint:
            raise ShardError(
                f"the shards that the indexes in {folder} name have fingerprint "
                f"{corpus.fingerprint}, but corpus.json says {manifest.fingerprint}. {MIXED}"
            )
        return corpus

    def folders(self, folders: Mapping[str, Folder], end_id: int | None) -> CorpusContents:
        """MDS folders as domains."""
        if not folders:
            raise ShardError("no domains to open; give at least one folder")
        indexes = self._catalog.indexes(folders)
        end_id = self._known_end_id(folders, end_id)
        for index in indexes.values():
            _say_what_is_not_checked(index)
        kinds = {
            name: self._row_kind(index) for name, index in indexes.items() if index.num_rows.any()
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
        return _contents(domains, (seq_len, common), (None, end_id))

    def _known_end_id(self, folders: Mapping[str, Folder], end_id: int | None) -> int | None:
        """The given end-of-text id, or the one that all folders, of converted corpora, share."""
        if end_id is not None:
            return end_id
        found: set[int | None] = set()
        places = [folder.resolve() for folder in folders.values()]
        manifests = {
            parent: self._catalog.manifest_or_none(parent)
            for parent in dict.fromkeys(place.parent for place in places)
        }
        for place in places:
            manifest = manifests[place.parent]
            known = manifest is not None and place.name in manifest.domains
            found.add(manifest.tokenizer.end_id if manifest is not None and known else None)
        return found.pop() if len(found) == 1 else None

    def _row_kind(self, index: ShardIndex) -> tuple[TokenDtype, int]:
        """(dtype, S) of a folder's rows, as its index says, or else its first shard."""
        dtype, seq_len = token_encoding(index.columns, str(index.folder / "index.json"))
        if seq_len is None:
            entry = index.entry(int(np.flatnonzero(index.num_rows)[0]))
            seq_len = read_layout(self._store.path(index.folder, entry), entry).seq_len
        return dtype, seq_len


def _contents(
    domains: list[DomainShards],
    rows: tuple[int, TokenDtype],
    origin: tuple[Manifest | None, int | None],
) -> CorpusContents:
    seq_len, dtype = rows
    shards = {domain.name: domain.index.contents() for domain in domains}
    return CorpusContents(
        domains=domains,
        seq_len=seq_len,
        dtype=dtype,
        manifest=origin[0],
        end_id=origin[1],
        fingerprint=fingerprint(seq_len, dtype.name, shards),
    )


def _say_what_is_not_checked(index: ShardIndex) -> None:
    """Warn of remote shards without a checksum: a wrong byte in one of them cannot be told."""
    num_without = int(((index.raw_hashes == b"") & (index.zip_hashes == b"")).sum())
    if isinstance(index.folder, RemotePath) and num_without:
        _LOG.warning(
            "%s names no checksum for %d of its %d shards: what is fetched is compared in size and "
            "header alone. Write them with hashes=['xxh3_64'] to have every byte checked.",
            index.folder / "index.json",
            num_without,
            len(index.num_rows),
        )
