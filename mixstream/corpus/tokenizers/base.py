"""What a tokenizer is: texts -> one array of ids and how many each text has.

Two Protocols: Tokenizer, which anybody's object may fulfil, and Utf8Tokenizer, which takes texts as
the bytes they are on disk and so saves making a str of each. `encoded` takes either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from mixstream.arrays import Counts, Tokens

__all__ = ["Description", "Tokenizer", "Utf8Tokenizer", "by_spelling", "described", "encoded"]

Description: TypeAlias = dict[str, str | int | dict[str, int] | None]
"""What a manifest says of a tokenizer; JSON-able."""


@runtime_checkable
class Tokenizer(Protocol):
    """Turns texts into ids, the same ids on every machine. Has to survive pickling."""

    @property
    def name(self) -> str:
        """What people call it; no folder in it, so that a corpus is the same bytes anywhere."""
        ...

    @property
    def sha256(self) -> str:
        """Of the tokenizer's file, or of a text that says what it does; hexadecimal."""
        ...

    @property
    def vocab_size(self) -> int:
        """Every id is below it, the end-of-text id included."""
        ...

    @property
    def end_id(self) -> int:
        """The end-of-text id."""
        ...

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        """The ids of all texts one after the other, without end ids, and how many each text has.

        Args:
            texts: n texts, each encodable as UTF-8. One that spells a special token is plain text.

        Returns:
            (T,) uint32 ids and (n,) int64 counts that sum to T. A count may be 0.
        """
        ...

    def decode(self, ids: Tokens) -> str:
        """The text of some ids, for people: end ids give nothing, broken characters U+FFFD."""
        ...


@runtime_checkable
class Utf8Tokenizer(Tokenizer, Protocol):
    """A Tokenizer that takes bytes as well. Every tokenizer of this package is one."""

    def encode_utf8(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        """As encode, of texts in UTF-8; what happens to invalid UTF-8 is not said.

        Args:
            texts: n texts, each valid UTF-8.

        Returns:
            (T,) uint32 ids and (n,) int64 counts that sum to T.
        """
        ...


@runtime_checkable
class _Describing(Protocol):
    def described(self) -> Description: ...


def encoded(tokenizer: Tokenizer, texts: Sequence[str | bytes]) -> tuple[Tokens, Counts]:
    """The ids of texts: by encode where each is a str, or the tokenizer has no encode_utf8.

    Args:
        tokenizer: any Tokenizer.
        texts: n texts, each a str that UTF-8 can hold, or valid UTF-8.

    Returns:
        (T,) uint32 ids and (n,) int64 counts that sum to T.

    Raises:
        UnicodeDecodeError: a text is no UTF-8 and the tokenizer has no encode_utf8.
    """
    kinds = set(map(type, texts))
    if bytes in kinds and isinstance(tokenizer, Utf8Tokenizer):
        return tokenizer.encode_utf8(
            [text.encode("utf-8") if isinstance(text, str) else text for text in texts]
        )
    return tokenizer.encode(
        [text if isinstance(text, str) else text.decode("utf-8") for text in texts]
    )


def described(tokenizer: Tokenizer) -> Description:
    """What the manifest records of a tokenizer.

    Returns:
        name, sha256, vocab_size, end_id; and of a tokenizer of this package also bos_id (None
        where it has none), special_ids by spelling, and library, version of what makes its ids.
    """
    basics: Description = {
        "name": tokenizer.name,
        "sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
    }
    if isinstance(tokenizer, _Describing):
        return {**basics, **tokenizer.described()}
    return basics


def by_spelling(named: Mapping[int, str]) -> dict[str, int]:
    """{id: spelling} turned round, in the order of the ids."""
    return {spelling: token_id for token_id, spelling in sorted(named.items())}
