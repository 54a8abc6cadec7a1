"""mixstream convert: concatenated rows of S ids in MDS shards, one array a shard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convert_peers import DEFAULT, Ids, Job

TITLE = "mixstream convert"


def convert(job: Job) -> None:
    """Its own default finds the fast library, and proves it; the other has to be asked for."""
    from mixstream import convert

    convert(
        job.raw,
        job.out,
        tokenizer=job.tokenizer,
        seq_len=job.seq_len,
        workers=job.num_workers,
        tokenizer_backend="reference" if job.library == DEFAULT else None,
    )


def read_ids(job: Job) -> Iterator[Ids]:
    """Its rows, a shard at a time."""
    from mixstream import open_corpus

    corpus = open_corpus(job.out)
    assert corpus.manifest is not None
    library = corpus.manifest.tokenizer.library
    assert library == job.library, f"{library} took the place of {job.library}"
    for domain, num_rows in enumerate(corpus.num_rows.tolist()):
        for row in range(num_rows):
            yield np.asarray(corpus.row(domain, row))
