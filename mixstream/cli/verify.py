"""`mixstream verify`: is a corpus what its manifest says, to the byte?"""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "verify",
        help="re-read every shard of a corpus and compare",
        description="Reads every shard and compares checksum, header, row count, token range and "
        "padding with index and manifest, and provenance with the rows. A line a fault; exit code "
        "1 if there is any.",
    )
    parser.add_argument("corpus", metavar="CORPUS", help="a corpus, or a folder of MDS shards")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the faults, or how much was found right."""
    from mixstream.corpus.verify import corpus_faults

    num_faults = 0
    for fault in corpus_faults(Path(options.corpus)):
        num_faults += 1
        print(fault, flush=True)
    if num_faults == 0:
        print(f"{options.corpus}: every shard is as its index and manifest say")
    return int(num_faults > 0)
