"""`mixstream draw`: what some weights will draw from a corpus, without reading its data."""

from __future__ import annotations

import argparse

import numpy as np

from mixstream.cli.arguments import at_least
from mixstream.cli.table import table
from mixstream.errors import WeightsError

__all__ = ["add_command", "parsed_weights"]

_MAX_ROWS_AT_ONCE = 1 << 20


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "draw",
        help="asked and drawn shares, and epochs, of given weights",
        description="Runs the sampler alone: domain by domain the asked share, the drawn share and "
        "the epochs. Reads the indexes, no data.",
    )
    parser.add_argument("corpus", metavar="CORPUS", help="a corpus, or a folder of MDS shards")
    parser.add_argument(
        "--weights", nargs="+", metavar="NAME=W", help="every domain; default: share of the rows"
    )
    parser.add_argument(
        "--rows", type=at_least(1), default=100_000, metavar="N", help="default: 100000"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--stratum", type=at_least(1), metavar="N", help="draw by strata of N rows, not row by row"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draws, and prints the table."""
    from mixstream.corpus.corpus import open_corpus
    from mixstream.mixing.sampler import MixSampler

    sampler = MixSampler(
        open_corpus(options.corpus).layout,
        None if options.weights is None else parsed_weights(options.weights),
        seed=options.seed,
        sampling="independent" if options.stratum is None else "stratified",
        stratum=options.stratum,
    )
    while sampler.row < options.rows:
        sampler.draw(min(_MAX_ROWS_AT_ONCE, options.rows - sampler.row))
    drawn = sampler.counts
    columns = (sampler.domains, sampler.weights, drawn / options.rows, drawn, sampler.epochs)
    rows = [[name, *map(np.generic.item, cells)] for name, *cells in zip(*columns, strict=True)]
    print(table(["domain", "asked", "drawn", "rows", "epochs"], rows))
    return 0


def parsed_weights(pairs: list[str]) -> dict[str, float]:
    """["web=0.7", "code=0.3"] -> {"web": 0.7, "code": 0.3}.

    Raises:
        WeightsError: a pair that is not NAME=NUMBER, or a name given twice.
    """
    weights: dict[str, float] = {}
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            name = ""
        if not name:
            raise WeightsError(f"{pair!r} is not NAME=NUMBER, as in web=0.7.")
        if name in weights:
            raise WeightsError(f"domain {name!r} is given twice: {weights[name]} and {value}.")
        weights[name] = value
    return weights
