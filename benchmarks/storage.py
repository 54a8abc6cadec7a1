"""How large is a corpus on disk, raw and compressed, and what does compression cost its reader?

The rows of mixed_text.py by a tokenizer of 50,257 ids, in shards as `convert` writes them. A time
is that of decompressing all shards; the floor is a copy of the raw ones in memory. `--compression
zstd` is level 3; the other levels are what they would be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import zstandard
from harness import Line, in_turns, least, parser, report
from mixed_text import mixed_texts, train_tokenizer, write_raw

import mixstream

TEXT_BYTES, LEVELS = 32_000_000, (1, 3, 9, 19)


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    num_bytes, levels = (2_000_000, LEVELS[:2]) if settings.quick else (TEXT_BYTES, LEVELS)
    with tempfile.TemporaryDirectory() as folder, report("storage", settings) as lines:
        texts = mixed_texts(num_bytes)
        tokenizer = Path(folder) / "tokenizer.json"
        train_tokenizer(texts, tokenizer)
        write_raw(Path(folder) / "raw", "jsonl", texts)
        out = Path(folder) / "out"
        report_ = mixstream.convert(
            Path(folder) / "raw", out, tokenizer=str(tokenizer), seq_len=2048, shard_bytes=1 << 23
        )
        shards = [path.read_bytes() for path in sorted(out.glob("*/shard.*.mds"))]
        found = report_.domains["mixed"]
        text_bytes = sum(len(text.encode()) for text in texts)
        for line in compared(shards, levels, (found.tokens, found.rows, text_bytes)):
            lines.add(line)


def compared(
    shards: list[bytes], levels: tuple[int, ...], sizes: tuple[int, int, int]
) -> list[Line]:
    """Raw rows, wider rows, and each level, against a copy of the raw rows."""
    num_tokens, num_rows, text_bytes = sizes
    raw_bytes = sum(map(len, shards))
    packed = {
        f"zstd level {level}": [zstandard.compress(shard, level) for shard in shards]
        for level in levels
    }
    calls: dict[str, Callable[[], object]] = {
        "raw": lambda: [np.frombuffer(shard, np.uint8).copy() for shard in shards]
    }
    calls |= {name: partial(decompressed, parts) for name, parts in packed.items()}
    best = least(in_turns(calls, rounds=5), 1)
    stored = {"raw": raw_bytes} | {name: sum(map(len, parts)) for name, parts in packed.items()}
    return [
        Line(
            name=f"{name}, uint16 rows of 2,048",
            seconds=best[name],
            floor_seconds=best["raw"],
            floor="a copy of the raw shards",
            rows=num_rows,
            note=f"{num_bytes / num_tokens:.2f} bytes a token, {num_bytes / text_bytes:.2f} of the "
            f"text's, {num_bytes / (8 * num_tokens):.2f} of int64 rows'",
        )
        for name, num_bytes in stored.items()
    ]


def decompressed(parts: list[bytes]) -> None:
    for part in parts:
        zstandard.decompress(part)


if __name__ == "__main__":
    main()
