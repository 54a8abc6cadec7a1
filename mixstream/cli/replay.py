"""`mixstream replay`: a run log -> the rows that any of its steps saw, as addresses or as text."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mixstream.errors import StateError

if TYPE_CHECKING:
    from mixstream.arrays import Addresses
    from mixstream.corpus.corpus import Corpus
    from mixstream.corpus.tokenizers import Tokenizer
    from mixstream.runlog.run import Run

__all__ = ["add_command"]

_DESCRIPTION = """\
Draws the rows of a run again, from its log alone, and prints a line for each: step, global row,
domain, row of the domain; with tabs between. --where turns the question round: which steps saw a
row? With --corpus, --text prints what each row says."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "replay",
        help="which rows a step saw, which steps saw a row",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("log", metavar="RUN", help="the file that Loader(run_log=...) wrote")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rows", type=_range, metavar="A:B", help="global rows A to B - 1")
    which.add_argument(
        "--steps", type=_range, metavar="A:B", help="steps A to B - 1, or one step A"
    )
    add("--where", metavar="DOMAIN:ROW", help="the steps that saw this row, instead of all rows")
    add("--corpus", metavar="CORPUS", help="the corpus of the run")
    add("--text", action="store_true", help="the text of each row, with --corpus")
    add("--tokenizer", metavar="T", help="the corpus's tokenizer.json, to show text")
    add("--end-of-text", metavar="TOKEN", help="as it was given to convert, for that tokenizer")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints rows, or where one was seen."""
    from mixstream.runlog.run import read_run

    found = read_run(options.log)
    if options.text and options.corpus is None:
        raise StateError("--text needs the rows themselves; give --corpus.")
    if options.where is not None:
        _print_sightings(found, options)
        return 0
    if options.rows is None and options.steps is None:
        raise StateError(
            f"{found.path} tells of rows {found.first_row} to {found.last_row}, steps "
            f"{found.step_of(found.first_row)} to {found.last_step}; say which: --rows A:B or "
            f"--steps A:B."
        )
    corpus, tokenizer = _corpus(found, options)
    for first, addresses in _blocks(found, options):
        _print_rows(found, first, addresses, corpus, tokenizer if options.text else None)
    return 0


def _blocks(found: Run, options: argparse.Namespace) -> Iterator[tuple[int, Addresses]]:
    """The rows asked for, block by block, each with its first global row."""
    from mixstream.runlog.replay import replayed_blocks, row_range

    first, end = row_range(found, rows=options.rows, steps=options.steps)
    for addresses in replayed_blocks(found, first, end):
        yield first, addresses
        first += addresses.size


def _print_rows(
    found: Run,
    first: int,
    addresses: Addresses,
    corpus: Corpus | None,
    tokenizer: Tokenizer | None,
) -> None:
    rows, names = np.arange(first, first + addresses.size), found.domains
    lines = zip(found.steps_of(rows).tolist(), rows.tolist(), addresses.tolist(), strict=True)
    for step, row, (domain, number) in lines:
        print(step, row, names[domain], number, sep="\t")
        if corpus is not None and tokenizer is not None:
            _print_text(corpus, tokenizer, names[domain], number)
            print()


def _print_text(corpus: Corpus, tokenizer: Tokenizer, domain: str, row: int) -> None:
    """What a row says, and where that came from; of a domain that is there."""
    if domain not in corpus.layout or row >= corpus.layout[domain].sum():
        print(f"(domain {domain!r} has no such row in the corpus that is given)")
        return
    _print_origins(corpus, domain, row)
    print(tokenizer.decode(corpus.row(domain, row).astype(np.uint32)))


def _print_origins(corpus: Corpus, domain: str, row: int) -> None:
    """Where the documents in a row came from, if the corpus was converted with --provenance."""
    from mixstream.cli.inspect import piece_table
    from mixstream.corpus.provenance import PROVENANCE

    if corpus.path is not None and (Path(corpus.path) / domain / PROVENANCE).is_file():
        print(piece_table(corpus, domain, row))


def _print_sightings(found: Run, options: argparse.Namespace) -> None:
    from mixstream.runlog.replay import seen_at

    domain, _, number = options.where.rpartition(":")
    if not domain or not number.isdigit():
        raise StateError(f"--where {options.where!r} is not DOMAIN:ROW, as in web:123456.")
    seen = seen_at(found, domain, int(number), rows=options.rows, steps=options.steps)
    for row, step in zip(seen.rows.tolist(), seen.steps.tolist(), strict=True):
        print(step, row, domain, number, sep="\t")
    corpus, tokenizer = _corpus(found, options)
    if corpus is not None and tokenizer is not None:
        _print_text(corpus, tokenizer, domain, int(number))


def _corpus(found: Run, options: argparse.Namespace) -> tuple[Corpus | None, Tokenizer | None]:
    """The corpus, which must be one that the run read, and what decodes it."""
    if options.corpus is None:
        return None, None
    from mixstream.cli.inspect import _tokenizer as corpus_tokenizer
    from mixstream.corpus.corpus import open_corpus
    from mixstream.runlog.replay import check_corpus

    corpus = open_corpus(options.corpus)
    if corpus.fingerprint not in [each["corpus"] for each in found.corpora]:
        check_corpus(found, corpus.fingerprint)
    if not options.text:
        return corpus, None
    tokenizer = corpus_tokenizer(corpus, options.tokenizer, options.end_of_text)
    if tokenizer is None:
        raise StateError(
            "the text of this corpus needs the tokenizer that it was made with; give --tokenizer."
        )
    return corpus, tokenizer


def _range(text: str) -> tuple[int, int]:
    """A range as the command line has it: 3:7 is (3, 7), and 3 alone is (3, 4)."""
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, as in 0:100, nor one number")
    first = int(found[1])
    return first, int(found[2]) if found[2] else first + 1
