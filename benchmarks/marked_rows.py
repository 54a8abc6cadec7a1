"""Sizes -> random rows that say where they come from; batches -> the domain and row of each.

The first four ids of a row are its domain, the low and the high 15 bits of its number, and their
sum modulo 2^15, so that what a loader delivers is known from the batch alone, whoever it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BITS = 15
_MASK = (1 << _BITS) - 1


def write_marked(
    source: Path, num_rows: dict[str, int], *, seq_len: int, dtype: str = "uint16"
) -> None:
    """One .npy file a domain, (rows, S); domains count in the order of the mapping.

    Args:
        source: a folder that does not exist yet.
        num_rows: rows of each domain, fewer than 2^30; names in sorted order.
        seq_len: S, at least 4.
        dtype: "uint16" or "uint32".
    """
    assert list(num_rows) == sorted(num_rows), "adapters read the domains in sorted order"
    rng = np.random.default_rng(0)
    source.mkdir(parents=True)
    for domain, (name, rows) in enumerate(num_rows.items()):
        tokens = rng.integers(0, 50_000, (rows, seq_len), dtype=dtype)
        number = np.arange(rows)
        tokens[:, 0], tokens[:, 1], tokens[:, 2] = domain, number & _MASK, number >> _BITS
        tokens[:, 3] = tokens[:, :3].sum(axis=1, dtype=np.int64) & _MASK
        np.save(source / f"{name}.npy", tokens)


def marks_of(batch: Any) -> NDArray[np.int64]:
    """(B, S) ids, array or tensor -> (B, 2) domain and row.

    Raises:
        ValueError: an id that is not where it was written; the batch is named.
    """
    head = np.asarray(batch[:, :4]).astype(np.int64)
    wrong = (head[:, :3].sum(axis=1) & _MASK) != head[:, 3]
    if wrong.any():
        raise ValueError(
            f"row {int(wrong.argmax())} of a batch was not written so: {head[wrong][0]}"
        )
    return np.stack([head[:, 0], head[:, 1] + (head[:, 2] << _BITS)], axis=1)


def weights_of(num_domains: int) -> dict[str, float]:
    """Four domains as .5/.25/.15/.1, else as many equal ones."""
    shares = [0.5, 0.25, 0.15, 0.1] if num_domains == 4 else [1 / num_domains] * num_domains
    return {f"d{index:04}": share for index, share in enumerate(shares)}
