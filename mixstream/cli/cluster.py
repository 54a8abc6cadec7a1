"""`mixstream cluster`: documents -> clusters, one folder each; a target set -> its histogram."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mixstream.cli.arguments import at_least
from mixstream.cli.table import table
from mixstream.errors import RecipeError

if TYPE_CHECKING:
    from mixstream.cluster.write import ClusterReport

__all__ = ["add_command"]

_DESCRIPTION = """\
Deals the documents of RAW out to clusters of like texts, and writes a folder for each, which
`mixstream convert OUT CORPUS` turns into a corpus with one domain a cluster. With --model the
clusters are those of an earlier OUT: give it a target set to see which of them it lies in.

  mixstream cluster raw/ clusters/ --clusters 64
  mixstream convert clusters/ corpus/ --tokenizer tokenizer.json --seq-len 2048
  mixstream cluster target/ --model clusters/ --json target.json"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "cluster",
        help="documents without domains -> clusters, one domain each",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("raw", metavar="RAW", help="folder of raw files (sub-folders play no part), or one file")
    add("out", nargs="?", metavar="OUT", help="a new or empty folder for the clusters")
    add("--model", metavar="DIR", help="assign to the clusters of this OUT instead of fitting any")
    add(
        "--clusters",
        type=_num_clusters,
        metavar="K",
        help="how many; 32x32 for two levels; default: 64",
    )
    add("--embedding", metavar="DIR", help="a local sentence-transformers model; default: words")
    add("--dimensions", type=at_least(1), metavar="D", help="of the words' points; default: 128")
    add("--unbalanced", action="store_true", help="let clusters be of any size")
    add("--sample", type=at_least(1), metavar="N", help="documents to fit to; default: 50000")
    add("--seed", type=at_least(0), metavar="N", help="default: 0")
    add("--text-field", default="text", metavar="NAME", help="default: text")
    add("--json", metavar="FILE", help="write the counts by cluster there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fits or opens the clusters, assigns, and prints the table."""
    from mixstream.cluster.model import open_clusters
    from mixstream.cluster.write import ClusterSettings, ReadSettings, cluster_documents
    from mixstream.corpus.jsonfile import write_json

    given = {
        "num_clusters": options.clusters,
        "dimensions": options.dimensions,
        "balanced": False if options.unbalanced else None,
        "sample": options.sample,
        "seed": options.seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    reading = ReadSettings(text_field=options.text_field)
    if options.model is None:
        if options.out is None:
            raise RecipeError("no OUT to write the clusters to; give one, or --model to count.")
        settings = ClusterSettings(embedding=options.embedding, **given)
        report = cluster_documents(options.raw, options.out, settings, reading=reading)
    else:
        if given:
            raise RecipeError(
                f"--model {options.model} has its clusters; {', '.join(sorted(given))} would have "
                f"no effect. Leave them out."
            )
        model = open_clusters(options.model, embedding=options.embedding)
        report = cluster_documents(options.raw, options.out, model=model, reading=reading)
    if options.json is not None:
        write_json(Path(options.json), dict(report.documents))
    print(_table(report))
    return 0


def _table(report: ClusterReport) -> str:
    """A line a cluster that holds documents, and what was dropped."""
    total = max(1, sum(report.documents.values()))
    rows = [
        [name, number, report.text_bytes[name], number / total]
        for name, number in report.documents.items()
        if number
    ]
    text = table(["cluster", "documents", "text bytes", "share"], rows)
    empty = len(report.documents) - len(rows)
    if empty:
        text += f"\n{empty:,} of {len(report.documents):,} clusters hold no document"
    for reason, number in report.dropped.items():
        text += f"\ndropped: {number:,} {reason}"
    return text


def _num_clusters(text: str) -> int | tuple[int, int]:
    """The number of "64", or the two of "32x16"."""
    counts = [at_least(1)(part) for part in text.split("x")]
    if len(counts) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is neither K nor COARSExFINE")
    return counts[0] if len(counts) == 1 else (counts[0], counts[1])
