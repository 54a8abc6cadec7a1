"""Rows of a unit, block by block -> shards of even size, written while the next one fills."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mixstream.arrays import Rows
from mixstream.corpus.recipe import RowSettings
from mixstream.corpus.segments import num_padding
from mixstream.corpus.shard import ShardEntry, write_shard

__all__ = ["ShardWriter", "shard_name"]


class ShardWriter:
    """Rows in, shards of `rows_per_shard` rows out; nothing runs any more once it is closed.

    One shard is written by a thread of its own while the next is filled: hashing, compression and
    the wait for the disk need no Python. Never more than two are in memory.
    """

    def __init__(self, folder: Path, settings: RowSettings) -> None:
        self._folder, self._settings = folder, settings
        self._shape = (settings.rows_per_shard, settings.seq_len)
        self._filling = np.empty((0, settings.seq_len), settings.dtype)
        self._spare: list[Rows] = []
        self._num_filled = 0
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[tuple[ShardEntry, int]] | None = None
        self._entries: list[ShardEntry] = []
        self.padding = 0
        """Ids of the written rows that are padding, counted in the rows themselves."""

    def close(self) -> None:
        """Waits for what is being written."""
        self._thread.shutdown()

    def add(self, rows: Rows) -> None:
        """Takes rows (r, S), and writes every shard that they fill."""
        while len(rows):
            if self._num_filled == 0:
                self._filling = self._spare.pop() if self._spare else self._new_block()
            start = self._num_filled
            some = rows[: len(self._filling) - start]
            self._filling[start : start + len(some)] = some
            self._num_filled += len(some)
            rows = rows[len(some) :]
            if self._num_filled == len(self._filling):
                self._write()

    def finished(self) -> list[ShardEntry]:
        """Writes what is left; the entries of all shards."""
        if self._num_filled:
            self._write()
        self._wait()
        return self._entries

    def _new_block(self) -> Rows:
        return np.empty(self._shape, self._settings.dtype)  # takes memory only where written

    def _write(self) -> None:
        self._wait()
        rows = self._filling[: self._num_filled]
        path = self._folder / shard_name(len(self._entries))
        self._written = self._thread.submit(self._write_one, path, rows)
        self._num_filled = 0

    def _write_one(self, path: Path, rows: Rows) -> tuple[ShardEntry, int]:
        entry = write_shard(path, rows, compression=self._settings.compression)
        padding = num_padding(rows, self._settings.tokenizer.end_id)
        self._spare.append(rows.base if rows.base is not None else rows)
        return entry, padding

    def _wait(self) -> None:
        if self._written is not None:
            entry, padding = self._written.result()
            self._entries.append(entry)
            self.padding += padding
            self._written = None


def shard_name(number: int) -> str:
    """The name of a raw shard, as stock writers number them."""
    return f"shard.{number:05}.mds"
