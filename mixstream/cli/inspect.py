"""`mixstream inspect`: what a corpus holds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mixstream.cli.arguments import at_least
from mixstream.cli.table import table
from mixstream.errors import RecipeError, ShardError

if TYPE_CHECKING:
    from mixstream.corpus.corpus import Corpus
    from mixstream.corpus.tokenizers import Tokenizer

__all__ = ["add_command", "domain_table", "piece_table", "print_row"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "inspect",
        help="a table of a corpus's domains; its rows as text",
        description="Prints what a corpus holds. Reads the manifest and the indexes alone, and "
        "with --show the first rows.",
    )
    parser.add_argument("corpus", metavar="CORPUS", help="a corpus, or a folder of MDS shards")
    parser.add_argument(
        "--show", type=at_least(1), metavar="N", help="decode N rows of each domain"
    )
    parser.add_argument(
        "--tokenizer", metavar="T", help="the corpus's tokenizer.json, to show text"
    )
    parser.add_argument(
        "--end-of-text", metavar="TOKEN", help="as it was given to convert, for that tokenizer"
    )
    parser.add_argument(
        "--row", metavar="DOMAIN:ROW", help="the documents in a row, and where they came from"
    )
    parser.add_argument("--cache", metavar="DIR", help="where compressed shards are opened to")
    parser.add_argument("--domain", metavar="NAME", help="show rows of this domain alone")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the table and the rows."""
    from mixstream.corpus.corpus import open_corpus

    corpus = open_corpus(options.corpus, cache=options.cache)
    if options.row is not None:
        print_row(corpus, options.row, _tokenizer(corpus, options.tokenizer, options.end_of_text))
        return 0
    print(_headline(corpus))
    print(domain_table(corpus))
    if options.show:
        _show(corpus, options)
    return 0


def domain_table(corpus: Corpus) -> str:
    """A line a domain and one for all: documents, rows, tokens, padding, dropped, bytes."""
    if corpus.manifest is None:
        rows = [
            [name, len(corpus.layout[name]), int(corpus.layout[name].sum())]
            for name in corpus.domains
        ]
        return table(["domain", "shards", "rows"], rows)
    entries = corpus.manifest.domains
    lines: list[list[object]] = [
        [name, entry.documents, entry.rows, entry.tokens, entry.padding, entry.text_bytes,
         len(corpus.layout[name]), num_bytes, sum(entry.dropped.values())]
        for (name, entry), num_bytes in zip(
            entries.items(), corpus.shard_bytes.tolist(), strict=True
        )
    ]  # fmt: skip
    lines.append(["all", *(sum(column) for column in list(zip(*lines, strict=True))[1:])])
    for line, dropped in zip(lines, [*(entry.dropped for entry in entries.values()), {}],
                             strict=True):  # fmt: skip
        line.append(", ".join(f"{reason} {number:,}" for reason, number in dropped.items()))
    header = ["domain", "documents", "rows", "tokens", "padding", "text bytes", "shards",
              "shard bytes", "dropped", "for"]  # fmt: skip
    return table(header, lines)


def print_row(corpus: Corpus, address: str, tokenizer: Tokenizer | None) -> None:
    """The documents in a row, and its text where a tokenizer is known."""
    domain, _, number = address.rpartition(":")
    if not (domain and number.isascii() and number.isdigit()):
        raise RecipeError(f"--row {address!r} is not DOMAIN:ROW, as in web:123456.")
    ids = corpus.row(domain, int(number))
    print(piece_table(corpus, domain, int(number)))
    if tokenizer is not None:
        print(tokenizer.decode(ids.astype("uint32")))


def piece_table(corpus: Corpus, domain: str, row: int) -> str:
    """A line for each document in a row: its columns, and where it came from.

    Raises:
        ShardError: the corpus has no provenance, or is not a local one.
    """
    from pathlib import Path

    from mixstream.corpus.provenance import PROVENANCE, pieces_of_row

    if corpus.path is None or "://" in corpus.path or corpus.manifest is None:
        raise ShardError(
            f"provenance is read from a converted corpus in a local folder, not from "
            f"{corpus.path or 'several folders'}; copy {PROVENANCE} of domain {domain!r} and its "
            f"corpus here."
        )
    lines: list[list[object]] = [
        [piece.start, piece.length, piece.file, piece.record, piece.document_id or "",
         "begins here" if piece.offset == 0 else f"from its id {piece.offset:,} on"]
        for piece in pieces_of_row(Path(corpus.path) / domain / PROVENANCE, row)
    ]  # fmt: skip
    return table(["column", "ids", "file", "record", "id", "document"], lines)


def _headline(corpus: Corpus) -> str:
    text = f"{len(corpus.domains)} domains, rows of {corpus.seq_len:,} {corpus.dtype}"
    if corpus.manifest is not None:
        manifest = corpus.manifest
        text += (
            f", packing {manifest.packing}, tokenizer {manifest.tokenizer.name} of "
            f"{manifest.tokenizer.vocab_size:,} ids, end of text {manifest.tokenizer.end_id}"
        )
    return f"{text}, fingerprint {corpus.fingerprint}"


def _show(corpus: Corpus, options: argparse.Namespace) -> None:
    """The first rows of each domain, decoded, or as ids where no tokenizer is known."""
    tokenizer = _tokenizer(corpus, options.tokenizer, options.end_of_text)
    if options.domain is not None and options.domain not in corpus.domains:
        raise RecipeError(
            f"no domain {options.domain!r}; the corpus holds {', '.join(corpus.domains)}."
        )
    for name in [options.domain] if options.domain else corpus.domains:
        for row in range(min(options.show, int(corpus.layout[name].sum()))):
            ids = corpus.row(name, row)
            print(f"\n--- {name}:{row}")
            print(tokenizer.decode(ids.astype("uint32")) if tokenizer else ids.tolist())


def _tokenizer(corpus: Corpus, name: str | None, end_of_text: str | None) -> Tokenizer | None:
    """The tokenizer to decode with; refuses one that is not the corpus's."""
    from mixstream.corpus.tokenizers import open_tokenizer

    known = corpus.manifest.tokenizer if corpus.manifest else None
    if name is None and (known is None or known.name != "bytes"):
        return None
    tokenizer = open_tokenizer(name or "bytes", end_of_text=end_of_text)
    if known is not None and known.sha256 != tokenizer.sha256:
        raise RecipeError(
            f"the corpus was made with tokenizer {known.name} (sha256 {known.sha256[:16]}...), not "
            f"with {tokenizer.name} (sha256 {tokenizer.sha256[:16]}...); give the first."
        )
    return tokenizer
