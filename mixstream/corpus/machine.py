"""What this process may use of the machine: cores, and memory within its container's limits."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_bytes", "num_cores", "processes_and_threads"]

_CGROUP = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self/cgroup")


def num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processes_and_threads(workers: int, num_tasks: int) -> tuple[int, int]:
    """How many processes run tasks whose tokenizer takes threads, and how many threads each.

    A process costs 0.5 s of a core before it encodes anything, so each gets two cores or more. One
    of them is left to reading and packing, which take about half as long as a fast tokenizer does:
    a second thread of it would learn all words once more and finish no sooner
    (benchmarks/convert.py).

    Args:
        workers: processes that were asked for, >= 1.
        num_tasks: >= 1.
    """
    cores = num_cores()
    processes = max(1, min(workers, num_tasks, cores // 2))
    return processes, max(1, cores // processes - 1)


def memory_bytes(cgroup: Path = _CGROUP, process: Path = _PROCESS) -> int:
    """Memory of the machine, or the least limit of the control groups that this process is in.

    Args:
        cgroup: where control groups are mounted.
        process: the file that names this process's groups.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(cgroup, process)])


def _limits(cgroup: Path, process: Path) -> list[int]:
    """Of version 2 (memory.max) and 1 (memory.limit_in_bytes), of the group and those above it."""
    try:
        lines = process.read_text().splitlines()
    except OSError:  # no Linux
        return []
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        root = cgroup if not controllers else cgroup / controllers
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                found += _number(place / name)
            if place == root:
                break
    return found


def _number(path: Path) -> list[int]:
    try:
        text = path.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []  # "max" is none
