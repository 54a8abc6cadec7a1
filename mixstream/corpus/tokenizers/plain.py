"""Texts -> their bytes as ids, without any vocabulary file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mixstream.arrays import Counts, Tokens
from mixstream.corpus.tokenizers.base import Description

__all__ = ["ByteTokenizer"]


class ByteTokenizer:
    """Ids 0 to 255 are the bytes of the text in UTF-8, 256 is the end of text.

    >>> ByteTokenizer().encode(["hé", "", "a"])
    (array([104, 195, 169,  97], dtype=uint32), array([3, 0, 1]))
    """

    name = "bytes"
    sha256 = hashlib.sha256(b"mixstream bytes: ids 0-255 are UTF-8 bytes, 256 ends").hexdigest()
    vocab_size = 257
    end_id = 256
    bos_id = None

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        """See Tokenizer."""
        return self.encode_utf8([text.encode("utf-8") for text in texts])

    def encode_utf8(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        """See Utf8Tokenizer."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return np.frombuffer(b"".join(texts), np.uint8).astype(np.uint32), lengths

    def decode(self, ids: Tokens) -> str:
        """See Tokenizer. Ids above 256 give U+FFFD, as bytes out of place do."""
        kept = np.minimum(ids[ids != self.end_id], 255)  # 255 stands in no UTF-8
        text: bytes = kept.astype(np.uint8).tobytes()
        return text.decode("utf-8", errors="replace")

    def described(self) -> Description:
        """See base.described. The library is numpy, whose version makes no difference."""
        return {
            "bos_id": None,
            "special_ids": {"<end>": self.end_id},
            "library": "mixstream",
            "version": "1",
        }
