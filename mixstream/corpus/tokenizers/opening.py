"""What is meant by "bytes", a path, a name or an object -> a Tokenizer."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from mixstream.corpus.tokenizers.base import Tokenizer
from mixstream.corpus.tokenizers.huggingface import JsonTokenizer
from mixstream.corpus.tokenizers.patterns import RANK_ENCODINGS
from mixstream.corpus.tokenizers.plain import ByteTokenizer
from mixstream.corpus.tokenizers.ranks import open_ranks, published_ranks
from mixstream.corpus.tokenizers.sentences import SentenceTokenizer
from mixstream.errors import RecipeError

__all__ = ["open_tokenizer"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_tokenizer(
    tokenizer: str | os.PathLike[str] | Tokenizer,
    *,
    end_of_text: str | None = None,
    threads: int | None = None,
) -> Tokenizer:
    """The tokenizer that is meant, run by the library that it was made for.

    Args:
        tokenizer: "bytes"; a tokenizer.json or a folder that holds one (or a tokenizer.model);
            a file of tiktoken ranks (.tiktoken); a SentencePiece model (.model); the name of a
            tiktoken encoding, such as cl100k_base; a name on the Hugging Face hub, such as
            openai-community/gpt2; or an object that fulfils Tokenizer, which comes back as it is.
        end_of_text: the token that ends a text, for a tokenizer.json that does not say it.
        threads: of one batch of a tokenizer.json, see limit_threads; others take one.

    Raises:
        RecipeError: no such file or name, not a tokenizer, or end_of_text where it has no effect.
    """
    if isinstance(tokenizer, str | os.PathLike):
        opened = _named(os.fspath(tokenizer), end_of_text, threads)
    elif isinstance(tokenizer, type) or not isinstance(tokenizer, Tokenizer):
        raise RecipeError(
            f"tokenizer is {tokenizer!r}; give 'bytes', the path of a tokenizer.json, or an object "
            f"with name, sha256, vocab_size, end_id, encode and decode."
        )
    else:
        opened = tokenizer
    if end_of_text is not None and not isinstance(opened, JsonTokenizer):
        raise RecipeError(
            f"end_of_text is {end_of_text!r}, but only a tokenizer.json can be told its "
            f"end-of-text token. Leave it out."
        )
    return opened


def _named(given: str, end_of_text: str | None, threads: int | None) -> Tokenizer:
    path = Path(given)
    if given == "bytes":
        return ByteTokenizer()
    if given in RANK_ENCODINGS and not path.exists():
        return published_ranks(given)
    if path.suffix == ".tiktoken":
        return open_ranks(path)
    if path.is_dir() and not (path / "tokenizer.json").exists():
        path = path / "tokenizer.model" if (path / "tokenizer.model").exists() else path
    if path.suffix == ".model":
        return SentenceTokenizer(path)
    name = None
    if not path.exists() and not path.parent.exists() and _HUB_NAME.fullmatch(given):
        path, name = _from_hub(given), given
    return JsonTokenizer(path, end_of_text=end_of_text, name=name, threads=threads)


def _from_hub(name: str) -> Path:
    """The tokenizer.json of a repository of the hub, from its cache or the network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        with contextlib.suppress(EntryNotFoundError):  # it is read beside the other, if it is there
            hf_hub_download(name, "tokenizer_config.json")
        return Path(hf_hub_download(name, "tokenizer.json"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"tokenizer {name}: no such file here, and its tokenizer.json is neither in the cache "
            f"of the Hugging Face hub nor to be fetched ({type(error).__name__}). Fetch it where "
            f"there is a network, and give its path."
        ) from error
