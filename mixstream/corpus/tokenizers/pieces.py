"""A very long document -> pieces of bounded size that give the same ids one after the other.

A tokenizer's time and memory grow with the document it is given: 20 to 170 bytes of memory for
each byte, and n log n time where there is no space (benchmarks/tokenizer_backends.py). So a
document above MAX_PIECE_BYTES goes in pieces:

- It is cut after an ASCII letter and before an ASCII character that is no letter and no
  apostrophe. All patterns of patterns.py end a pretoken there, none looks at what comes before
  the place, and NFC joins nothing across it; so the ids are those of the whole document.
- A stretch of MAX_PIECE_BYTES without such a place (letters only, digits only, a script without
  ASCII) is cut at its end, before a character. Which ids stand around that one place may differ
  from what the whole document would give; the text does not. The place is a matter of the text
  alone, so that every back end gives the same ids.

A tokenizer of which this is not known (`separators` None: SentencePiece, Metaspace, a pattern of
one's own, a space put before each text) gets every document whole, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from mixstream.arrays import Counts, Tokens

__all__ = ["MAX_PIECE_BYTES", "are_short", "encoded_in_pieces", "pieces"]

MAX_PIECE_BYTES = 4 * 2**20
"""The longest text a back end is given, and about the most text in one call. At 4 MiB the worst
text takes 0.1 GB in gigatoken, 0.2 in fastokens and 0.7 in tokenizers."""

ALL_SEPARATORS = bytes(byte for byte in range(128) if not chr(byte).isalpha() and byte != 39)
"""ASCII characters that are no letter and no apostrophe."""

Encode: TypeAlias = Callable[[Sequence[bytes]], tuple[Tokens, Counts]]

_LETTERS = np.isin(np.arange(256), np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8))
_LETTERS |= np.roll(_LETTERS, -32)


def are_short(texts: Sequence[str]) -> bool:
    """Whether a back end may get texts as they are: none is cut, and one call takes them all."""
    sizes = [len(text) for text in texts]
    return sum(sizes) <= MAX_PIECE_BYTES and 4 * max(sizes, default=0) <= MAX_PIECE_BYTES


def encoded_in_pieces(
    encode: Encode,
    texts: Sequence[bytes],
    separators: bytes | None,
    *,
    max_bytes: int = MAX_PIECE_BYTES,
) -> tuple[Tokens, Counts]:
    """The ids of texts, of which `encode` gets about max_bytes at a time.

    Args:
        encode: texts -> (T,) uint32 ids and (n,) int64 counts.
        texts: n texts in UTF-8.
        separators: before which ASCII characters a document may be cut; None cuts none.
        max_bytes: of a piece, and of the texts of one call but for the last of them.

    Returns:
        (T,) uint32 ids and (n,) int64 counts that sum to T.
    """
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    if sizes.sum() <= max_bytes:
        return encode(texts)
    if separators is None or sizes.max() <= max_bytes:
        return _in_turns(encode, texts, sizes, max_bytes)
    split = [pieces(text, separators, max_bytes=max_bytes) for text in texts]
    parts = [piece for one in split for piece in one]
    sizes = np.fromiter(map(len, parts), np.int64, len(parts))
    ids, counts = _in_turns(encode, parts, sizes, max_bytes)
    firsts = np.cumsum([0, *map(len, split)])[:-1]
    return ids, np.add.reduceat(counts, firsts)


def pieces(text: bytes, separators: bytes, *, max_bytes: int = MAX_PIECE_BYTES) -> list[bytes]:
    """A text in pieces of at most max_bytes, cut as the module says.

    Args:
        text: UTF-8.
        separators: ASCII characters before which it may be cut.
        max_bytes: at least 4, so that a character fits.

    Returns:
        One piece or more; one after the other they are the text.

    >>> pieces(b"one two three", b" ", max_bytes=9)
    [b'one two', b' three']
    """
    found, start = [], 0
    while len(text) - start > max_bytes:
        cut = _last_cut(text, start, start + max_bytes, separators)
        found.append(text[start:cut])
        start = cut
    return [*found, text[start:]]


def _last_cut(text: bytes, start: int, stop: int, separators: bytes) -> int:
    """The last place in (start, stop] to cut at; looked for in the last 64 KiB first."""
    is_separator = np.isin(np.arange(256), np.frombuffer(separators, np.uint8))
    for begin in (max(start, stop - 65536), start):
        window = np.frombuffer(text, np.uint8, stop + 1 - begin, begin)
        places = np.flatnonzero(_LETTERS[window[:-1]] & is_separator[window[1:]])
        if len(places):
            return begin + int(places[-1]) + 1
    while stop > start + 1 and text[stop] & 0xC0 == 0x80:  # inside a character
        stop -= 1
    return stop


def _in_turns(
    encode: Encode, texts: Sequence[bytes], sizes: Counts, max_bytes: int
) -> tuple[Tokens, Counts]:
    turns = np.searchsorted(np.cumsum(sizes), np.arange(0, sizes.sum(), max_bytes), side="right")
    bounds = np.unique([0, *turns.tolist(), len(texts)]).tolist()
    encoded = [encode(texts[i:j]) for i, j in pairwise(bounds)]
    return (
        np.concatenate([ids for ids, _ in encoded]),
        np.concatenate([counts for _, counts in encoded]),
    )
