"""How text is split before byte pairs are merged: the patterns that are known to be cut-safe.

A file of ranks (tiktoken) holds no pattern, so RANK_ENCODINGS says which goes with which name. For
a tokenizer.json, cut_separators says where a document may be cut (pieces.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixstream.corpus.tokenizers.pieces import ALL_SEPARATORS

__all__ = ["LLAMA3", "QWEN2", "RANK_ENCODINGS", "RankEncoding", "cut_separators"]

_ENDOFTEXT = "<|endoftext|>"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_R50K = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    + _CONTRACTIONS
    + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    + _CONTRACTIONS
    + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_CUT_SAFE = frozenset({_R50K, _CL100K, _O200K, LLAMA3, QWEN2, _GPT2})


@dataclass(frozen=True, kw_only=True, slots=True)
class RankEncoding:
    """What a file of ranks leaves unsaid. Source: tiktoken_ext/openai_public.py of tiktoken."""

    pattern: str
    """Splits a text into pretokens."""
    scheme: str
    """gigatoken's name of the pattern."""
    url: str
    """Where the file is published; tiktoken's cache goes by it."""
    sha256: str
    """Of the published file."""
    num_ranks: int
    """In the published file."""
    special_ids: Mapping[str, int] = field(default_factory=dict)
    """That go with the published file."""


_PUBLISHED = "https://openaipublic.blob.core.windows.net/encodings/"

RANK_ENCODINGS: Mapping[str, RankEncoding] = {
    "r50k_base": RankEncoding(
        pattern=_R50K,
        scheme="gpt2",
        url=f"{_PUBLISHED}r50k_base.tiktoken",
        sha256="306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        num_ranks=50256,
        special_ids={_ENDOFTEXT: 50256},
    ),
    "cl100k_base": RankEncoding(
        pattern=_CL100K,
        scheme="gpt4",
        url=f"{_PUBLISHED}cl100k_base.tiktoken",
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        num_ranks=100256,
        special_ids={
            _ENDOFTEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": RankEncoding(
        pattern=_O200K,
        scheme="o200k",
        url=f"{_PUBLISHED}o200k_base.tiktoken",
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        num_ranks=199998,
        special_ids={_ENDOFTEXT: 199999, "<|endofprompt|>": 200018},
    ),
}


def cut_separators(config: Mapping[str, Any]) -> bytes | None:
    """Before which characters a document may be cut without a change to its ids.

    Args:
        config: a tokenizer.json, parsed.

    Returns:
        ALL_SEPARATORS; space and newline alone where the file has added tokens that match inside
        text, which may hold other characters; None where nothing is known to be safe.
    """
    model = config.get("model") or {}
    merges_alone = model.get("type") == "BPE" and not (
        model.get("dropout")
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
    )
    if not (merges_alone and _is_nfc(config.get("normalizer"))):
        return None
    if not _is_known_split(config.get("pre_tokenizer")):
        return None
    return _before_none_of([a for a in config.get("added_tokens") or () if not a.get("special")])


def _before_none_of(added: Sequence[Mapping[str, Any]]) -> bytes | None:
    if not added:
        return ALL_SEPARATORS
    for token in added:
        spaced = any(character.isspace() for character in str(token.get("content", " ")))
        if spaced or token.get("lstrip") or token.get("rstrip"):
            return None
    return b" \n"


def _is_nfc(normalizer: Mapping[str, Any] | None) -> bool:
    if normalizer is None or normalizer.get("type") == "NFC":
        return True
    return normalizer.get("type") == "Sequence" and all(map(_is_nfc, normalizer["normalizers"]))


def _is_known_split(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    if pre_tokenizer is None:
        return False
    if pre_tokenizer.get("type") == "ByteLevel":
        return bool(pre_tokenizer.get("use_regex", True)) and _adds_no_space(pre_tokenizer)
    steps: Sequence[Mapping[str, Any]] = pre_tokenizer.get("pretokenizers") or ()
    if pre_tokenizer.get("type") != "Sequence" or len(steps) != 2:
        return False
    split, level = steps[0], steps[1]
    return (
        split.get("type") == "Split"
        and split.get("pattern", {}).get("Regex") in _CUT_SAFE
        and (split.get("behavior"), split.get("invert"))
        in {("Isolated", False), ("Removed", True), ("Isolated", True)}
        and level.get("type") == "ByteLevel"
        and not level.get("use_regex", True)
        and _adds_no_space(level)
    )


def _adds_no_space(level: Mapping[str, Any]) -> bool:
    return not level.get("add_prefix_space", True)
