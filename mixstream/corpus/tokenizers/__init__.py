"""Texts -> token ids, proven equal to the reference library's whatever makes them.

Ids of a document never hold the end-of-text id: with_special_ids refuses them if they do, and adds
it after each document. On that rests what a packed row can tell (packing.py).
"""

from mixstream.corpus.tokenizers.backends import FastTokenizer
from mixstream.corpus.tokenizers.base import (
    Description,
    Tokenizer,
    Utf8Tokenizer,
    described,
    encoded,
)
from mixstream.corpus.tokenizers.huggingface import JsonTokenizer
from mixstream.corpus.tokenizers.opening import open_tokenizer
from mixstream.corpus.tokenizers.plain import ByteTokenizer
from mixstream.corpus.tokenizers.proof import BACKENDS, proven_tokenizer
from mixstream.corpus.tokenizers.ranks import RankTokenizer
from mixstream.corpus.tokenizers.sentences import SentenceTokenizer
from mixstream.corpus.tokenizers.special import with_end_ids, with_special_ids
from mixstream.corpus.tokenizers.tokenizer_json import USUAL_BEGIN_TOKENS, USUAL_END_TOKENS

__all__ = [
    "BACKENDS",
    "USUAL_BEGIN_TOKENS",
    "USUAL_END_TOKENS",
    "ByteTokenizer",
    "Description",
    "FastTokenizer",
    "JsonTokenizer",
    "RankTokenizer",
    "SentenceTokenizer",
    "Tokenizer",
    "Utf8Tokenizer",
    "described",
    "encoded",
    "open_tokenizer",
    "proven_tokenizer",
    "with_end_ids",
    "with_special_ids",
]
