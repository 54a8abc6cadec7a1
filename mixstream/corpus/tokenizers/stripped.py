"""A parsed tokenizer.json -> what a fast library is made of, to which special tokens are text."""

from __future__ import annotations

from typing import Any

import orjson

__all__ = ["highest_id", "stripped"]


def stripped(config: dict[str, Any]) -> str:
    """The file without special tokens, truncation, padding and what is put around a text.

    Args:
        config: the whole file, parsed; it is changed.
    """
    added = config.get("added_tokens") or []
    config["added_tokens"] = [token for token in added if not token.get("special")]
    config["truncation"] = config["padding"] = config["post_processor"] = None
    _spell_merges(config.get("model") or {})
    text: str = orjson.dumps(config).decode("utf-8")
    return text


def _spell_merges(model: dict[str, Any]) -> None:
    """["a", "b"] -> "a b", which is read in two thirds of the time, where that can be undone."""
    merges = model.get("merges") or []
    if all(isinstance(pair, list) for pair in merges):
        spelled = [" ".join(pair) for pair in merges]
        lines = "\n".join(["", *spelled])
        if lines.count(" ") == len(merges) and "\n#version" not in lines:  # a comment of old files
            model["merges"] = spelled


def highest_id(config: dict[str, Any]) -> int:
    """The highest id of the model's own vocabulary, added tokens apart; -1 where it is empty."""
    vocab = (config.get("model") or {}).get("vocab") or ()
    if isinstance(vocab, dict):
        return max(map(int, vocab.values()), default=-1)
    return len(vocab) - 1  # Unigram: a list in the order of the ids
