"""`mixstream convert`: raw text -> a corpus."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixstream.cli.arguments import num_bytes
from mixstream.cli.progress import progress_display
from mixstream.corpus.machine import num_cores
from mixstream.errors import RecipeError

if TYPE_CHECKING:
    from mixstream.corpus.convert import ConversionReport

__all__ = ["add_command"]

_DESCRIPTION = """\
Tokenizes and packs raw text into fixed-length rows, one folder of MosaicML MDS shards a domain.
Reads .jsonl and .txt (also .gz and .zst) and .parquet. Every sub-folder of RAW is a domain;
--domain or --recipe say otherwise. Stopped or killed, the same command goes on where it was."""

_EPILOG = """\
exit codes: 0 the corpus is finished (bad documents may have been dropped: see the table),
1 an error, named on standard error; finished work stays and the same command goes on,
2 wrong usage, 130 stopped by hand"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "convert",
        help="raw text -> a corpus of token rows",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    parser.set_defaults(late=_late_output)
    add("raw", nargs="?", metavar="RAW", help="folder or URL with a sub-folder a domain")
    add("out", metavar="OUT", help="the corpus: a folder or URL, new or left unfinished")
    add("--recipe", metavar="FILE", help="TOML file with these options; the command line wins")
    add(
        "--domain",
        action="append",
        metavar="NAME=GLOB",
        help="a domain and its files, from RAW or here, or URLs; repeat it for more",
    )
    add("--tokenizer", metavar="T", help='path or name of a tokenizer, or "bytes"')
    add("--tokenizer-backend", metavar="B", help="default: the fastest that is proven equal")
    add("--end-of-text", "--eos", metavar="TOKEN", help="the token that ends a document")
    add("--bos", action="store_true", default=None, help="begin documents with the token for it")
    add("--seq-len", type=int, metavar="S", help="tokens a row")
    add("--packing", choices=("concat", "best_fit", "pad"), help="default: concat")
    add("--packing-window", type=int, metavar="N", help="tokens best_fit packs at a time")
    add("--text-field", metavar="NAME", help="field or column that holds the text; default: text")
    add("--compression", choices=("zstd",), help="compress the shards")
    add("--shard-bytes", type=int, metavar="N", help="bytes of a shard's rows; default: 64 MiB")
    add("--unit-bytes", type=int, metavar="N", help="input bytes a unit of work; default: 128 MiB")
    add("--max-document-bytes", type=int, metavar="N", help="drop longer ones; default: 128 MiB")
    add("--on-bad-document", choices=("skip", "raise"), help="default: skip, and count")
    add("--provenance", action="store_true", default=None, help="note where documents stand")
    add("--id-field", metavar="NAME", help="with --provenance: a document's name; default: id")
    add("--dedup", choices=("exact",), help="drop documents whose text was there before")
    add("--append", action="store_true", default=None, help="add new files to a finished corpus")
    add("--check", choices=("size", "time", "content"), help="how changed inputs are told")
    add("--redo-changed", action="store_true", default=None, help="go on with changed inputs")
    add("--drop-domain", metavar="NAME", help="take a domain out of a finished corpus, no more")
    add("--workers", type=int, metavar="N", help="processes at most; default: a core each")
    add("--memory", type=num_bytes, metavar="N", help="of all processes; default: 3/4 of all")
    add("--engine", choices=("local", "ray"), help="processes here (default), or a Ray cluster")
    add("--address", metavar="A", help="of the Ray cluster; default: RAY_ADDRESS, or one here")
    add("--work-folder", metavar="DIR", help="of a remote OUT: what is not uploaded yet")
    add("--json", action="store_true", help="print the report as JSON")
    add("--quiet", action="store_true", help="print nothing but errors (and --json)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Converts, and prints what became of every document."""
    from mixstream.corpus.convert import convert
    from mixstream.corpus.recipe import read_recipe

    if options.drop_domain is not None:
        return _drop(options)
    settings: dict[str, Any] = read_recipe(Path(options.recipe)) if options.recipe else {}
    given = {
        name: value
        for name, value in vars(options).items()
        if value is not None and name not in _NO_SETTINGS
    }
    if options.domain:
        given["domains"] = _patterns(options.domain)
    elif options.raw is not None and "domains" in settings:
        raise RecipeError(
            f"RAW is {options.raw!r}, but the [domains] of {options.recipe} have places of their "
            f"own; leave RAW out, or name the domains here: --domain NAME=GLOB."
        )
    workers = {} if options.engine == "ray" else {"workers": num_cores()}
    settings = {"raw": None} | workers | settings | given
    for key in ("tokenizer", "seq_len"):
        if key not in settings:
            raise RecipeError(f"no {key}; give --{key.replace('_', '-')}, or {key} in a recipe.")
    if options.quiet:
        report = convert(out=options.out, **settings)
    else:
        with progress_display(sys.stderr) as display:
            report = convert(
                out=options.out, on_progress=display.unit_ended, on_work=display.update, **settings
            )
    if options.json:
        print(json.dumps(report_json(report), indent=1))
    elif not options.quiet:
        print_report(report)
    for name, entry in report.domains.items():
        if entry.documents == 0 and entry.dropped:  # too likely a slip to keep quiet about
            print(
                f"mixstream: warning: every document of domain {name!r} was dropped: "
                f"{', '.join(f'{reason} {number:,}' for reason, number in entry.dropped.items())}. "
                f"Is --text-field right?",
                file=sys.stderr,
            )
    return 0


_NO_SETTINGS = ("run", "late", "recipe", "domain", "quiet", "json", "out", "drop_domain")


def _drop(options: argparse.Namespace) -> int:
    from mixstream.corpus.drop import drop_domain

    others = {
        name: value
        for name, value in vars(options).items()
        if value is not None and name not in (*_NO_SETTINGS, "json", "quiet")
    }
    if others:
        raise RecipeError(
            f"--drop-domain takes a domain out and does nothing else; leave out "
            f"{', '.join(others)}."
        )
    drop_domain(options.out, options.drop_domain)
    return 0


def report_json(report: ConversionReport) -> dict[str, object]:
    """The report as JSON holds it: counts and shares of each domain."""
    domains = {}
    for name, entry in report.domains.items():
        domains[name] = {
            **asdict(entry),
            "cut_share": entry.documents_cut / max(entry.documents, 1),
            "padding_share": entry.padding / max(entry.padding + entry.tokens, 1),
            "examples": report.examples.get(name, {}),
        }
    return {"path": str(report.path), "domains": domains}


def print_report(report: ConversionReport) -> None:
    """The table of `mixstream inspect`, and where the first dropped documents stand."""
    from mixstream.cli.inspect import domain_table
    from mixstream.corpus.corpus import open_corpus

    print(domain_table(open_corpus(report.path)))
    for domain, entry in report.domains.items():
        padding = entry.padding / max(entry.padding + entry.tokens, 1)
        cut = entry.documents_cut / max(entry.documents, 1)
        print(f"{domain}: {cut:.2%} of documents cut, {padding:.2%} of ids padding")
    for domain, reasons in report.examples.items():
        for reason, places in reasons.items():
            number = report.domains[domain].dropped[reason]
            print(f"dropped from {domain}: {number:,} {reason}, first at {places[0]}")


def _late_output(options: argparse.Namespace, rest: list[str]) -> bool:
    """Takes an OUT that stands apart from RAW, which argparse has taken for OUT."""
    if len(rest) != 1 or rest[0].startswith("-") or options.raw is not None:
        return False
    options.raw, options.out = options.out, rest[0]
    return True


def _patterns(domains: list[str]) -> dict[str, list[str]]:
    """["a=x", "a=y"] -> {"a": ["x", "y"]}."""
    patterns: dict[str, list[str]] = {}
    for domain in domains:
        name, equals, pattern = domain.partition("=")
        if not (name and equals and pattern):
            raise RecipeError(f"--domain {domain!r} is not NAME=GLOB, as in --domain 'web=web/*'.")
        patterns.setdefault(name, []).append(pattern)
    return patterns
