"""`mixstream set`: asks a running loader for other weights."""

from __future__ import annotations

import argparse
import sys

from mixstream.cli.arguments import at_least
from mixstream.cli.draw import parsed_weights

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "set",
        help="other weights for a run that goes on",
        description="Asks a run that was started with Loader(..., steerable=True) for other "
        "weights. It takes them at its next step, and its log keeps the reason.",
    )
    parser.add_argument("log", metavar="RUN", help="log of the run, from Loader(run_log=...)")
    parser.add_argument("weights", nargs="+", metavar="NAME=W", help="every domain")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")
    parser.add_argument(
        "--wait",
        nargs="?",
        type=at_least(1),
        const=60,
        metavar="SECONDS",
        help="for the run's answer; 60 s if no number is given",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Asks, and says what the run answered if that is waited for."""
    from mixstream.runlog import read_answer, request_weights

    request = request_weights(options.log, parsed_weights(options.weights), options.reason)
    if options.wait is None:
        print(f"asked: {request}\n(--wait waits for the run's answer.)")
        return 0
    answer = read_answer(request, timeout_seconds=options.wait)
    if answer is None:
        print(
            f"mixstream: no answer in {options.wait} s: the run is in a long step, or not running. "
            f"The request waits; delete {request} to take it back.",
            file=sys.stderr,
        )
        return 1
    if not answer["accepted"]:
        print(f"mixstream: refused: {answer['message']}", file=sys.stderr)
        return 1
    print(f"taken: felt from step {answer['step']:,}, row {answer['row']:,}")
    return 0
