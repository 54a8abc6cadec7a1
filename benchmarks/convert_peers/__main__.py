"""A peer, a task and a job as JSON -> a conversion, or a digest of what it wrote as JSON.

`python -m convert_peers '{"peer": "ours", "task": "convert", "job": {...}}'`, run by the peer's own
Python, with benchmarks/ on the path.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from convert_peers import Ids, Job


def main() -> None:
    spec = json.loads(sys.argv[1])
    paths = {key: Path(spec["job"][key]) for key in ("raw", "out", "tokenizer")}
    job = Job(**{**spec["job"], **paths})
    adapter = importlib.import_module(f"convert_peers.{spec['peer']}")
    if spec["task"] == "convert":
        adapter.convert(job)
    else:
        Path(spec["found"]).write_text(json.dumps(digest(adapter.read_ids(job), job.end_id)))


def digest(arrays: Iterable[Ids], end_id: int) -> dict[str, int | str]:
    """How many ids there are besides end ids and padding, and a hash of how often each occurs.

    Documents may lie in any order, so the order does not count; nor do end ids, with which rows
    are padded.
    """
    counts = np.zeros(2**16, np.int64)
    for ids in arrays:
        counts += np.bincount(ids.reshape(-1), minlength=len(counts))
    counts[end_id] = 0
    return {"tokens": int(counts.sum()), "sha256": hashlib.sha256(counts.tobytes()).hexdigest()}


if __name__ == "__main__":
    main()
