"""What do start, jump and first batch cost for 10^12 rows in 10^5 shards over 1,000 domains?

Against 10^6 rows in 10 shards over 4 domains, and against 10^9 rows in as many shards and domains:
the cost is O(shards + K C), never O(rows), so the second ratio is about 1.
"""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Line, Report, in_turns, least, parser, report

from mixstream import MixSampler, open_corpus
from mixstream.arrays import Counts
from mixstream.corpus.index import index_json
from mixstream.corpus.shard import FileEntry, ShardEntry, token_columns

SIZES = {
    "10^6 rows, 10 shards": (10**6, 10, 4),
    "10^9 rows, 10^5 shards": (10**9, 10**5, 1000),
    "10^12 rows, 10^5 shards": (10**12, 10**5, 1000),
}
BATCH_SIZE = 1024
MAX_SHARD_BYTES = 2**32 - 1  # what an index may say at most; no byte of it is read here


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    rounds = 2 if settings.quick else 15
    layouts = {name: layout(*sizes) for name, sizes in SIZES.items()}
    with report("constant_cost", settings) as lines:
        makes = {name: partial(MixSampler, each, seed=17) for name, each in layouts.items()}
        compare(lines, "make the sampler", makes, rounds)
        jumps = {name: jump(each, 10**11) for name, each in layouts.items()}
        compare(lines, "make it, jump to row 10^11, draw 1,024 rows", jumps, rounds)
        with tempfile.TemporaryDirectory() as folder:
            del layouts["10^9 rows, 10^5 shards"]  # a second such corpus takes long to write
            opens = {n: opened(Path(folder) / n, each) for n, each in layouts.items()}
            compare(lines, "open the corpus (indexes alone)", opens, 1 if settings.quick else 3)


def compare(lines: Report, name: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    """The large one over each of the others, with the peaks of memory."""
    best = least(in_turns(calls, rounds=rounds, clock=time.perf_counter), 1)
    peak = {size: peak_bytes(call) / 2**20 for size, call in calls.items()}
    *others, large = calls
    for other in others:
        lines.add(
            Line(
                name=f"{name}: {large}",
                seconds=best[large],
                floor_seconds=best[other],
                floor=other,
                note=f"peak {peak[large]:.2f} MiB, of the floor {peak[other]:.2f} MiB",
            )
        )


def layout(num_rows: int, num_shards: int, num_domains: int) -> dict[str, Counts]:
    """Shards of equal size, dealt out to the domains as evenly as they go."""
    shards = np.full(num_shards, num_rows // num_shards)
    parts = np.array_split(shards, num_domains)
    return {f"d{index:04}": part for index, part in enumerate(parts)}


def jump(shards: dict[str, Counts], row: int) -> Callable[[], object]:
    """Making a sampler, loading the state of a row, and drawing a batch there."""
    state: Any = MixSampler(shards, seed=17).state_dict()
    weights = np.array(list(state["weights"].values()))
    counts = (weights * row).astype(np.int64)
    counts[0] += row - counts.sum()
    state |= {"row": row, "counts": [counts.tolist()]}

    def start() -> object:
        sampler = MixSampler(shards, seed=17)
        sampler.load_state_dict(state)
        return sampler.take(BATCH_SIZE)

    return start


def opened(folder: Path, shards: dict[str, Counts]) -> Callable[[], object]:
    """Opening a corpus of indexes without shards."""
    for name, rows in shards.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "index.json").write_text(json.dumps(index_json(entries(rows))))
    folders = {name: folder / name for name in shards}
    return lambda: open_corpus(folders)


def entries(rows: Counts) -> list[ShardEntry]:
    columns = token_columns(2048, np.uint16)
    return [
        ShardEntry(
            num_rows=num_rows,
            raw=FileEntry(
                name=f"shard.{number:05}.mds",
                num_bytes=MAX_SHARD_BYTES,
                hashes=(("xxh3_64", f"{number:016x}"),),
            ),
            columns=columns,
        )
        for number, num_rows in enumerate(rows.tolist())
    ]


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that a call holds above what was there."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
