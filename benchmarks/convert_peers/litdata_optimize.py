"""litdata: `optimize` with a function that yields the ids of each document, for a TokensLoader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice

import litdata
import numpy as np
import orjson
import torch
from litdata import TokensLoader

from convert_peers import BATCH, Ids, Job, encoder

TITLE = "litdata optimize"


def _documents(job: Job, path: str) -> Iterator[torch.Tensor]:
    encode = encoder(job)
    with open(path, "rb") as lines:
        while texts := [orjson.loads(line)["text"] for line in islice(lines, BATCH)]:
            for ids in encode(texts):
                yield torch.from_numpy(ids)


def convert(job: Job) -> None:
    """A file is an input; chunks of whole blocks, of the 64 MiB that its documentation advises."""
    litdata.optimize(
        partial(_documents, job),
        inputs=job.files,
        output_dir=str(job.out),
        chunk_size=2**26 // 2 // job.seq_len * job.seq_len,
        item_loader=TokensLoader(block_size=job.seq_len),
        num_workers=job.num_workers,
        verbose=False,
    )


def read_ids(job: Job) -> Iterator[Ids]:
    """Its chunks, behind their headers of 4 bytes a document and 8 more."""
    for chunk in json.loads((job.out / "index.json").read_text())["chunks"]:
        start = 4 * (chunk["chunk_size"] + 2)
        yield np.fromfile(job.out / chunk["filename"], np.uint16, offset=start)
