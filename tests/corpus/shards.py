"""MDS folders for tests: ours, and those that the stock writer makes."""

from pathlib import Path

import numpy as np

from mixstream.corpus.manifest import (
    DomainEntry,
    Manifest,
    TokenizerEntry,
    fingerprint,
    index_json,
    read_index,
    write_json,
    write_manifest,
)
from mixstream.corpus.shard import write_shard


def make_rows(num_rows, seq_len, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_rows, seq_len)).astype(dtype)


def write_domain(folder: Path, rows, *, rows_per_shard=7, compression=None):
    folder.mkdir(parents=True)
    parts = [rows[i : i + rows_per_shard] for i in range(0, len(rows), rows_per_shard)]
    entries = [
        write_shard(folder / f"shard.{i:05}.mds", part, compression=compression)
        for i, part in enumerate(parts)
    ]
    write_json(folder / "index.json", index_json(entries))
    return entries


def write_corpus(folder: Path, domains, *, compression=None):
    for name, rows in domains.items():
        write_domain(folder / name, rows, compression=compression)
    rows = next(iter(domains.values()))
    contents = {name: read_index(folder / name).contents() for name in domains}
    manifest = make_manifest(
        {name: len(rows) for name, rows in domains.items()},
        seq_len=rows.shape[1],
        dtype=rows.dtype.name,
        fingerprint=fingerprint(rows.shape[1], rows.dtype.name, contents),
    )
    write_manifest(folder, manifest)
    return manifest


def make_manifest(num_rows, *, seq_len=4, dtype="uint16", fingerprint="0" * 16):
    domains = {
        name: DomainEntry(
            documents=3,
            tokens=n * seq_len,
            rows=n,
            padding=0,
            rows_per_shard=7,
            dropped={"empty": 2},
            dropped_tokens=0,
        )
        for name, n in num_rows.items()
    }
    return Manifest(
        tokenizer=TokenizerEntry(name="bytes", sha256="", vocab_size=257, end_id=256),
        seq_len=seq_len,
        dtype=dtype,
        packing="concat",
        compression=None,
        recipe={"seq_len": seq_len, "nested": {"b": [1, 2.5, None], "a": "ü"}},
        domains=domains,
        fingerprint=fingerprint,
    )


def write_stock(folder: Path, rows, columns, **settings):
    """A folder of the stock MDSWriter: `tokens`, and `source`, `lang`, `id` if columns say so."""
    from streaming import MDSWriter

    settings = {"size_limit": 2000} | settings
    with MDSWriter(columns=columns, out=str(folder), **settings) as writer:
        for i, row in enumerate(rows):
            tokens = row.tobytes() if columns["tokens"] == "bytes" else row
            extra = {"source": f"{i % 10:03}", "lang": "en", "id": i}
            writer.write({"tokens": tokens} | {k: extra[k] for k in columns if k in extra})
