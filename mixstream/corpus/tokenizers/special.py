"""Ids of documents -> the same with an id before and after each: beginning and end of text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mixstream.arrays import Counts, Rows, Tokens
from mixstream.errors import RecipeError

__all__ = ["with_end_ids", "with_special_ids"]


def with_special_ids(
    ids: Tokens,
    lengths: Counts,
    bos_id: int | None = None,
    *,
    eos_id: int | None,
    room: Callable[[int], Rows] | None = None,
) -> tuple[Rows, Counts]:
    """The same documents with the given ids around each; documents of no ids are left out.

    An end id alone would read as padding, so a document of no ids (a tokenizer that strips white
    space makes such) gets none. The caller counts them: `(lengths == 0).sum()`.

    Args:
        ids: (T,) uint32, documents one after the other.
        lengths: (n,) int64, ids of each.
        bos_id: put before each document; None for nothing. It may be the end id itself.
        eos_id: put after each document; None for nothing, and then nobody can tell where a
            document ends in a packed row.
        room: gives memory for so many ids, of a dtype that holds every one; new uint32 if left out.

    Returns:
        (T + k m,) ids and (m,) int64 lengths of the m documents that hold ids, each longer
        by k, the number of ids given.

    Raises:
        RecipeError: one of the given ids stands inside a document.

    >>> with_special_ids(np.array([5, 6, 7], np.uint32), np.array([2, 0, 1]), 1, eos_id=2)
    (array([1, 5, 6, 2, 1, 7, 2], dtype=uint32), array([4, 3]))
    """
    for what, special_id in (("end-of-text", eos_id), ("beginning-of-text", bos_id)):
        if special_id is not None:
            _check_none_inside(ids, lengths, special_id, what)
    num_before, num_after = int(bos_id is not None), int(eos_id is not None)
    lengths = lengths[lengths > 0] + (num_before + num_after)
    if num_before + num_after == 0:
        return ids, lengths
    ends = np.cumsum(lengths)
    num_ids = len(ids) + (num_before + num_after) * len(lengths)
    longer = np.empty(num_ids, np.uint32) if room is None else room(num_ids)
    is_text = np.ones(len(longer), np.bool_)
    if bos_id is not None:
        longer[ends - lengths] = bos_id
        is_text[ends - lengths] = False
    if eos_id is not None:
        longer[ends - 1] = eos_id
        is_text[ends - 1] = False
    longer[is_text] = ids
    return longer, lengths


def with_end_ids(ids: Tokens, lengths: Counts, end_id: int) -> tuple[Rows, Counts]:
    """with_special_ids with an end id alone.

    Args:
        ids: (T,) uint32, documents one after the other.
        lengths: (n,) int64, ids of each.
        end_id: the end-of-text id.

    Returns:
        (T + m,) uint32 ids and (m,) int64 lengths, all >= 2, of the m documents that hold ids.

    Raises:
        RecipeError: an end id stands inside a document.

    >>> with_end_ids(np.array([5, 6, 7], np.uint32), np.array([2, 0, 1]), end_id=0)
    (array([5, 6, 0, 7, 0], dtype=uint32), array([3, 2]))
    """
    return with_special_ids(ids, lengths, eos_id=end_id)


def _check_none_inside(ids: Tokens, lengths: Counts, special_id: int, what: str) -> None:
    found = ids == special_id
    if not found.any():
        return
    document = int(np.searchsorted(np.cumsum(lengths), int(np.argmax(found)), side="right"))
    raise RecipeError(
        f"the tokenizer gave its own {what} id {special_id} inside a text (text {document} of "
        f"{len(lengths)} in this batch). Choose a token as {what} that no text turns into."
    )
