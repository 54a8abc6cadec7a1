"""datatrove: JsonlReader and DocumentTokenizer, a task a file: one stream of ids for each task."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import fastokens
import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer

from convert_peers import FAST, Ids, Job

TITLE = "datatrove DocumentTokenizer"


class _Model:
    """fastokens as DocumentTokenizer calls a tokenizer, with the end id that it would append."""

    def __init__(self, path: str, end_of_text: str) -> None:
        self._fast = fastokens.Tokenizer.from_file(path)
        self._end = [self._fast.token_to_id(end_of_text)]

    def get_vocab_size(self) -> int:
        return int(self._fast.vocab_size)

    def encode_batch(self, texts: list[str]) -> list[Any]:
        return [_Encoding(each.ids + self._end) for each in self._fast.encode_batch(texts)]


class _Encoding:
    def __init__(self, ids: list[int]) -> None:
        self.ids = ids


class _FastTokenizer(DocumentTokenizer):  # type: ignore[misc]
    @cached_property
    def tokenizer(self) -> Any:
        return _Model(self.tokenizer_name_or_path, self.eos_token)


def convert(job: Job) -> None:
    """Without its shuffle and merge, which read and write all ids once more each."""
    kind = _FastTokenizer if job.library == FAST else DocumentTokenizer
    step = kind(
        str(job.out / "ids"),
        tokenizer_name_or_path=str(job.tokenizer),
        eos_token=job.end_of_text,
        shuffle_documents=False,
    )
    LocalPipelineExecutor(
        [JsonlReader(str(job.raw), glob_pattern="*/*.jsonl"), step],
        tasks=len(job.files),
        workers=job.num_workers,
        logging_dir=str(job.out / "logs"),
    ).run()


def read_ids(job: Job) -> Iterator[Ids]:
    """Its files of bare ids."""
    for path in sorted((job.out / "ids").glob("*.ds")):
        yield np.fromfile(path, np.uint16)
