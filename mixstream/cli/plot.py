"""`mixstream plot`: run logs -> a picture of their mixtures."""

from __future__ import annotations

import argparse

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "plot",
        help="run logs -> a picture: weights, drawn shares, signals, epochs",
        description="Paints asked weights, drawn shares, every signal and the epochs of one or "
        "several runs side by side, from their logs alone; planned changes, too.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="log of a run, from Loader(run_log=)"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="ends in .png, .svg or .html"
    )
    parser.add_argument("--steps", type=step_range, metavar="A:B", help="from step A to before B")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Paints, and says where."""
    from mixstream.plot import plot

    print(plot(options.runs, options.out, steps=options.steps))
    return 0


def step_range(text: str) -> tuple[int, int]:
    """The text "100:200" as (100, 200), or argparse's own error."""
    first, colon, end = text.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B with A < B, as in 100:200")
    return int(first), int(end)
