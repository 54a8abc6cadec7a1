"""Folders, here or remote -> what corpus.json and index.json say: all that is read at open."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mixstream.corpus.index import ShardIndex, index_of, read_index
from mixstream.corpus.jsonfile import json_object
from mixstream.corpus.manifest import Manifest, manifest_of, read_manifest
from mixstream.corpus.remote import Folder, RemotePath
from mixstream.corpus.storage import Storage
from mixstream.errors import ShardForbiddenError, ShardMissingError

__all__ = ["Catalog"]

MAX_READERS = 32
"""Threads that read the indexes of many domains; each mostly waits for its file system."""

MAX_JSON_BYTES = 2**31
"""A larger index.json or corpus.json is not believed: a million shards take a quarter of it."""


class Catalog:
    """Reads manifests and indexes."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def manifest(self, folder: Folder) -> Manifest:
        """What corpus.json says; raises as `read_manifest` does."""
        if isinstance(folder, Path):
            return read_manifest(folder)
        where = folder / "corpus.json"
        return manifest_of(self._object(where), str(where))

    def manifest_or_none(self, folder: Folder) -> Manifest | None:
        """What corpus.json says, if there is one."""
        if isinstance(folder, Path):
            return read_manifest(folder) if (folder / "corpus.json").is_file() else None
        try:
            return self.manifest(folder)
        except (ShardMissingError, ShardForbiddenError):
            return None  # a bucket that may not be listed forbids what is missing

    def index(self, folder: Folder) -> ShardIndex:
        """What index.json says; raises as `read_index` does."""
        if isinstance(folder, Path):
            return read_index(folder)
        return index_of(self._object(folder / "index.json"), folder)

    def indexes(self, folders: Mapping[str, Folder]) -> dict[str, ShardIndex]:
        """The indexes of many domains, read in parallel."""
        with ThreadPoolExecutor(min(MAX_READERS, len(folders) or 1)) as readers:
            return dict(zip(folders, readers.map(self.index, folders.values()), strict=True))

    def _object(self, remote: RemotePath) -> dict[str, object]:
        with tempfile.TemporaryDirectory(prefix="mixstream-open-") as folder:
            found: list[dict[str, object]] = []
            self._storage.fetch(
                remote,
                Path(folder),
                lambda path: found.append(json_object(path.read_bytes(), str(remote))),
                max_bytes=MAX_JSON_BYTES,
            )
            return found[-1]
