"""A tokenizer.json and its folder -> the model, and which tokens begin and end a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from mixstream.errors import RecipeError

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "USUAL_BEGIN_TOKENS",
    "USUAL_END_TOKENS",
    "begin_id",
    "configured",
    "end_id_of",
    "listed",
    "open_model",
    "read_bytes",
    "special_tokens",
    "usual_end",
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

USUAL_BEGIN_TOKENS = ("<|begin_of_text|>", "<s>", "<bos>", "<｜begin▁of▁sentence｜>", "[BOS]")
"""Looked for where nobody says which token begins a text. GPT-2's has none of its own."""


def read_bytes(path: Path) -> bytes:
    """A tokenizer's file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"tokenizer {path}: cannot be read ({error.strerror}). Give 'bytes', a tokenizer.json "
            f"or a folder that holds one, a tiktoken rank file (.tiktoken), a SentencePiece model "
            f"(.model), a tiktoken name such as cl100k_base or a hub name such as "
            f"openai-community/gpt2."
        ) from error


def open_model(content: bytes, place: str) -> tokenizers.Tokenizer:
    """The model of a tokenizer.json; special tokens in a text are plain text to it."""
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


def special_tokens(model: tokenizers.Tokenizer) -> Mapping[int, str]:
    """{id: spelling} of the tokens that are marked special, by id."""
    added = sorted(model.get_added_tokens_decoder().items())
    return {token_id: token.content for token_id, token in added if token.special}


def configured(folder: Path, key: str) -> str | None:
    """A token, such as eos_token, of the tokenizer_config.json in a folder, if both are there."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    try:
        value = orjson.loads(read_bytes(path)).get(key)
        token = value.get("content") if isinstance(value, dict) else value
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise RecipeError(
            f"{path}: not a JSON object ({error}). Mend it, or name the end-of-text token with "
            f"end_of_text (--end-of-text)."
        ) from error
    return token if isinstance(token, str) else None


def begin_id(model: tokenizers.Tokenizer, configured_token: str | None) -> int | None:
    """The id of the token that begins a text: the configured one, or the first usual one."""
    specials = special_tokens(model).values()
    usual = next((token for token in USUAL_BEGIN_TOKENS if token in specials), None)
    token = configured_token or usual
    found = None if token is None else model.token_to_id(token)
    return None if found is None else int(found)


def usual_end(model: tokenizers.Tokenizer, place: str) -> str:
    """The first of USUAL_END_TOKENS that is a special token of the model."""
    specials = special_tokens(model)
    for token in USUAL_END_TOKENS:
        if token in specials.values():
            return token
    raise RecipeError(
        f"tokenizer {place}: does not say which token ends a text, and has none of the usual ones "
        f"as a special token. Name it with end_of_text (--end-of-text); its special tokens are "
        f"{listed(specials)}."
    )


def end_id_of(model: tokenizers.Tokenizer, token: str, place: str) -> int:
    """The id of the token that ends a text."""
    end_id = model.token_to_id(token)
    if end_id is None:
        raise RecipeError(
            f"tokenizer {place}: has no token {token!r} to end a text. Name one that it has with "
            f"end_of_text (--end-of-text); its special tokens are "
            f"{listed(special_tokens(model))}."
        )
    return int(end_id)


def listed(specials: Mapping[int, str]) -> str:
    """Special tokens for a message."""
    return ", ".join(map(repr, specials.values())) or "none"
