"""The command `mixstream`: arguments -> one of its commands, errors -> a line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mixstream import __version__
from mixstream.cli import cluster, convert, demo, draw, inspect, plan, plot, replay, verify, watch
from mixstream.cli import set as set_weights
from mixstream.errors import MixstreamError

__all__ = ["main"]

_COMMANDS = (
    convert,
    inspect,
    verify,
    draw,
    plan,
    replay,
    plot,
    watch,
    set_weights,
    cluster,
    demo,
)
_EPILOG = "exit codes: 0 done, 1 an error or a fault was found, 2 wrong usage, 130 stopped by hand"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    parser = argparse.ArgumentParser(prog="mixstream", description=__doc__, epilog=_EPILOG)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_command(commands)
    parser.add_argument("--version", action="version", version=f"mixstream {__version__}")
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "late") and options.late(options, rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except MixstreamError as error:
        print(f"mixstream: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # standard output on a full disk, say
        if isinstance(error, BrokenPipeError):  # the reader of a pipe, `head` say, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"mixstream: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mixstream: stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return code
