"""Rows drawn -> what a run has consumed of each domain, and what is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.loader.batch_sampler import MixBatchSampler

__all__ = ["Consumption", "consumed_at", "remaining_at"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Consumption:
    """Rows of each domain; exact at the delivered row."""

    domains: tuple[str, ...]
    """The K names."""
    rows: Counts
    """(K,) int64."""
    seq_len: int
    """S, token ids a row."""
    rows_an_epoch: Counts
    """(K,) int64, rows of one pass over the domain."""

    @property
    def tokens(self) -> Counts:
        """(K,) int64, token ids of these rows, padding included."""
        return self.rows * self.seq_len

    @property
    def epochs(self) -> Vector:
        """(K,) float64, passes over the domain; 0 for one without rows."""
        return np.asarray(self.rows / np.maximum(self.rows_an_epoch, 1), dtype=np.float64)


def consumed_at(batches: MixBatchSampler, step: int, seq_len: int) -> Consumption:
    """What all ranks have drawn before a step that is not forgotten."""
    return Consumption(
        domains=batches.sampler.domains,
        rows=np.asarray(batches.counts(step).sum(axis=0)),
        seq_len=seq_len,
        rows_an_epoch=batches.sampler.num_rows.copy(),
    )


def remaining_at(batches: MixBatchSampler, step: int, seq_len: int) -> Consumption:
    """What is left then, at least 0: until max_epochs, or until each row has come once."""
    consumed, sampler = consumed_at(batches, step, seq_len), batches.sampler
    return Consumption(
        domains=consumed.domains,
        rows=np.maximum(sampler.num_draws - consumed.rows, 0),
        seq_len=seq_len,
        rows_an_epoch=consumed.rows_an_epoch,
    )
