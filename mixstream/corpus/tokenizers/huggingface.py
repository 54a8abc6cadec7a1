"""Texts -> ids by the Hugging Face `tokenizers` library, the reference for a tokenizer.json."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mixstream.arrays import Counts, Tokens
from mixstream.corpus.jsonfile import no_collection
from mixstream.corpus.tokenizers import tokenizer_json
from mixstream.corpus.tokenizers.base import Description, by_spelling
from mixstream.corpus.tokenizers.patterns import cut_separators
from mixstream.corpus.tokenizers.pieces import encoded_in_pieces
from mixstream.corpus.tokenizers.stripped import highest_id, stripped
from mixstream.corpus.tokenizers.vocabulary import Vocabulary, limit_threads
from mixstream.errors import RecipeError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["JsonTokenizer"]


class JsonTokenizer:
    """A Hugging Face tokenizer.json, as the `tokenizers` library runs it.

    Special tokens are neither added nor recognised: text that spells one is plain text. Truncation
    and padding that the file asks for are switched off. Pickles as the bytes of its file.

    The end-of-text token is `end_of_text`; else eos_token of a tokenizer_config.json in the same
    folder; else the first of USUAL_END_TOKENS that the file has as a special token. Likewise the
    beginning-of-text token, which a tokenizer need not have.

    Args:
        path: the file, or a folder that holds a tokenizer.json.
        end_of_text: the end-of-text token as it is spelled.
        name: for people; the name of the file if left out.
        threads: for one batch, see limit_threads; the library's own choice if left out.

    Raises:
        RecipeError: missing or garbled file; no end-of-text token; or texts turn into it.
    """

    def __init__(
        self,
        path: Path,
        *,
        end_of_text: str | None = None,
        name: str | None = None,
        threads: int | None = None,
    ) -> None:
        path = path / "tokenizer.json" if path.is_dir() else path
        content, place = tokenizer_json.read_bytes(path), str(path)
        if threads is not None:
            limit_threads(threads)
        model = tokenizer_json.open_model(content, place)
        if end_of_text is None:
            end_of_text = tokenizer_json.configured(path.parent, "eos_token")
        if end_of_text is None:
            end_of_text = tokenizer_json.usual_end(model, place)
        self._end_token = end_of_text
        self.name = name or path.name
        self.sha256 = hashlib.sha256(content).hexdigest()
        with no_collection():  # of 50,000 lists that all stay
            config = orjson.loads(content)  # once: it takes a fifth of the time to open the model
        added = sorted(model.get_added_tokens_decoder().items())
        self.vocab_size = 1 + max([highest_id(config), *(token_id for token_id, _ in added)])
        self.end_id = tokenizer_json.end_id_of(model, self._end_token, place)
        self.bos_id = tokenizer_json.begin_id(
            model, tokenizer_json.configured(path.parent, "bos_token")
        )
        self.vocabulary = Vocabulary(
            kind="json",
            content=content,
            added=tuple(token.content for _, token in added),
            separators=cut_separators(config),
            stripped=stripped(config),
        )
        self._special_ids = by_spelling(tokenizer_json.special_tokens(model))
        self._threads = threads
        self._model = model
        self._prove_no_end_inside(place)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_model"}

    @cached_property
    def _model(self) -> tokenizers.Tokenizer:
        """Made when first needed: a worker whose ids a fast library makes needs none."""
        if self._threads is not None:
            limit_threads(self._threads)
        return tokenizer_json.open_model(self.vocabulary.content, self.name)

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        """See Tokenizer."""
        return self.encode_utf8([text.encode("utf-8") for text in texts])

    def encode_utf8(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        """See Utf8Tokenizer; very long texts go in pieces (pieces.py)."""
        return encoded_in_pieces(self._encode, texts, self.vocabulary.separators)

    def _encode(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        encodings = self._model.encode_batch_fast(
            [text.decode("utf-8") for text in texts], add_special_tokens=False
        )
        arrays = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return np.concatenate([np.empty(0, np.uint32), *arrays]), lengths

    def decode(self, ids: Tokens) -> str:
        """See Tokenizer. Each document is decoded by itself, as it was encoded."""
        ends = np.flatnonzero(ids == self.end_id)
        documents = np.split(ids[ids != self.end_id], ends - np.arange(len(ends)))
        texts: list[str] = self._model.decode_batch(
            [document.tolist() for document in documents], skip_special_tokens=False
        )
        return "".join(texts)

    def described(self) -> Description:
        """See base.described."""
        return {
            "bos_id": self.bos_id,
            "special_ids": self._special_ids,
            "library": "tokenizers",
            "version": version("tokenizers"),
        }

    def _prove_no_end_inside(self, place: str) -> None:
        """Encodes what could turn into the end id: special tokens spelled out, unknown characters.

        No proof over all texts: that is what with_special_ids checks, text by text.
        """
        specials = tokenizer_json.special_tokens(self._model)
        spelled = {self._end_token, *specials.values()}
        probes = [form for token in spelled for form in (token, f"a{token}b", f" {token} {token}")]
        for text in [*sorted(probes), "\U0010fffd", "\x01"]:
            if self.end_id in self.encode([text])[0]:
                kind = "special" if self.end_id in specials else "no special token in this file"
                raise RecipeError(
                    f"{place}: the text {text!r} turns into id {self.end_id}, which is the "
                    f"end-of-text token {self._end_token!r} ({kind}), so ends of documents could "
                    f"not be told from text. Mark that token special in the file, or name another "
                    f"with end_of_text (--end-of-text); its special tokens are "
                    f"{tokenizer_json.listed(specials)}."
                )
