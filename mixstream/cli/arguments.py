"""What several commands ask of their arguments."""

from __future__ import annotations

import argparse
import os

__all__ = ["at_least", "num_cores"]


class at_least:  # noqa: N801 (argparse shows its name in messages)
    """A type of argument: an integer of at least some number."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        """The number, or argparse's own error."""
        try:
            number = int(text)
        except ValueError:
            number = self._least - 1
        if number < self._least:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not an integer of at least {self._least}"
            )
        return number


def num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
