"""The command line: one file a command, and `command.py` that chooses among them."""

import os

# before numpy is imported: no command does algebra, and threads that wait for some take 0.05 s
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from mixstream.cli.command import main

__all__ = ["main"]
