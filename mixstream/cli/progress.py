"""How far a conversion is -> bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mixstream.corpus.convert import Progress, Work

__all__ = ["ProgressDisplay", "progress_display", "progress_lines"]

MAX_DOMAIN_LINES = 8
LINE_EVERY_SECONDS = 30.0
_BAR = 20


@contextmanager
def progress_display(stream: TextIO) -> Iterator[ProgressDisplay]:
    """A display that leaves its last state on the stream."""
    display = ProgressDisplay(stream, is_terminal=stream.isatty())
    try:
        yield display
    finally:
        display.close()


class ProgressDisplay:
    """Shows a conversion: bars that are drawn over on a terminal, else a line now and then."""

    def __init__(self, stream: TextIO, *, is_terminal: bool) -> None:
        self._stream, self._is_terminal = stream, is_terminal
        self._started = self._last = time.monotonic()
        self._num_drawn = 0

    def unit_ended(self, progress: Progress) -> None:
        """A unit more; told where there is no terminal."""
        if not self._is_terminal:
            share = progress.done_bytes / max(progress.total_bytes, 1)
            unit, rows = progress.unit, progress.report.rows
            self._stream.write(f"{share:4.0%}  {unit.domain}: unit {unit.index}, {rows:,} rows\n")

    def update(self, work: Work) -> None:
        """How far all is, a few times a second."""
        now = time.monotonic()
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            lines = [line[:width] for line in progress_lines(work, now - self._started)]
            up = f"\x1b[{self._num_drawn}A" if self._num_drawn else ""
            self._stream.write(up + "".join(f"\r\x1b[K{line}\n" for line in lines) + "\x1b[J")
            self._num_drawn = len(lines)
        elif now - self._last >= LINE_EVERY_SECONDS:
            self._last = now
            self._stream.write(progress_lines(work, now - self._started)[-1] + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is drawn over from here on."""
        self._num_drawn = 0
        self._stream.flush()


def progress_lines(work: Work, seconds: float) -> list[str]:
    """A line for each domain that is under way, at most eight, and one for all.

    The rates and the time left are those of this run: what an earlier one had finished does not
    count. The time left goes by bytes of input.

    Args:
        work: how far all is.
        seconds: since this run began.
    """
    all_, parts = work.all, work.domains
    under_way = [name for name, each in parts.items() if 0 < each.done_bytes < each.total_bytes]
    shown = under_way[:MAX_DOMAIN_LINES]
    names = [*shown, "all"]
    widest = max(map(len, names))
    lines = [
        f"{name:<{widest}} {_bar(each.done_bytes, each.total_bytes)} "
        f"{_size(each.done_bytes)} of {_size(each.total_bytes)}  {each.documents:,} documents"
        for name, each in zip(names, [*(parts[name] for name in shown), all_], strict=True)
    ]
    num_finished = sum(each.done_bytes >= each.total_bytes for each in parts.values())
    new_bytes, new_tokens = all_.done_bytes - work.earlier_bytes, all_.tokens - work.earlier_tokens
    lines[-1] += f"  {num_finished} of {len(parts)} domains"
    if seconds > 0 and new_bytes > 0:
        left = (all_.total_bytes - all_.done_bytes) * seconds / new_bytes
        rate = f"{new_tokens / seconds:,.0f} tokens/s"
        lines[-1] += f"  {_size(int(new_bytes / seconds))}/s  {rate}  {_clock(left)} left"
    return lines


def _bar(done: int, total: int) -> str:
    share = done / total if total else 1.0
    full = int(share * _BAR)
    return f"|{'#' * full}{'.' * (_BAR - full)}| {share:4.0%}"


def _size(num_bytes: int) -> str:
    """Three digits and a unit.

    >>> [_size(n) for n in (999, 1_234_567, 45_600_000_000)]
    ['999 B', '1.23 MB', '45.6 GB']
    """
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _clock(3725), _clock(65)
    ('1:02:05', '1:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
