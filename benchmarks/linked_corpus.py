"""Sizes -> corpora as large as one likes that take no disk: linked shards and sparse arrays.

Every shard of an MDS corpus is the same file under many names, so indexes, paths and reads are
those of a corpus of that size; and a sparse .npy file has all of its rows, as zeros.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mixstream.corpus.index import index_json
from mixstream.corpus.manifest import write_json
from mixstream.corpus.shard import write_shard

MAX_ROWS_PER_SHARD, MAX_LINKS = 1 << 16, 60_000  # ext4 has 65,000 names for a file


def write_linked(folder: Path, num_rows: int, num_domains: int, *, seq_len: int) -> list[str]:
    """MDS domains in folder/, and folder/source/NAME.npy; their names.

    Args:
        folder: a folder that does not exist yet.
        num_rows: of all domains together; rounded to whole shards.
        num_domains: K, of equal size.
        seq_len: S.
    """
    per_domain = num_rows // num_domains
    per_shard = min(MAX_ROWS_PER_SHARD, per_domain)
    num_shards = max(per_domain // per_shard, 1)
    (folder / "source").mkdir(parents=True)
    names = [f"d{index:04}" for index in range(num_domains)]
    first, links = folder / "shard.mds", 0
    entry = write_shard(first, np.zeros((per_shard, seq_len), np.uint16))
    for name in names:
        (folder / name).mkdir()
        index = index_json([entry] * num_shards)
        for number, shard in enumerate(index["shards"]):
            shard["raw_data"]["basename"] = f"shard.{number:06}.mds"
            if links == MAX_LINKS:
                first, links = folder / f"shard-{name}-{number}.mds", 0
                write_shard(first, np.zeros((per_shard, seq_len), np.uint16))
            os.link(first, folder / name / f"shard.{number:06}.mds")
            links += 1
        write_json(folder / name / "index.json", index)
        shape = (num_shards * per_shard, seq_len)
        np.lib.format.open_memmap(
            folder / "source" / f"{name}.npy", mode="w+", dtype=np.uint16, shape=shape
        ).flush()
    return names
