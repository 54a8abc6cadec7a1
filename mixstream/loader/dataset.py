"""Addresses of rows -> a batch of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from mixstream.arrays import ADDRESS, Addresses, Rows
from mixstream.corpus.corpus import Corpus
from mixstream.corpus.segments import padding_mask, segment_starts
from mixstream.errors import StateError

__all__ = ["IGNORED_LABEL", "Batch", "RowDataset", "passed_on"]

Batch: TypeAlias = dict[str, torch.Tensor]
"""input_ids (B, S) int64 or as stored, domain_ids (B,) int64, and what was asked for."""

IGNORED_LABEL = -100  # what torch.nn.functional.cross_entropy leaves out by default


class RowDataset(Dataset[Batch]):
    """The rows of a corpus as a map-style dataset, by address or by number.

    An address is what a sampler draws, or a pair (domain, row). A number counts the rows of all
    domains, one domain after the other, so that torch's own samplers work too.

    Args:
        corpus: what to read from.
        labels: add `labels` (B, S) int64, the next token at each place; -100 at the last place of a
            row and where the next token is padding.
        position_ids: add `position_ids` (B, S) int64, starting anew at each document of a row.
        cu_seqlens: add `cu_seqlens` (documents + 1,) int32, where each document of the flattened
            (B * S,) batch starts, then B * S, and `max_seqlen` () int64, the longest of them: what
            flash attention's varlen functions take. Padding counts as a document.
        document_ids: add `document_ids` (B, S) int32, which document of its row an id belongs to,
            from 0 on: FlexAttention's mask_mod compares those of query and key. Padding counts as
            a document.
        native: leave `input_ids` in the dtype in which they are stored, uint16 say: a quarter of
            the bytes on their way to a GPU, to be widened there by `.long()`. A Loader gathers the
            rows of several batches at once, so one that is kept keeps up to 1 MiB alive.

    Raises:
        StateError: position_ids, cu_seqlens or document_ids of a corpus that does not name its
            end-of-text id.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        labels: bool = False,
        position_ids: bool = False,
        cu_seqlens: bool = False,
        document_ids: bool = False,
        native: bool = False,
    ) -> None:
        if (position_ids or cu_seqlens or document_ids) and corpus.end_id is None:
            raise StateError(
                "position_ids, cu_seqlens and document_ids need the end-of-text id, and this "
                "corpus does not name one; give it: open_corpus(..., end_id=...)."
            )
        self.corpus = corpus
        self._labels, self._position_ids, self._cu_seqlens = labels, position_ids, cu_seqlens
        self._document_ids, self._native = document_ids, native

    def __len__(self) -> int:
        """Rows of all domains."""
        return int(self.corpus.num_rows.sum())

    def __getitem__(self, address: Any) -> Batch:
        """One row: the batch of it alone, without the first axis (cu_seqlens have none)."""
        batch = self.batch(self._addresses([address]))
        return {
            name: value if name in ("cu_seqlens", "max_seqlen") else value[0]
            for name, value in batch.items()
        }

    def __getitems__(self, addresses: Any) -> list[_WholeBatch]:
        """A batch of rows, in the form that torch's default collate passes on as it is."""
        return [_WholeBatch(self.batch(self._addresses(addresses)))]

    def batch(self, addresses: Addresses) -> Batch:
        """(B,) addresses -> a batch."""
        return self.batch_of(self.corpus.gather(addresses), addresses)

    def batch_of(self, rows: Rows, addresses: Addresses) -> Batch:
        """(B,) addresses, and their rows as `Corpus.gather` gives them -> a batch."""
        batch = {
            "input_ids": torch.from_numpy(rows if self._native else rows.astype(np.int64)),
            "domain_ids": torch.from_numpy(addresses["domain"].astype(np.int64)),
        }
        end_id = self.corpus.end_id
        if self._labels:
            batch["labels"] = torch.from_numpy(_next_tokens(rows, end_id))
        if end_id is not None and (self._position_ids or self._cu_seqlens or self._document_ids):
            starts = segment_starts(rows, end_id)
            if self._position_ids:
                batch["position_ids"] = torch.from_numpy(_positions(starts))
            if self._cu_seqlens:
                ends = _cu_seqlens(starts)
                batch["cu_seqlens"] = torch.from_numpy(ends)
                batch["max_seqlen"] = torch.tensor(int(np.diff(ends).max(initial=0)))
            if self._document_ids:
                batch["document_ids"] = torch.from_numpy(np.cumsum(starts, 1, np.int32) - 1)
        return batch

    def _addresses(self, indices: Any) -> Addresses:
        """Addresses as they are; pairs and row numbers as addresses."""
        found = np.asarray(indices)
        if found.dtype.names is not None:
            return found.astype(ADDRESS, copy=False)
        out = np.empty(len(found), dtype=ADDRESS)
        if found.ndim == 2:
            out["domain"], out["row"] = found.T
            return out
        ends = np.cumsum(self.corpus.num_rows)
        for number in found[(found < 0) | (found >= ends[-1])][:1]:
            raise IndexError(f"no row {number}; the corpus holds {ends[-1]} rows, from 0 on.")
        out["domain"] = np.searchsorted(ends, found, side="right")
        out["row"] = found - (ends - self.corpus.num_rows)[out["domain"]]
        return out


class _WholeBatch(dict[str, torch.Tensor]):
    """A batch that is collated already."""


def passed_on(
    batches: list[_WholeBatch],
    *,
    collate_fn_map: Mapping[type, Callable[..., Any]] | None = None,  # noqa: ARG001 (torch passes it)
) -> Batch:
    """The batch in a list of one."""
    return dict(batches[0])


# torch's own extension point: a stock DataLoader over RowDataset needs no collate_fn
default_collate_fn_map[_WholeBatch] = passed_on


def _next_tokens(rows: Rows, end_id: int | None) -> Rows:
    """(B, S) tokens -> (B, S) int64 labels."""
    labels = np.full(rows.shape, IGNORED_LABEL, dtype=np.int64)
    labels[:, :-1] = rows[:, 1:]
    if end_id is not None:
        labels[:, :-1][padding_mask(rows, end_id)[:, 1:]] = IGNORED_LABEL
    return labels


def _positions(starts: NDArray[np.bool_]) -> Rows:
    """(B, S) bool -> (B, S) int64: for starts [1, 0, 0, 1, 0] it is [0, 1, 2, 0, 1]."""
    places = np.arange(starts.shape[1])
    return np.asarray(places - np.maximum.accumulate(np.where(starts, places, 0), axis=1))


def _cu_seqlens(starts: NDArray[np.bool_]) -> Rows:
    """(B, S) bool -> int32: for starts [[1, 0, 1], [1, 0, 0]] it is [0, 2, 3, 6]."""
    return np.append(np.flatnonzero(starts), starts.size).astype(np.int32)
