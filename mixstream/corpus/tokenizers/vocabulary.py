"""What a reference tokenizer is made of, for fast back ends to be made of the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from mixstream.corpus.tokenizers.base import Description, Utf8Tokenizer

__all__ = ["Reference", "Vocabulary", "limit_threads"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The bytes of a tokenizer's file and what has to be known besides."""

    kind: Literal["json", "ranks", "sentencepiece"]
    """A Hugging Face tokenizer.json, a tiktoken rank file or a SentencePiece model."""
    content: bytes
    """The file."""
    stripped: str = ""
    """Of json: what a fast library is made of (stripped.py)."""
    encoding: str = ""
    """Of ranks: the name in patterns.RANK_ENCODINGS."""
    added: tuple[str, ...] = ()
    """Special and added tokens as they are spelled; hard cases are made of them."""
    separators: bytes | None = field(default=None)
    """Before which characters a document may be cut (pieces.py); None: nowhere."""


@runtime_checkable
class Reference(Utf8Tokenizer, Protocol):
    """A tokenizer run by the library that its file was made for."""

    @property
    def vocabulary(self) -> Vocabulary:
        """What it is made of."""
        ...

    @property
    def bos_id(self) -> int | None:
        """The beginning-of-text id, if it has one."""
        ...

    def described(self) -> Description:
        """See base.described."""
        ...


def limit_threads(threads: int) -> None:
    """Tells the tokenizer libraries how many threads this process may use for one batch.

    They read it from the environment, most of them once, when they first encode: what the first
    tokenizer of a process asked for stands. Workers of a pool ask for 1 each.
    """
    number: Mapping[str, str] = {
        "RAYON_NUM_THREADS": str(threads),
        "FASTOKENS_BPE_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
    }
    os.environ.update(number)
