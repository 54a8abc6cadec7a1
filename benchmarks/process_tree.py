"""A command -> processor time, wall time and peak memory of it and all processes below it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_END = 10.0  # for what outlives the command: resource trackers, fork servers


@dataclass(frozen=True)
class Taken:
    """What a command took, all its processes included."""

    cpu: float
    """Seconds, user and system."""
    wall: float
    """Seconds until the command itself ended."""
    peak_bytes: int
    """Of all processes together, shared memory counted once."""


def run_tree(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, limit_seconds: float = 3600.0
) -> Taken:
    """Runs a command to its end; call it where no other child process runs.

    A process whose parent ends first becomes ours (Linux), so that its time counts as well.

    Raises:
        RuntimeError: the command ended with an error, whose last line is told, or takes too long
            ("ended with None").
    """
    adopt_orphans()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=env, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            taken = _followed(process, start, limit_seconds)
        finally:  # resource trackers and fork servers that did not end; all of it, on Ctrl-C
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode != 0:
            said.seek(0)
            last = [line for line in said.read().splitlines() if line.strip()][-1:]
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {''.join(last)}")
    return taken


def _followed(process: subprocess.Popen[str], start: float, limit_seconds: float) -> Taken:
    """Waits for a process, and some seconds for what outlives it."""
    cpu, wall, peak, end = 0.0, 0.0, 0, start + limit_seconds
    while time.perf_counter() < end and (found := _ended_child()) is not None:
        pid, status, seconds = found
        cpu += seconds
        if pid == process.pid:
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            end = time.perf_counter() + SECONDS_TO_END
        elif not pid:
            peak = max(peak, tree_bytes(process.pid) if not wall else 0)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return Taken(cpu, wall, peak)


def _ended_child() -> tuple[int, int, float] | None:
    """Number, status and seconds of a child that has ended; (0, 0, 0): none has; None: no child."""
    try:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return pid, status, usage.ru_utime + usage.ru_stime if pid else 0.0


def adopt_orphans() -> None:
    """Makes this process the parent of descendants that lose theirs, where the system can."""
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def tree_bytes(pid: int) -> int:
    """Memory of a process and of those below it; what ends meanwhile counts nothing."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(tree_bytes(int(child)) for child in children)
