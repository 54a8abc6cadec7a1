"""A tokenizer as it is named -> the fastest back end that is proven to give the reference's ids."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from mixstream.arrays import Counts, Tokens
from mixstream.corpus.tokenizers.backends import FAST_BACKENDS, FastTokenizer, fastest_first
from mixstream.corpus.tokenizers.base import Tokenizer, Utf8Tokenizer
from mixstream.corpus.tokenizers.hardcases import hard_cases
from mixstream.corpus.tokenizers.opening import open_tokenizer
from mixstream.corpus.tokenizers.vocabulary import Reference
from mixstream.errors import RecipeError

__all__ = ["BACKENDS", "Difference", "first_difference", "proven_tokenizer"]

BACKENDS = (*FAST_BACKENDS, "reference")
"""Names of back ends. The reference is tokenizers, tiktoken or sentencepiece."""

MAX_SAMPLE_BYTES = 2 * 2**20
"""Of real text in a proof: 1 s for the slowest reference."""

MAX_DOCUMENT_BYTES = 64 * 2**10
"""Of each sample, so that one long document leaves room for others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The first id in which two tokenizers differ."""

    document: str
    """Which text: the name of a hard case, or the number of a sample."""
    position: int
    """Of the id in that text's ids, from 0."""
    given: int | None
    """The id of the tokenizer under proof; None where it has no more."""
    expected: int | None
    """The reference's; None where it has no more."""

    def __str__(self) -> str:
        given, expected = ("none" if i is None else str(i) for i in (self.given, self.expected))
        return (
            f"in {self.document}, at position {self.position}: id {given}, where the reference has "
            f"{expected}"
        )


def proven_tokenizer(
    tokenizer: str | os.PathLike[str] | Tokenizer,
    samples: Sequence[bytes] = (),
    *,
    backend: str | None = None,
    end_of_text: str | None = None,
    threads: int = 1,
) -> Tokenizer:
    """The fastest back end for a tokenizer, proven on real text and on hard cases.

    A back end that gives other ids than the reference anywhere is not used: a warning names the
    first difference, and the next one is tried. One that is not installed, or takes no such
    tokenizer, is passed over in silence. Bytes and objects of one's own come back as they are.

    Args:
        tokenizer: as open_tokenizer takes it.
        samples: real documents in UTF-8, some hundred of each domain; of each the first 64 KiB
            are encoded, and 2 MiB of all, which takes about 1 s.
        backend: one of BACKENDS, to have that one or an error.
        end_of_text: see open_tokenizer.
        threads: of one batch; 1 where workers share the cores.

    Raises:
        RecipeError: no such tokenizer or back end; the back end that is asked for is not
            installed, takes no such tokenizer, or gives other ids.
    """
    if backend is not None and backend not in BACKENDS:
        raise RecipeError(
            f"unknown tokenizer back end {backend!r}; there are {', '.join(BACKENDS)}. Leave it "
            f"out (--tokenizer-backend) for the fastest that is proven."
        )
    reference = open_tokenizer(tokenizer, end_of_text=end_of_text, threads=threads)
    if not isinstance(reference, Reference):
        if backend not in (None, "reference"):
            raise RecipeError(
                f"tokenizer back end {backend!r} is asked for, but {reference.name!r} is no "
                f"tokenizer of a file. Leave the back end out (--tokenizer-backend)."
            )
        return reference
    if backend == "reference":
        return reference
    fastest = fastest_first(reference.vocabulary) if backend is None else [backend]
    names = [name for name in fastest if find_spec(name) or name == backend]
    if not names:
        return reference
    cases = {**hard_cases(reference.vocabulary.added), **_samples(samples)}
    with ThreadPoolExecutor(1) as thread:  # the reference encodes while the other is made
        right = thread.submit(reference.encode_utf8, list(cases.values()))
        for name in names:
            fast = _fast(reference, name, threads=threads, is_forced=backend is not None)
            if fast is not None:
                difference = first_difference(fast, right.result(), cases)
                if difference is None:
                    return fast
                _tell(name, reference.name, difference, is_forced=backend is not None)
    return reference


def first_difference(
    tokenizer: Utf8Tokenizer, right: tuple[Tokens, Counts], texts: Mapping[str, bytes]
) -> Difference | None:
    """Where a tokenizer first gives another id than the reference, if anywhere.

    Args:
        tokenizer: the one under proof.
        right: (T,) ids and (n,) counts, the reference's.
        texts: {name: text in UTF-8}, n of them.
    """
    ids, lengths = tokenizer.encode_utf8(list(texts.values()))
    right_ids, right_lengths = right
    if np.array_equal(lengths, right_lengths) and np.array_equal(ids, right_ids):
        return None
    for name, one, other in zip(
        texts, _rows(ids, lengths), _rows(right_ids, right_lengths), strict=True
    ):
        if one != other:
            at = next(i for i in range(len(one) + 1) if one[i : i + 1] != other[i : i + 1])
            given, expected = (ids[at] if at < len(ids) else None for ids in (one, other))
            return Difference(document=name, position=at, given=given, expected=expected)
    raise AssertionError("ids differ, but no document's do")


def _rows(ids: Tokens, lengths: Counts) -> list[list[int]]:
    return [row.tolist() for row in np.split(ids, np.cumsum(lengths)[:-1])]


def _samples(samples: Sequence[bytes]) -> dict[str, bytes]:
    """Heads of the samples, as much as a proof takes, evenly from all of them."""
    heads = [_head(text) for text in samples]
    step = max(1, -(-sum(map(len, heads)) // MAX_SAMPLE_BYTES))
    return {f"sample {i}": heads[i] for i in range(0, len(heads), step)}


def _head(text: bytes) -> bytes:
    return text[:MAX_DOCUMENT_BYTES].decode("utf-8", errors="ignore").encode("utf-8")


def _fast(
    reference: Reference, name: str, *, threads: int, is_forced: bool
) -> FastTokenizer | None:
    try:
        return FastTokenizer(reference, name, threads=threads)
    except (ImportError, RuntimeError, ValueError) as error:
        if not is_forced:
            return None
        if isinstance(error, ImportError):
            raise RecipeError(
                f"tokenizer back end {name!r} is not installed. Run: pip install {name}"
            ) from error
        raise RecipeError(
            f"tokenizer back end {name!r} takes no tokenizer such as {reference.name!r} "
            f"({str(error).splitlines()[0]}). Leave it out (--tokenizer-backend) for the fastest "
            f"that does."
        ) from error


def _tell(backend: str, tokenizer: str, difference: Difference, *, is_forced: bool) -> None:
    if is_forced:
        raise RecipeError(
            f"tokenizer back end {backend!r} gives other ids than the reference for {tokenizer!r}: "
            f"{difference}. Leave the back end out (--tokenizer-backend) for the fastest that is "
            f"proven."
        )
    warnings.warn(
        f"tokenizer back end {backend!r} is not used for {tokenizer!r}, because its ids differ: "
        f"{difference}. The next one is tried, and the reference library last.",
        stacklevel=3,
    )
