"""Texts -> ids by `tiktoken`, the reference for its files of ranks (FILE.tiktoken)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mixstream.arrays import Counts, Tokens
from mixstream.corpus.tokenizers.base import Description
from mixstream.corpus.tokenizers.patterns import RANK_ENCODINGS
from mixstream.corpus.tokenizers.pieces import ALL_SEPARATORS, encoded_in_pieces
from mixstream.corpus.tokenizers.tokenizer_json import read_bytes
from mixstream.corpus.tokenizers.vocabulary import Vocabulary
from mixstream.errors import RecipeError

if TYPE_CHECKING:
    import tiktoken

__all__ = ["RankTokenizer", "open_ranks", "published_ranks"]

_END = "<|endoftext|>"


class RankTokenizer:
    """A tiktoken encoding from a file of ranks. Pickles as the bytes of the file.

    The file holds no pattern and no special tokens: both go by the encoding's name. A file with
    another number of ranks than the published one has <|endoftext|> alone, after its last rank.
    Runs on the calling thread.

    Args:
        content: of the file.
        encoding: r50k_base, cl100k_base or o200k_base.
        name: for people, and for messages.

    Raises:
        RecipeError: a garbled file, or no such encoding.
    """

    def __init__(self, content: bytes, *, encoding: str, name: str) -> None:
        published = RANK_ENCODINGS[encoding]
        ranks = _ranks(content, name)
        last = max(ranks.values())
        self._special_ids = (
            dict(published.special_ids) if len(ranks) == published.num_ranks else {_END: last + 1}
        )
        self.name = name
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.vocab_size = 1 + max(last, *self._special_ids.values())
        self.end_id = self._special_ids[_END]
        self.bos_id = None
        self.vocabulary = Vocabulary(
            kind="ranks",
            content=content,
            encoding=encoding,
            added=tuple(self._special_ids),
            separators=ALL_SEPARATORS,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in {"_model", "_tokens"}}

    @cached_property
    def _model(self) -> tiktoken.Encoding:
        """Made when first needed: a worker whose ids a fast library makes needs none."""
        made: tiktoken.Encoding = _library(self.name).Encoding(
            self.name,
            pat_str=RANK_ENCODINGS[self.vocabulary.encoding].pattern,
            mergeable_ranks=_ranks(self.vocabulary.content, self.name),
            special_tokens=self._special_ids,
        )
        return made

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        ranks = _ranks(self.vocabulary.content, self.name)
        return {rank: token for token, rank in ranks.items()}

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        """See Tokenizer."""
        return self.encode_utf8([text.encode("utf-8") for text in texts])

    def encode_utf8(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        """See Utf8Tokenizer; very long texts go in pieces (pieces.py)."""
        return encoded_in_pieces(self._encode, texts, self.vocabulary.separators)

    def _encode(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        arrays = [
            self._model.encode_to_numpy(text.decode("utf-8"), disallowed_special=())
            for text in texts
        ]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return np.concatenate([np.empty(0, np.uint32), *arrays]), lengths

    def decode(self, ids: Tokens) -> str:
        """See Tokenizer. Ids that are no rank give U+FFFD."""
        kept = ids[ids != self.end_id].tolist()
        return b"".join(self._tokens.get(i, b"\xff") for i in kept).decode("utf-8", "replace")

    def described(self) -> Description:
        """See base.described."""
        return {
            "bos_id": None,
            "special_ids": self._special_ids,
            "library": "tiktoken",
            "version": version("tiktoken"),
        }


def open_ranks(path: Path) -> RankTokenizer:
    """The tokenizer of a file of ranks, whose name holds the name of its encoding.

    Args:
        path: such as cl100k_base.tiktoken, or small.cl100k_base.tiktoken for one of one's own.

    Raises:
        RecipeError: no such file, none of the names in its name, or garbled.
    """
    found = [encoding for encoding in RANK_ENCODINGS if encoding in path.name]
    if len(found) != 1:
        raise RecipeError(
            f"tokenizer {path}: a file of ranks does not say how it splits text, and its name is "
            f"of none of {', '.join(RANK_ENCODINGS)}. Rename it to say which, such as "
            f"{path.stem}.cl100k_base.tiktoken."
        )
    return RankTokenizer(read_bytes(path), encoding=found[0], name=path.name)


def published_ranks(encoding: str) -> RankTokenizer:
    """The tokenizer of a published encoding, from tiktoken's cache or, once, the network.

    Raises:
        RecipeError: it is not in the cache and cannot be fetched.
    """
    load = _library(encoding).load
    import requests  # tiktoken fetches with it

    published = RANK_ENCODINGS[encoding]
    try:
        content = load.read_file_cached(published.url, published.sha256)
    except (requests.RequestException, OSError, ValueError) as error:
        raise RecipeError(
            f"tokenizer {encoding}: its ranks are not in tiktoken's cache and cannot be fetched "
            f"({type(error).__name__}). Fetch {published.url} where there is a network, and give "
            f"the path of that file."
        ) from error
    return RankTokenizer(content, encoding=encoding, name=encoding)


def _library(place: str) -> ModuleType:
    try:
        import tiktoken
        import tiktoken.load
    except ImportError as error:
        raise RecipeError(
            f"tokenizer {place}: files of ranks need the tiktoken library, which is not installed. "
            f"Run: pip install 'mixstream[tiktoken]'"
        ) from error
    return tiktoken


def _ranks(content: bytes, place: str) -> dict[bytes, int]:
    """{token: rank} of a file: on each line a token in base64 and its rank."""
    try:
        pairs = [line.split() for line in content.splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise RecipeError(
            f"tokenizer {place}: not a file of ranks ({error}). Each line holds a token in base64, "
            f"a space and its rank; fetch it again."
        ) from error
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise RecipeError(
            f"tokenizer {place}: not a file of ranks (no token for byte {missing[0]}). Each of the "
            f"256 bytes has to be a token; fetch the file again."
        )
    return ranks
