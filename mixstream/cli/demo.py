"""`mixstream demo`: the whole way, on real text that every machine with Python has."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mixstream.cli.demo_text import write_domains
from mixstream.cli.table import table
from mixstream.corpus.machine import num_cores

if TYPE_CHECKING:
    from mixstream.arrays import Counts
    from mixstream.corpus.corpus import Corpus
    from mixstream.loader import Loader

__all__ = ["add_command", "train_tokenizer"]

_VOCAB_SIZE = 8192
_SEQ_LEN = 512
_BATCH_SIZE = 16
_STEPS = 240
_CHANGE_STEP = 120
_STEPS_A_LINE = 20
_BAR_WIDTH = 60
_GLYPHS = "█▓▒░·"

_OWN_CORPUS = """\
Now your own text, one folder a domain:

  mixstream convert raw/ corpus/ --tokenizer tokenizer.json --seq-len 2048

  import mixstream
  corpus = mixstream.open_corpus("corpus/")
  loader = mixstream.Loader(corpus, weights={"web": 0.7, "code": 0.3}, batch_size=8, seed=17)
  for batch in loader:                 # input_ids (8, 2048), domain_ids (8,)
      ...
      loader.set_weights({"web": 0.4, "code": 0.6})   # the next batch feels it"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "demo",
        help="convert, stream and steer Python's own text; no network, under a minute",
        description="Takes the text of this Python's standard library as five domains, trains a "
        "tokenizer on it, converts it, streams it and changes the mixture in the middle.",
    )
    parser.add_argument("--out", metavar="DIR", help="keep text, tokenizer and corpus there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The demo, in a folder that is kept or not."""
    if options.out is not None:
        _demo(Path(options.out))
        return 0
    with tempfile.TemporaryDirectory(prefix="mixstream-demo-") as folder:
        _demo(Path(folder))
    print("\n(mixstream demo --out DIR keeps the text, the tokenizer and the corpus.)")
    return 0


def _demo(folder: Path) -> None:
    raw, tokenizer, out = folder / "raw", folder / "tokenizer.json", folder / "corpus"
    if not tokenizer.exists():  # kept from an earlier run otherwise
        _say(f"1. Text of Python {sys.version.split()[0]}'s standard library -> {raw}")
        texts = write_domains(raw)
        _say(f"2. A BPE tokenizer of {_VOCAB_SIZE:,} ids, trained on it -> {tokenizer}")
        train_tokenizer(texts, tokenizer, vocab_size=_VOCAB_SIZE)
    corpus = _converted(raw, tokenizer, out)
    loader, after = _stream(corpus)
    _resume(corpus, loader, after)
    print(f"\n{_OWN_CORPUS}")


def _converted(raw: Path, tokenizer: Path, out: Path) -> Corpus:
    from mixstream.cli.inspect import domain_table
    from mixstream.corpus.convert import convert
    from mixstream.corpus.corpus import open_corpus

    workers = num_cores()
    _say(f"3. mixstream convert {raw} {out} --tokenizer {tokenizer.name} --seq-len {_SEQ_LEN}")
    convert(raw, out, tokenizer=tokenizer, seq_len=_SEQ_LEN, workers=workers)
    corpus = open_corpus(out)
    print(domain_table(corpus))
    return corpus


def _stream(corpus: Corpus) -> tuple[Loader, dict[str, float]]:
    """Streams, changes the weights half-way, and prints what was asked and what was drawn."""
    from mixstream.loader import Loader

    _say(f"4. Streaming {_STEPS} batches of {_BATCH_SIZE} rows through a torch DataLoader")
    loader = Loader(corpus, batch_size=_BATCH_SIZE, seed=17)
    before = loader.weights
    after = {name: share / 10 for name, share in zip(corpus.domains, (1, 1, 2, 5, 1), strict=True)}
    drawn: list[Counts] = []
    started = time.perf_counter()
    for step, batch in enumerate(loader):
        drawn.append(np.bincount(batch["domain_ids"].numpy(), minlength=len(corpus.domains)))
        if step + 1 == _CHANGE_STEP:
            change = loader.set_weights(after, reason="demo")
        if step + 1 == _STEPS:
            break
    seconds = time.perf_counter() - started
    counts = np.array(drawn)
    _print_bars(corpus.domains, counts)
    print(
        f"\nloader.set_weights(...) after step {_CHANGE_STEP - 1}: felt from row "
        f"{change.at_row:,}, step {change.at_step}; nothing restarted, nothing skipped.\n"
    )
    shares = [
        part.sum(axis=0) / part.sum() for part in (counts[:_CHANGE_STEP], counts[_CHANGE_STEP:])
    ]
    columns = (before, shares[0], [after[name] for name in corpus.domains], shares[1])
    rows = [
        [name, *map(float, cells)] for name, *cells in zip(corpus.domains, *columns, strict=True)
    ]
    print(table(["domain", "asked", "drawn", "asked then", "drawn then"], rows))
    num_rows = counts.sum()
    print(
        f"\n{num_rows:,} rows, {num_rows * _SEQ_LEN:,} tokens in {seconds:.2f} s: "
        f"{num_rows / seconds:,.0f} rows/s, {num_rows * _SEQ_LEN / seconds / 1e6:,.0f} M tokens/s"
    )
    return loader, after


def _resume(corpus: Corpus, loader: Loader, weights: dict[str, float]) -> None:
    """Saves, resumes on two ranks, and compares the rows."""
    from mixstream.loader import Loader

    _say("5. A checkpoint, resumed on two ranks of half the batch size")
    state = json.loads(json.dumps(loader.state_dict()))
    expected = next(iter(loader))["input_ids"]
    halves = []
    for rank in range(2):
        half = Loader(
            corpus, weights, batch_size=_BATCH_SIZE // 2, seed=17, rank=rank, world_size=2
        )
        half.load_state_dict(state)
        halves.append(next(iter(half))["input_ids"])
    same = np.array_equal(expected.numpy(), np.concatenate(halves))
    print(f"state of {len(json.dumps(state)):,} bytes; the next rows are the same: {same}")


def _print_bars(domains: tuple[str, ...], counts: Counts) -> None:
    """A line for every few steps, each domain as wide as its share of the drawn rows."""
    print("   ".join(f"{glyph * 2} {name}" for glyph, name in zip(_GLYPHS, domains, strict=True)))
    for start in range(0, _STEPS, _STEPS_A_LINE):
        part = counts[start : start + _STEPS_A_LINE].sum(axis=0)
        ends = np.rint(np.cumsum(part) / part.sum() * _BAR_WIDTH).astype(int)
        widths = np.diff(ends, prepend=0).tolist()
        bar = "".join(glyph * width for glyph, width in zip(_GLYPHS, widths, strict=True))
        mark = "  <- set_weights" if start == _CHANGE_STEP else ""
        print(f"steps {start:3}-{start + _STEPS_A_LINE - 1:3} |{bar}|{mark}")


def train_tokenizer(texts: dict[str, list[str]], path: Path, *, vocab_size: int) -> None:
    """Trains a byte-level BPE on all texts and saves it as tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_all_texts(texts), trainer)
    tokenizer.save(f"{path}.tmp")
    Path(f"{path}.tmp").replace(path)  # whole or absent: a later run takes it as it is


def _all_texts(texts: dict[str, list[str]]) -> Iterator[str]:
    for domain in texts.values():
        yield from domain


def _say(line: str) -> None:
    print(f"\n{line}", flush=True)
