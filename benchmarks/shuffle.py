"""How well is a stream shuffled, for how much of the corpus that must be near?

Neighbours of a domain in the stream: how far apart they lie in the source (1 is random), and how
many lie side by side. Beside it the shards (256 rows each, in every format) that lie between
their first and last row at once: what a cache must hold if no shard is to be fetched twice.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from marked_rows import weights_of, write_marked
from mixture_statistics import adjacent_share, most_shards_open, neighbour_distance
from peers import OURS, PEERS, ROWS_PER_SHARD, Job
from side_by_side import Contest, Page, peer_parser

SEQ_LEN, BATCH_SIZE = 16, 32
WEIGHTS = weights_of(4)
COLUMNS = [
    "contender",
    "setting",
    "rows",
    "distance of neighbours (1 is random)",
    "side by side",
    "shards open at once",
    "of all shards",
]
BLOCKS = [{"shuffle_block_rows": size} for size in (512, 2048, 8192, 1 << 18)]
BUFFERS: list[dict[str, Any]] = [{"buffer": size} for size in (100, 1000, 10_000)]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    OURS: BLOCKS,
    "mosaicml_streaming": [{"shuffle_block_size": size} for size in (512, 2048, 8192, 1 << 18)],
    "webdataset_mix": BUFFERS,
    "hf_datasets": BUFFERS,
    "energon": BUFFERS,
}


def main() -> None:
    settings = peer_parser(__doc__ or "").parse_args()
    page = Page("shuffle")
    page.table("Shuffle of an epoch against what must be near", COLUMNS)
    total = 4096 if settings.quick else 1 << 16
    num_rows = {name: int(total * weight) for name, weight in WEIGHTS.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        Contest(page, Path(folder), (OURS, *settings.peers), settings.home) as contest,
    ):
        source = Path(folder) / "corpus" / "source"
        write_marked(source, num_rows, seq_len=SEQ_LEN)
        num_shards = sum(-(-rows // ROWS_PER_SHARD) for rows in num_rows.values())
        for name in contest.write(source, weights=WEIGHTS, seq_len=SEQ_LEN):
            steps = total // BATCH_SIZE
            job = contest.job(name, source, weights=WEIGHTS, seq_len=SEQ_LEN, num_steps=steps)
            varied = SETTINGS.get(name, [{}])
            for options in varied[1:2] if settings.quick and len(varied) > 1 else varied:
                shuffled(
                    contest,
                    name,
                    replace(job, options=options),
                    list(num_rows.values()),
                    num_shards,
                )
    if settings.json:
        page.write(settings.json, " ".join(["python", *sys.argv]))


def shuffled(contest: Contest, name: str, job: Job, num_rows: list[int], num_shards: int) -> None:
    """A line a contender and setting."""
    path = contest.work / f"{name}.npy"
    if contest.run(name, "record", job, marks=str(path)) is None:
        return
    marks = np.load(path)
    num_open = most_shards_open(marks, ROWS_PER_SHARD)
    contest.page.add(
        name,
        ", ".join(f"{key}={value}" for key, value in job.options.items()),
        marks.size // 2,
        neighbour_distance(marks, np.array(num_rows)),
        adjacent_share(marks),
        num_open,
        num_open / num_shards,
    )


if __name__ == "__main__":
    assert set(SETTINGS) <= {OURS, *PEERS}, "settings are of contenders"
    main()
