"""Names of domains -> converted corpora of bytes: train, validation and test, document by document.

The domains are those of ../shared/corpus, of Python's own standard library (`code`, `comments`,
`docstrings`, `reference`, `tables`, as in `mixstream demo`), and `noise`: characters drawn alike
from 64, of which nothing can be learned but their set.
"""

from __future__ import annotations

import functools
import json
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import mixstream
from mixstream.cli.demo_text import write_domains
from mixstream.corpus.sources import Document, list_files, read_documents

SHARED = Path(__file__).resolve().parents[3] / "shared" / "corpus"
LIBRARY = ("code", "comments", "docstrings", "reference", "tables")
NOISE = "noise"
_NOISE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOISE_BYTES = 2000

Sizes = Mapping[str, Mapping[str, int]]
"""By split, by domain: bytes of text."""


def write_corpora(folder: Path, sizes: Sizes, *, seed: int, seq_len: int = 64) -> dict[str, Path]:
    """A corpus a split, as `deal` deals; the path of each.

    Args:
        folder: where to write.
        sizes: what each split holds.
        seed: of the order in which documents are dealt.
        seq_len: bytes of a row.
    """
    paths = {}
    for split, texts in deal(sizes, seed=seed).items():
        raw = folder / f"raw-{split}"
        for name, found in texts.items():
            write_raw(raw / name, found)
        paths[split] = folder / split
        mixstream.convert(raw, paths[split], tokenizer="bytes", seq_len=seq_len)
    return paths


def deal(sizes: Sizes, *, seed: int) -> dict[str, dict[str, list[str]]]:
    """Texts by split, by domain: no document in two splits, nor a text that occurs twice.

    Args:
        sizes: bytes; the last document of a domain in a split is cut to fit.
        seed: of the order in which documents are dealt.
    """
    names = sorted({name for split in sizes.values() for name in split})
    shuffled = {name: _shuffled(name, seed) for name in names}
    return {
        split: {name: list(_cut(name, shuffled[name], size)) for name, size in wanted.items()}
        for split, wanted in sizes.items()
    }


def write_raw(folder: Path, texts: Iterable[str]) -> None:
    """Texts as one file of JSON lines."""
    folder.mkdir(parents=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "part-0.jsonl").write_text(lines)


def _cut(name: str, texts: Iterator[str], num_bytes: int) -> Iterator[str]:
    """Documents up to a number of bytes."""
    while num_bytes > 0:
        text = next(texts, None)
        if text is None:
            raise SystemExit(f"domain {name} has {num_bytes:,} bytes less than are asked of it.")
        kept = text.encode()[:num_bytes].decode(errors="ignore")
        num_bytes -= max(1, len(kept.encode()))
        if kept:
            yield kept


def _shuffled(name: str, seed: int) -> Iterator[str]:
    """The documents of a domain in an order of this seed; noise has no end."""
    order = random.Random(f"{name} {seed}")
    if name == NOISE:
        while True:
            yield "".join(order.choices(_NOISE_LETTERS, k=_NOISE_BYTES))
    texts = list(documents(name))
    order.shuffle(texts)
    yield from texts


@functools.cache
def documents(name: str) -> tuple[str, ...]:
    """The different texts of a domain, in the order of its files."""
    if name in LIBRARY:
        return _library()[name]
    folder = SHARED / name
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder; these experiments read ../shared/corpus.")
    found = (each for path in list_files(folder) for each in read_documents(path))
    return tuple(dict.fromkeys(each.text for each in found if isinstance(each, Document)))


@functools.cache
def _library() -> dict[str, tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        texts = write_domains(Path(folder))
    return {name: tuple(dict.fromkeys(found)) for name, found in texts.items()}
