"""`mixstream watch`: a run -> a live page in the browser."""

from __future__ import annotations

import argparse
import contextlib
import webbrowser

from mixstream.cli.arguments import at_least

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "watch",
        help="a live page of a run, with sliders for its weights",
        description="Serves a page on 127.0.0.1 whose charts follow the run's log. A run that was "
        "started with Loader(..., steerable=True) takes new weights from it. Open the printed "
        "address, token and all; from another machine through ssh -L PORT:127.0.0.1:PORT.",
    )
    parser.add_argument("log", metavar="RUN", help="log of a run, from Loader(run_log=...)")
    parser.add_argument(
        "--port", type=at_least(0), default=0, metavar="N", help="default: one that is free"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves until Ctrl-C."""
    from mixstream.watch import Watch

    watch = Watch(options.log, port=options.port)
    print(f"{watch.url}\n(Ctrl-C ends it; the run goes on.)", flush=True)
    if options.open:
        webbrowser.open(watch.url)
    with contextlib.suppress(KeyboardInterrupt):
        watch.serve()
    return 0
