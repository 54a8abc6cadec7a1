"""A job -> the same text as packed token ids on disk, by us and by every peer.

An adapter is a module of this folder with

- `convert(job)`: a folder of JSON lines -> ids, the end id after each document, in the peer's own
  format and as its documentation recommends; `num_workers` processes;
- `read_ids(job)`: the ids that lie there, array by array, for a check that is not timed;
- `TITLE`: its name on the page.

Each runs in a process of its own, in the virtual environment of its line in `versions.json`. The
default library of all three peers is Hugging Face `tokenizers`; where an adapter itself calls the
tokenizer it takes the quickest call of either library, by whole batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OURS = "ours"
PEERS = ("datatrove_tokenizer", "litdata_optimize", "datasets_mds")
DEFAULT, FAST = LIBRARIES = ("tokenizers", "fastokens")
BATCH = 1000
"""Documents that are tokenized at once, where an adapter chooses."""

Ids = NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to convert."""

    raw: Path
    """A folder that holds one folder of .jsonl files, whose field `text` is wanted."""
    out: Path
    """Not there yet."""
    tokenizer: Path
    """A tokenizer.json of at most 65,536 ids, that appends nothing."""
    end_id: int
    end_of_text: str
    """As it is spelled; no text holds it."""
    library: str = DEFAULT
    """One of LIBRARIES."""
    seq_len: int = 2048
    num_workers: int = 2

    @property
    def files(self) -> list[str]:
        """The .jsonl files, sorted."""
        return sorted(map(str, self.raw.rglob("*.jsonl")))


def encoder(job: Job) -> Callable[[list[str]], list[Ids]]:
    """Texts -> ids of each with its end id, by the library of the job."""
    if job.library == FAST:
        import fastokens

        fast = fastokens.Tokenizer.from_file(str(job.tokenizer))

        def encode_fast(texts: list[str]) -> list[Ids]:
            ids, offsets = fast.encode_batch_flat(texts)
            edges = np.frombuffer(offsets, np.uint64)[1:-1].astype(np.int64)
            parts = np.split(np.frombuffer(ids, np.uint32), edges)
            return [ended(part, job.end_id) for part in parts]

        return encode_fast
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(str(job.tokenizer))
    return lambda texts: [ended(each.ids, job.end_id) for each in model.encode_batch_fast(texts)]


def ended(ids: Any, end_id: int) -> Ids:
    """Ids as uint16, with one more."""
    found = np.empty(len(ids) + 1, np.uint16)
    found[:-1], found[-1] = ids, end_id
    return found
