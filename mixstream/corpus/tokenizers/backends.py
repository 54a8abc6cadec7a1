"""A reference tokenizer -> the same ids from a fast library: gigatoken or fastokens.

What was measured of them (benchmarks/tokenizer_backends.py) and what is done about it:

- gigatoken 0.10 goes by Unicode 17, the references by Unicode 16: 4,657 characters became letters,
  digits or marks in between, and split texts otherwise. A text that holds one goes to the
  reference. Its NFC is newer too, so that a tokenizer that normalizes is not given to it. Its
  memory of words seen grows without end (1.8 GB after 300 MB of new words): it is
  made anew when the process has grown by MAX_GROWTH_BYTES.
- fastokens 0.3 keeps a memory of fixed size, and no difference was found.
- fastokens' own threads take a sixth more processor time for a batch of 1 MiB than threads of
  ours that each encode a part of it.
- Both hold no lock of Python while they encode. With one thread they start none, so that a
  process may fork.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mixstream.arrays import Counts, Tokens
from mixstream.corpus.tokenizers.base import Description
from mixstream.corpus.tokenizers.patterns import RANK_ENCODINGS
from mixstream.corpus.tokenizers.pieces import Encode, are_short, encoded_in_pieces
from mixstream.corpus.tokenizers.stripped import stripped
from mixstream.corpus.tokenizers.vocabulary import Reference, Vocabulary, limit_threads

__all__ = ["FAST_BACKENDS", "FastTokenizer", "fastest_first", "has_new_characters"]

MAX_GROWTH_BYTES = 256 * 2**20
"""The process may grow by this before gigatoken's memory is thrown away."""

MAX_TEXT_BYTES = 512 * 2**20
"""The same in bytes of text, where the size of a process cannot be read (not Linux)."""

MIN_PART_BYTES = 128 * 2**10
"""Of text that is worth another thread."""


class FastTokenizer:
    """A reference tokenizer whose ids a fast library makes. Prove it first (proof.py).

    Args:
        reference: names, special ids and decode are its own, and so are the ids of texts that the
            fast library is known to see otherwise.
        backend: one of FAST_BACKENDS.
        threads: of one batch, see limit_threads; 1 is the calling thread.

    Raises:
        ImportError: the library is not installed.
        RuntimeError, ValueError: it takes no such tokenizer.
    """

    def __init__(self, reference: Reference, backend: str, *, threads: int = 1) -> None:
        self.name = reference.name
        self.sha256 = reference.sha256
        self.vocab_size = reference.vocab_size
        self.end_id = reference.end_id
        self.bos_id = reference.bos_id
        self.backend = backend
        self.reference = reference
        self._threads = threads
        self._encoder = FAST_BACKENDS[backend](reference, threads)

    def __reduce__(self) -> tuple[Callable[..., FastTokenizer], tuple[Reference, str, int]]:
        return _made, (self.reference, self.backend, self._threads)

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        """See Tokenizer."""
        if self._encoder.of_str is not None and are_short(texts):
            return self._encoder.of_str(texts)
        return self.encode_utf8([text.encode("utf-8") for text in texts])

    def encode_utf8(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        """See Utf8Tokenizer; very long texts go in pieces (pieces.py)."""
        separators = self.reference.vocabulary.separators
        return encoded_in_pieces(self._encoder.of_utf8, texts, separators)

    def decode(self, ids: Tokens) -> str:
        """See Tokenizer."""
        return self.reference.decode(ids)

    def described(self) -> Description:
        """See base.described."""
        return {
            **self.reference.described(),
            "library": self.backend,
            "version": version(self.backend),
        }


@dataclass(frozen=True, slots=True)
class Encoder:
    """What a library makes ids with."""

    of_utf8: Encode
    of_str: Callable[[Sequence[str]], tuple[Tokens, Counts]] | None = None
    """Of a library that takes str, which saves making UTF-8 of each for it to be undone."""


def _made(reference: Reference, backend: str, threads: int) -> FastTokenizer:
    return FastTokenizer(reference, backend, threads=threads)


# --- fastokens


def _fastokens(reference: Reference, threads: int) -> Encoder:
    limit_threads(1)  # see _Threads
    import fastokens  # type: ignore[import-untyped]

    vocabulary = reference.vocabulary
    if vocabulary.kind == "json":
        model = fastokens.Tokenizer.from_json_str(vocabulary.stripped)
    elif vocabulary.kind == "ranks":
        pattern = RANK_ENCODINGS[vocabulary.encoding].pattern
        with _as_file(vocabulary.content) as path:
            model = fastokens.Tokenizer.from_tiktoken(path, pattern=pattern, special_tokens={})
    else:
        raise ValueError("fastokens reads no SentencePiece models")

    def encode(texts: Sequence[str]) -> tuple[Tokens, Counts]:
        ids, offsets = model.encode_batch_flat(texts, split_special_tokens=True)
        lengths = np.diff(np.frombuffer(offsets, np.uint64).astype(np.int64))
        return np.frombuffer(ids, np.uint32), lengths

    of_str = encode if threads == 1 else _Threads(encode, threads)
    return Encoder(lambda texts: of_str([text.decode("utf-8") for text in texts]), of_str)


class _Threads:
    """An encoder that several threads call, each with a part of the texts, in their order."""

    def __init__(
        self, encode: Callable[[Sequence[str]], tuple[Tokens, Counts]], threads: int
    ) -> None:
        self._encode, self._num_threads = encode, threads
        self._pool = ThreadPoolExecutor(threads)  # kept: a thread has a memory of words seen

    def __call__(self, texts: Sequence[str]) -> tuple[Tokens, Counts]:
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        size = int(ends[-1]) if len(ends) else 0
        num_parts = min(self._num_threads, size // MIN_PART_BYTES)
        if num_parts < 2:
            return self._encode(texts)
        edges = np.searchsorted(ends, np.arange(1, num_parts) * size // num_parts).tolist()
        parts = [texts[i:j] for i, j in pairwise([0, *edges, len(texts)])]
        found = list(self._pool.map(self._encode, parts))
        ids, lengths = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(lengths)


# --- gigatoken


class _Gigatoken:
    """gigatoken with a bounded memory, and the reference for characters it sees otherwise."""

    def __init__(self, reference: Reference, threads: int) -> None:
        if threads > 1:
            limit_threads(threads)
        self._reference = reference
        self._threads = threads
        self._renew()

    def __call__(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        new = [i for i, text in enumerate(texts) if has_new_characters(text)]
        if not new:
            return self._encode(texts)
        firsts = set(new)
        others = [text for i, text in enumerate(texts) if i not in firsts]
        return _merged(
            self._encode(others),
            self._reference.encode_utf8([texts[i] for i in new]),
            np.isin(np.arange(len(texts)), new),
        )

    def _encode(self, texts: Sequence[bytes]) -> tuple[Tokens, Counts]:
        self._num_bytes += sum(map(len, texts))
        if self._has_grown():
            self._renew()
        rows = self._model.encode_batch(list(texts), parallel=self._threads > 1).layout
        ids, offsets = np.asarray(rows.content.data), np.asarray(rows.offsets.data)
        return ids, np.diff(offsets).astype(np.int64, copy=False)

    def _has_grown(self) -> bool:
        size = _process_bytes()
        if size is None or self._size is None:
            return self._num_bytes > MAX_TEXT_BYTES
        return size - self._size > MAX_GROWTH_BYTES

    def _renew(self) -> None:
        self._model: Any = None  # the old one goes before the new one comes
        self._model = _gigatoken_model(self._reference.vocabulary)
        self._num_bytes = 0
        self._size = _process_bytes()


def _gigatoken_model(vocabulary: Vocabulary) -> Any:
    import gigatoken

    if vocabulary.kind == "json":
        if re.search(rb'"type"\s*:\s*"NFK?[CD]"', vocabulary.content):
            raise ValueError("its Unicode normal forms are of a newer Unicode than the reference's")
        return gigatoken.Tokenizer.from_json(vocabulary.stripped)
    if vocabulary.kind == "ranks":
        scheme = RANK_ENCODINGS[vocabulary.encoding].scheme
        with _as_file(vocabulary.content) as path:
            return gigatoken.Tokenizer.from_tiktoken(path, scheme, special_tokens={})
    from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json

    as_json = sentencepiece_to_tokenizer_json(vocabulary.content)
    return gigatoken.Tokenizer.from_json(stripped(orjson.loads(as_json)))


_NEW_CHARACTERS = re.compile(
    "[\u088f\u0c5c\u0cdc\ua7ce\ua7cf\ua7d2\ua7d4\ua7f1\U00010940-\U00010959\U00010ec5-\U00010ec7"
    "\U00011db0-\U00011ddb\U00011de0-\U00011de9\U00016ea0-\U00016eb8\U00016ebb-\U00016ed3"
    "\U00016ff2-\U00016ff6\U000187f8-\U000187ff\U00018d09-\U00018d1e\U00018d80-\U00018df2"
    "\U0001e6c0-\U0001e6ff\U0002b73a-\U0002b73f\U0002cea2-\U0002cead\U000323b0-\U00033479]"
)
"""Letters, digits and marks of Unicode 17 that Unicode 16 has not; found by encoding each code
point in turn with gigatoken 0.10.0 and tokenizers 0.22.2."""

_NEW_STARTS = (b"\xe0\xa2\x8f", b"\xe0\xb1\x9c", b"\xe0\xb3\x9c", b"\xea\x9f", b"\xf0")
"""One of them is in any text with one of _NEW_CHARACTERS; looked for first, as that is faster."""


def has_new_characters(text: bytes) -> bool:
    """Whether gigatoken sees a character of a text otherwise than the references do."""
    if text.isascii() or not any(start in text for start in _NEW_STARTS):
        return False
    return _NEW_CHARACTERS.search(text.decode("utf-8")) is not None


def _merged(
    others: tuple[Tokens, Counts], chosen: tuple[Tokens, Counts], is_chosen: np.ndarray[Any, Any]
) -> tuple[Tokens, Counts]:
    """Two encoded batches as one, in the order of the texts; is_chosen (n,) says whose each is."""
    lengths = np.empty(len(is_chosen), np.int64)
    lengths[is_chosen], lengths[~is_chosen] = chosen[1], others[1]
    of_chosen = np.repeat(is_chosen, lengths)
    ids = np.empty(len(of_chosen), np.uint32)
    ids[of_chosen], ids[~of_chosen] = chosen[0], others[0]
    return ids, lengths


# --- what both need


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mixstream-ranks-") as folder:
        path = Path(folder) / "ranks.tiktoken"
        path.write_bytes(content)
        yield str(path)


def _process_bytes() -> int | None:
    """Memory that this process holds now, or None where that cannot be read."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


FAST_BACKENDS: dict[str, Callable[[Reference, int], Encoder]] = {
    "fastokens": _fastokens,
    "gigatoken": lambda reference, threads: Encoder(_Gigatoken(reference, threads)),
}
"""{name: what makes its encoder}."""


def fastest_first(vocabulary: Vocabulary) -> list[str]:
    """The names of the fast back ends, the fastest for such a tokenizer first.

    fastokens is 1.3 to 1.8 times as fast as gigatoken on a tokenizer.json whose pattern it knows,
    as those in patterns.py; gigatoken is up to 11 times as fast on all others and on ranks
    (benchmarks/tokenizer_backends.py). A rule, and no clock, so that a manifest is the same again.
    """
    knows = vocabulary.kind == "json" and vocabulary.separators is not None
    return ["fastokens", "gigatoken"] if knows else ["gigatoken", "fastokens"]
