"""How near is Corpus.gather to a bare take of the same rows from one map?

Each round reads every row at most once, in random order, as an epoch does; the corpus is larger
than the processor's cache, and all pages are mapped before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Line, Report, in_turns, least, parser, report, spread
from random_corpus import addresses_of, open_floor, open_written, write_corpus

CORPUS_BYTES = 1 << 28


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    num_bytes, rounds = (CORPUS_BYTES >> 4, 3) if settings.quick else (CORPUS_BYTES, 15)
    with report("gather", settings) as lines:
        for seq_len in (512, 2048, 8192):
            for num_domains in (4, 12):
                with tempfile.TemporaryDirectory() as folder:
                    compare(
                        lines, Path(folder) / "corpus", (seq_len, num_domains), num_bytes, rounds
                    )


def compare(
    lines: Report, folder: Path, sizes: tuple[int, int], num_bytes: int, rounds: int
) -> None:
    """A line a batch size for one corpus."""
    seq_len, num_domains = sizes
    num_rows = num_bytes // (2 * seq_len * num_domains)
    write_corpus(folder, {f"{d:02}": num_rows for d in range(num_domains)}, seq_len=seq_len)
    corpus, floor = open_written(folder), open_floor(folder, seq_len)
    for batch_size in (8, 32, 256):
        order = np.random.default_rng(batch_size).permutation(len(floor))
        places = list(order[: len(order) // batch_size * batch_size].reshape(-1, batch_size))
        addresses = [addresses_of(batch, corpus) for batch in places]
        for batch, rows in zip(addresses, places, strict=True):
            assert (corpus.gather(batch) == floor[rows]).all(), "both read the same rows"
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda batches=addresses: [corpus.gather(batch)[0, 0] for batch in batches],
            "floor": lambda batches=places: [floor.take(batch, 0)[0, 0] for batch in batches],
        }
        seconds = in_turns(calls, rounds=rounds)
        best = least(seconds, len(places))
        lines.add(
            Line(
                name=f"gather B={batch_size} S={seq_len} K={num_domains}",
                seconds=best["ours"],
                floor_seconds=best["floor"],
                floor="bare memmap take",
                rows=batch_size,
                note=f"{best['floor'] / best['ours']:.2f} of the floor's speed; spread "
                f"{spread(seconds['ours']):.2f}, {spread(seconds['floor']):.2f}",
            )
        )


if __name__ == "__main__":
    main()
