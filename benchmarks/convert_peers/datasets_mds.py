"""Hugging Face datasets and MDSWriter: `map` tokenizes, a loop packs rows and writes each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
from datasets import load_dataset
from streaming import LocalDataset, MDSWriter

from convert_peers import BATCH, Ids, Job, encoder

TITLE = "datasets map + MDSWriter"
_encoder = lru_cache(encoder)


def _tokenized(job: Job, batch: dict[str, list[str]]) -> dict[str, Any]:
    return {"ids": _encoder(job)(batch["text"])}


def convert(job: Job) -> None:
    """Its caches lie beside the result."""
    cache = str(job.out / "cache")
    texts = load_dataset("json", data_files=job.files, split="train", cache_dir=cache)
    documents = texts.map(
        partial(_tokenized, job),
        batched=True,
        batch_size=BATCH,
        num_proc=job.num_workers,
        remove_columns=texts.column_names,
    ).with_format("arrow")
    rest = np.empty(0, np.uint16)
    columns = {"tokens": f"ndarray:uint16:{job.seq_len}"}
    with MDSWriter(out=str(job.out / "mds"), columns=columns) as out:
        for batch in documents.iter(BATCH):
            held = np.concatenate([rest, batch["ids"].combine_chunks().flatten().to_numpy()])
            num_whole = len(held) // job.seq_len * job.seq_len
            for row in held[:num_whole].reshape(-1, job.seq_len):
                out.write({"tokens": row})
            rest = held[num_whole:]
        padding = np.full(-len(rest) % job.seq_len, job.end_id, np.uint16)
        if len(rest):
            out.write({"tokens": np.concatenate([rest, padding])})


def read_ids(job: Job) -> Iterator[Ids]:
    """Its rows."""
    return (sample["tokens"] for sample in LocalDataset(str(job.out / "mds")))
