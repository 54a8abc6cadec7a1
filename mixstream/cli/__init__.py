"""The command line: one file a command, and `command.py` that chooses among them."""

from mixstream.cli.command import main

__all__ = ["main"]
