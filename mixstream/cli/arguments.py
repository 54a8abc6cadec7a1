"""What several commands ask of their arguments."""

from __future__ import annotations

import argparse

__all__ = ["at_least", "num_bytes"]


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


def num_bytes(text: str) -> int:
    """A type of argument: bytes as a number, or with a unit of KiB, MiB, GiB or TiB.

    >>> num_bytes("1.5GiB"), num_bytes("4096")
    (1610612736, 4096)
    """
    number, unit = text, 1
    for power, name in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1):
        if text.lower().endswith(name.lower()):
            number, unit = text[: -len(name)], 1024**power
    try:
        size = int(float(number) * unit)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give bytes, or as in 4GiB")
    return size
