"""Sizes -> a corpus of random tokens in a folder, and a file of the same rows for the floors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixstream import Corpus, open_corpus
from mixstream.arrays import ADDRESS, Addresses, Counts, Rows
from mixstream.corpus.manifest import index_json, write_json
from mixstream.corpus.shard import write_shard

FLOOR_FILE = "rows.bin"


def write_corpus(
    folder: Path, num_rows: dict[str, int], *, seq_len: int, num_shards: int = 5
) -> None:
    """Each domain in so many shards; and all rows, domain after domain, in one bare file."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    with (folder / FLOOR_FILE).open("wb") as floor:
        for name, rows in num_rows.items():
            (folder / name).mkdir()
            tokens = rng.integers(0, 50_000, (rows, seq_len), dtype=np.uint16)
            floor.write(tokens.tobytes())
            entries = [
                write_shard(folder / name / f"shard.{i:05}.mds", part)
                for i, part in enumerate(np.array_split(tokens, num_shards))
            ]
            write_json(folder / name / "index.json", index_json(entries))


def open_written(folder: Path) -> Corpus:
    """The corpus in a folder of `write_corpus`."""
    return open_corpus({index.parent.name: index.parent for index in _indexes(folder)})


def open_floor(folder: Path, seq_len: int) -> Rows:
    """The same rows as one plain array over one map, each page touched once."""
    rows = np.asarray(np.memmap(folder / FLOOR_FILE, np.uint16, "r")).reshape(-1, seq_len)
    rows[:, ::512].max(initial=0)
    return rows


def addresses_of(places: Counts, corpus: Corpus) -> Addresses:
    """Row numbers of the bare file as addresses of the corpus."""
    ends = np.cumsum(corpus.num_rows)
    out = np.empty(places.size, ADDRESS)
    out["domain"] = np.searchsorted(ends, places, "right")
    out["row"] = places - (ends - corpus.num_rows)[out["domain"]]
    return out


def _indexes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/index.json"))
