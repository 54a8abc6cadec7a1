"""(domain, shard) -> its rows, mapped; of a bad shard a good one's, if that is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixstream.corpus.cache import ShardStore
from mixstream.corpus.index import DomainShards
from mixstream.corpus.layout import map_shard
from mixstream.errors import ShardCorruptError, ShardError, ShardMissingError

__all__ = ["MappedShards", "OnBadShard"]

_LOG = logging.getLogger("mixstream")

OnBadShard: TypeAlias = Literal["raise", "skip"]

_MAX_EVICTIONS = 10
"""How often a shard is brought again that others evict before it is mapped."""


class MappedShards:
    """The shards of a corpus, each mapped when it is asked for.

    Args:
        domains: by number.
        seq_len: S of the corpus.
        store: where the shards lie.
        on_bad_shard: "raise", or "skip": a shard that is missing or damaged stands for the next
            good one of its domain, the first following the last, with at least as many rows; its
            row i for that one's row i. Every process finds the same one, for it depends on the
            stored bytes alone. Storage that cannot be reached, or may not be read, always raises.
    """

    def __init__(
        self,
        domains: Sequence[DomainShards],
        seq_len: int,
        store: ShardStore,
        *,
        on_bad_shard: OnBadShard = "raise",
    ) -> None:
        if on_bad_shard not in ("raise", "skip"):
            raise ValueError(f"on_bad_shard is {on_bad_shard!r}; choose 'raise' or 'skip'.")
        self.domains, self.store, self.on_bad_shard = tuple(domains), store, on_bad_shard
        self._seq_len = seq_len
        self._cached: dict[tuple[int, int], str] = {}

    def rows(self, domain: int, shard: int) -> NDArray[np.uint8]:
        """The rows of a shard as (n, row_bytes) bytes, read-only; at least as many as it has."""
        try:
            return self._mapped(domain, shard)
        except (ShardMissingError, ShardCorruptError) as error:
            if self.on_bad_shard == "raise":
                raise
            return self._substitute(domain, shard, error)

    def near(self, domain: int, shard: int) -> Path:
        """Bring a shard near without mapping it; raises as `ShardStore.path` does."""
        index = self.domains[domain].index
        return self.store.path(index.folder, index.entry(shard))

    def expect(self, domain: int, shard: int, when: float) -> None:
        """Note when a shard will be needed, in seconds since 1970."""
        index = self.domains[domain].index
        self.store.expect(index.folder, index.entry(shard), when)

    def evicts(self, domain: int, shard: int) -> bool:
        """Whether a shard belongs into the cache, from which it may go at any time."""
        index = self.domains[domain].index
        return self.store.evicts(index.folder, index.entry(shard))

    def is_evicted(self, domain: int, shard: int) -> bool:
        """Whether the file of a mapped shard has gone from the cache: its map keeps its bytes."""
        path = self._cached.get((domain, shard))
        return path is not None and not os.path.exists(path)  # a third of what Path.exists takes

    @property
    def may_be_evicted(self) -> bool:
        """Whether any shard was mapped from the cache."""
        return bool(self._cached)

    def bring(self, shards: Sequence[tuple[int, int]]) -> None:
        """Have several shards near, fetched at the same time; what is bad `rows` will say."""
        try:
            self.store.bring(
                [
                    (index.folder, index.entry(shard))
                    for index, shard in ((self.domains[d].index, s) for d, s in shards)
                ]
            )
        except (ShardMissingError, ShardCorruptError):
            if self.on_bad_shard == "raise":
                raise

    def _substitute(self, domain: int, bad: int, error: ShardError) -> NDArray[np.uint8]:
        """The rows of the next good shard that has as many."""
        name, num_rows = self.domains[domain].name, self.domains[domain].index.num_rows
        following = np.roll(np.arange(len(num_rows)), -bad - 1)[:-1]
        for shard in following[num_rows[following] >= num_rows[bad]].tolist():
            try:
                rows = self._mapped(domain, shard)
            except (ShardMissingError, ShardCorruptError):
                continue
            _LOG.warning(
                "skipped shard %d of domain %r (%d rows), of which shard %d is read instead: %s",
                bad, name, num_rows[bad], shard, error,
            )  # fmt: skip
            return rows
        raise ShardCorruptError(
            f"shard {bad} of domain {name!r} cannot be skipped: no other shard of the domain is "
            f"good and has its {num_rows[bad]} rows. Mend it: {error}"
        ) from error

    def _mapped(self, domain: int, shard: int) -> NDArray[np.uint8]:
        """The rows of one shard, checked to be what its domain's are."""
        index, dtype = self.domains[domain].index, self.domains[domain].dtype
        entry = index.entry(shard)
        for turn in range(_MAX_EVICTIONS):
            path = self.store.path(index.folder, entry)
            try:
                layout, rows = map_shard(path, entry)
                if (layout.seq_len, layout.dtype) != (self._seq_len, dtype):
                    raise ShardError(
                        f"{path} holds rows of {layout.seq_len} {layout.dtype.name} ids, but "
                        f"its corpus has rows of {self._seq_len} {dtype.name}. Convert the "
                        f"domain again."
                    )
            except ShardMissingError:
                if turn + 1 == _MAX_EVICTIONS or not self.store.evicts(index.folder, entry):
                    raise
                continue
            if self.store.evicts(index.folder, entry):
                self._cached[domain, shard] = str(path)
            return rows
        raise AssertionError("the last turn returns or raises")
