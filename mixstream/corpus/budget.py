"""Bytes of memory and settings -> how many processes may run at once, whatever the documents are.

Every stage holds a bounded amount (unit.py), so the most that a process takes follows from its
settings; tests/corpus/test_memory.py measures it.
"""

from __future__ import annotations

import numpy as np

from mixstream.corpus.machine import memory_bytes
from mixstream.corpus.recipe import RowSettings, check_size
from mixstream.errors import RecipeError

__all__ = ["worker_bytes", "workers_within"]

BASE_BYTES = 640 * 2**20
"""Python, the libraries and a large vocabulary, and 256 MiB of a fast tokenizer's cache."""

DOCUMENT_COPIES = 8
"""A document on its way from line to rows: line, text, UTF-8, ids, and their copies."""


def worker_bytes(settings: RowSettings) -> int:
    """The most memory that one process takes, the longest document included."""
    itemsize = np.dtype(settings.dtype).itemsize
    shard_bytes = settings.rows_per_shard * settings.seq_len * itemsize
    num_blocks = 2 if settings.compression is None else 3
    window_bytes = 3 * itemsize * (settings.packing_window or 0)
    longest = DOCUMENT_COPIES * settings.max_document_bytes
    return BASE_BYTES + num_blocks * shard_bytes + window_bytes + longest


def workers_within(memory: int | None, settings: RowSettings, workers: int) -> int:
    """As many workers as the memory holds, at most `workers` and at least one.

    Args:
        memory: bytes; None for three quarters of what there is, and then one worker runs anyway.
        settings: what the workers do.
        workers: as many as there may be.

    Raises:
        RecipeError: the memory that is given does not hold one.
    """
    one = worker_bytes(settings)
    if memory is None:
        return max(1, min(workers, memory_bytes() * 3 // 4 // one))
    check_size("memory", memory)
    if memory < one:
        raise RecipeError(
            f"memory is {memory:,} bytes, but one process may take {one:,}: documents of up to "
            f"{settings.max_document_bytes:,} bytes, shards of {settings.shard_bytes:,}, a window "
            f"of {settings.packing_window or 0:,} tokens. Give more memory, or a smaller "
            f"max_document_bytes, shard_bytes or packing_window."
        )
    return min(workers, memory // one)
