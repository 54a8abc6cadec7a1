"""Texts -> token ids: a Hugging Face tokenizer.json, plain bytes, or any object of this Protocol.

Ids of a document never hold the end-of-text id: with_end_ids refuses them if they do, and adds it
after each document. On that rests what a packed row can tell (packing.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import orjson

from mixstream.arrays import Counts, Tokens
from mixstream.errors import RecipeError

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "USUAL_END_TOKENS",
    "ByteTokenizer",
    "JsonTokenizer",
    "Tokenizer",
    "open_tokenizer",
    "with_end_ids",
]

USUAL_END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
)
"""Looked for in this order where nobody says which token ends a text. Ends of chat turns, such as
<|im_end|>, are not among them: a document is no turn."""


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


def open_tokenizer(
    tokenizer: str | os.PathLike[str] | Tokenizer, *, end_of_text: str | None = None
) -> Tokenizer:
    """The tokenizer that is meant by "bytes", by a path, or by itself.

    Args:
        tokenizer: "bytes"; a tokenizer.json or a folder that holds one; or an object that fulfils
            Tokenizer, which comes back as it is.
        end_of_text: the token that ends a text, for a tokenizer.json that does not say it.

    Raises:
        RecipeError: no such file, not a tokenizer, or end_of_text where it has no effect.
    """
    if isinstance(tokenizer, os.PathLike) or (isinstance(tokenizer, str) and tokenizer != "bytes"):
        return JsonTokenizer(Path(tokenizer), end_of_text=end_of_text)
    if end_of_text is not None:
        raise RecipeError(
            f"end_of_text is {end_of_text!r}, but only a tokenizer.json can be told its "
            f"end-of-text token. Leave it out."
        )
    if isinstance(tokenizer, str):
        return ByteTokenizer()
    if isinstance(tokenizer, type) or not isinstance(tokenizer, Tokenizer):
        raise RecipeError(
            f"tokenizer is {tokenizer!r}; give 'bytes', the path of a tokenizer.json, or an object "
            f"with name, sha256, vocab_size, end_id, encode and decode."
        )
    return tokenizer


def with_end_ids(ids: Tokens, lengths: Counts, end_id: int) -> tuple[Tokens, Counts]:
    """The same documents with the end id after each; documents of no ids are left out.

    An end id alone would read as padding, so a document of no ids (a tokenizer that strips white
    space makes such) gets none. The caller counts them: `(lengths == 0).sum()`.

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
    if (ids == end_id).any():
        at = int(np.argmax(ids == end_id))
        document = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        raise RecipeError(
            f"the tokenizer gave its own end-of-text id {end_id} inside a text (text {document} of "
            f"{len(lengths)} in this batch). Choose an end-of-text token that no text turns into."
        )
    lengths = lengths[lengths > 0] + 1
    ended = np.empty(len(ids) + len(lengths), np.uint32)
    is_end = np.zeros(len(ended), np.bool_)
    is_end[np.cumsum(lengths) - 1] = True
    ended[is_end] = end_id
    ended[~is_end] = ids
    return ended, lengths


class ByteTokenizer:
    """Ids 0 to 255 are the bytes of the text in UTF-8, 256 is the end of text.

    >>> ByteTokenizer().encode(["hé", "", "a"])
    (array([104, 195, 169,  97], dtype=uint32), array([3, 0, 1]))
    """

    name = "bytes"
    sha256 = hashlib.sha256(b"mixstream bytes: ids 0-255 are UTF-8 bytes, 256 ends").hexdigest()
    vocab_size = 257
    end_id = 256

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        """See Tokenizer."""
        encoded = [text.encode("utf-8") for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.frombuffer(b"".join(encoded), np.uint8).astype(np.uint32), lengths

    def decode(self, ids: Tokens) -> str:
        """See Tokenizer. Ids above 256 give U+FFFD, as bytes out of place do."""
        kept = np.minimum(ids[ids != self.end_id], 255)  # 255 stands in no UTF-8
        text: bytes = kept.astype(np.uint8).tobytes()
        return text.decode("utf-8", errors="replace")


class JsonTokenizer:
    """A Hugging Face tokenizer.json, as the `tokenizers` library runs it.

    Special tokens are neither added nor recognised: text that spells one is plain text. Truncation
    and padding that the file asks for are switched off. Pickles as the bytes of its file.

    The end-of-text token is `end_of_text`; else eos_token of a tokenizer_config.json in the same
    folder; else the first of USUAL_END_TOKENS that the file has as a special token.

    Args:
        path: the file, or a folder that holds a tokenizer.json.
        end_of_text: the end-of-text token as it is spelled.

    Raises:
        RecipeError: missing or garbled file; no end-of-text token; or texts turn into it.
    """

    def __init__(self, path: Path, *, end_of_text: str | None = None) -> None:
        path = path / "tokenizer.json" if path.is_dir() else path
        content = _read(path)
        model = _model(content, str(path))
        if end_of_text is None:
            end_of_text = _configured_end(path.parent) or _usual_end(model, str(path))
        self._open(path.name, content, model, end_of_text, str(path))

    def _open(
        self, name: str, content: bytes, model: tokenizers.Tokenizer, end_token: str, place: str
    ) -> None:
        self.name = name
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.vocab_size = 1 + max(model.get_vocab(with_added_tokens=True).values(), default=0)
        self.end_id = _end_id(model, end_token, place)
        self._content = content
        self._end_token = end_token
        self._model = model
        self._prove_no_end_inside(place)

    def __getstate__(self) -> tuple[str, bytes, str]:
        return self.name, self._content, self._end_token

    def __setstate__(self, state: tuple[str, bytes, str]) -> None:
        name, content, end_token = state
        self._open(name, content, _model(content, name), end_token, name)

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        """See Tokenizer."""
        encodings = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
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

    def _prove_no_end_inside(self, place: str) -> None:
        """Encodes what could turn into the end id: special tokens spelled out, unknown characters.

        No proof over all texts: that is what with_end_ids checks, text by text.
        """
        specials = _special_tokens(self._model)
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
                    f"{_listed(specials)}."
                )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"tokenizer {path}: cannot be read ({error.strerror}). Give 'bytes', or the path of a "
            f"tokenizer.json; mixstream downloads none."
        ) from error


def _model(content: bytes, place: str) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        model = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise RecipeError(
            f"tokenizer {place}: not a tokenizer.json ({error}). Give the file that "
            f"Tokenizer.save() of the Hugging Face tokenizers library writes."
        ) from error
    model.no_truncation()
    model.no_padding()
    model.encode_special_tokens = True
    return model


def _special_tokens(model: tokenizers.Tokenizer) -> Mapping[int, str]:
    added = sorted(model.get_added_tokens_decoder().items())
    return {token_id: token.content for token_id, token in added if token.special}


def _configured_end(folder: Path) -> str | None:
    """eos_token of the tokenizer_config.json in a folder, if both are there."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    try:
        config = orjson.loads(_read(path))
        eos = config.get("eos_token")
        token = eos.get("content") if isinstance(eos, dict) else eos
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise RecipeError(
            f"{path}: not a JSON object ({error}). Mend it, or name the end-of-text token with "
            f"end_of_text (--end-of-text)."
        ) from error
    return token if isinstance(token, str) else None


def _usual_end(model: tokenizers.Tokenizer, place: str) -> str:
    specials = _special_tokens(model)
    for token in USUAL_END_TOKENS:
        if token in specials.values():
            return token
    raise RecipeError(
        f"tokenizer {place}: does not say which token ends a text, and has none of the usual ones "
        f"as a special token. Name it with end_of_text (--end-of-text); its special tokens are "
        f"{_listed(specials)}."
    )


def _end_id(model: tokenizers.Tokenizer, token: str, place: str) -> int:
    end_id = model.token_to_id(token)
    if end_id is None:
        raise RecipeError(
            f"tokenizer {place}: has no token {token!r} to end a text. Name one that it has with "
            f"end_of_text (--end-of-text); its special tokens are "
            f"{_listed(_special_tokens(model))}."
        )
    return int(end_id)


def _listed(specials: Mapping[int, str]) -> str:
    return ", ".join(map(repr, specials.values())) or "none"
