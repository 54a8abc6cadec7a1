"""Texts -> ids by the `sentencepiece` library, the reference for its models (FILE.model)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixstream.arrays import Counts, Tokens
from mixstream.corpus.tokenizers.base import Description
from mixstream.corpus.tokenizers.pieces import encoded_in_pieces
from mixstream.corpus.tokenizers.tokenizer_json import read_bytes
from mixstream.corpus.tokenizers.vocabulary import Vocabulary
from mixstream.errors import RecipeError

if TYPE_CHECKING:
    import sentencepiece

__all__ = ["SentenceTokenizer"]


class SentenceTokenizer:
    """A SentencePiece model. Pickles as the bytes of its file; runs on the calling thread.

    Control symbols such as </s> in a text are plain text; user-defined symbols are found, as the
    model says. Pieces can span a whole document, so that a document is never cut (pieces.py).

    Args:
        path: the file, tokenizer.model by custom.
        name: for people; the name of the file if left out.

    Raises:
        RecipeError: a missing or garbled file, or one without an end-of-sentence id.
    """

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        content = read_bytes(path)
        model = _opened(content, str(path))
        if model.eos_id() < 0:
            raise RecipeError(
                f"tokenizer {path}: has no end-of-sentence piece, so ends of documents could not "
                f"be told. Train it with an eos_id of 0 or more."
            )
        controls = [i for i in range(len(model)) if model.is_control(i)]
        self._special_ids = {model.id_to_piece(i): i for i in controls}
        self.name = name or path.name
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.vocab_size = len(model)
        self.end_id: int = model.eos_id()
        self.bos_id: int | None = model.bos_id() if model.bos_id() >= 0 else None
        self.vocabulary = Vocabulary(
            kind="sentencepiece", content=content, added=tuple(self._special_ids)
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_model"}

    @cached_property
    def _model(self) -> sentencepiece.SentencePieceProcessor:
        """Made when first needed: a worker whose ids a fast library makes needs none."""
        return _opened(self.vocabulary.content, self.name)

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        """See Tokenizer."""
        return self.encode_utf8([text.encode("utf-8") for text in texts])

    def encode_utf8(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        """See Utf8Tokenizer."""
        return encoded_in_pieces(self._encode, texts, self.vocabulary.separators)

    def _encode(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        encoded = self._model.encode([text.decode("utf-8") for text in texts], num_threads=1)
        arrays = [np.array(ids, np.uint32) for ids in encoded]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return np.concatenate([np.empty(0, np.uint32), *arrays]), lengths

    def decode(self, ids: Tokens) -> str:
        """See Tokenizer. Each document by itself; ids above the vocabulary give U+FFFD."""
        ends = np.flatnonzero(ids == self.end_id)
        texts = []
        for document in np.split(ids[ids != self.end_id], ends - np.arange(len(ends))):
            known = document[document < self.vocab_size].tolist()
            texts.append(self._model.decode(known) + "\ufffd" * (len(document) - len(known)))
        return "".join(texts)

    def described(self) -> Description:
        """See base.described."""
        return {
            "bos_id": self.bos_id,
            "special_ids": self._special_ids,
            "library": "sentencepiece",
            "version": version("sentencepiece"),
        }


def _opened(content: bytes, place: str) -> sentencepiece.SentencePieceProcessor:
    try:
        import sentencepiece
    except ImportError as error:
        raise RecipeError(
            f"tokenizer {place}: SentencePiece models need the sentencepiece library, which is not "
            f"installed. Run: pip install 'mixstream[sentencepiece]'"
        ) from error
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError, TypeError) as error:
        raise RecipeError(
            f"tokenizer {place}: not a SentencePiece model ({error}). Give the .model file that "
            f"its trainer writes."
        ) from error
