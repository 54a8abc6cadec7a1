"""Contenders and a task -> measurements, each in a process of its own, in turns: A B A B.

What fails, is not installed or takes too long is kept with its reason and goes on the page.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil
from harness import machine, parser
from install import HOME, PINNED, python_of
from peers import FLOORS, OURS, PEERS, Job

HERE = Path(__file__).parent
_IMPORT_SECONDS, _WRITE_SECONDS = 60.0, 60.0


@dataclass
class Page:
    """Tables of one question, printed as they come and written as JSON at the end."""

    question: str
    tables: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """By `peer: what`, why there is no number."""

    def table(self, title: str, columns: list[str]) -> None:
        """Begins a table."""
        self.tables.append({"title": title, "columns": columns, "rows": []})
        print(f"\n{title}\n  " + " | ".join(columns), flush=True)

    def add(self, *cells: object) -> None:
        """A row of the last table."""
        assert len(cells) == len(self.tables[-1]["columns"]), "a cell a column"
        self.tables[-1]["rows"].append(list(cells))
        print("  " + " | ".join(map(shown, cells)), flush=True)

    def write(self, path: Path, command: str) -> None:
        """All tables, with machine and versions."""
        value = {
            "question": self.question,
            "command": command,
            "machine": machine() | {name: ", ".join(pins) for name, pins in PINNED.items() if pins},
            "tables": self.tables,
            "failures": self.failures,
        }
        path.write_text(json.dumps(value, indent=1) + "\n")


def shown(cell: object) -> str:
    """A number with three digits, or text."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return "" if cell is None else str(cell)


def peer_parser(question: str) -> argparse.ArgumentParser:
    """The arguments of a question that has peers."""
    arguments = parser(question)
    arguments.add_argument("--peers", nargs="*", default=list(PEERS), help="which of them")
    arguments.add_argument("--home", type=Path, default=HOME, help="their environments")
    return arguments


class Contest:
    """Who takes part, over which rows.

    Args:
        page: where failures are kept.
        work: a folder for the rows in all formats.
        names: floors, ours and peers; those that are not installed are named and left out.
        home: the peers' environments.
        limit_seconds: of one measurement; a format has a minute to be written.
    """

    def __init__(
        self, page: Page, work: Path, names: Iterable[str], home: Path, limit_seconds: float = 180.0
    ) -> None:
        self.page, self.work, self.home, self.limit_seconds = page, work, home, limit_seconds
        self.point = ""  # what is asked now, for those who fail at it
        self._unwritten: set[Path] = set()  # a killed writer leaves a part
        self._imported: dict[str, subprocess.Popen[str]] = {}
        self._files, self._numbers = tempfile.TemporaryDirectory(), count()
        self.names = []
        for name in names:
            if python_of(name, home) is None:
                self.failed(
                    name, "all", f"not installed ({', '.join(PINNED[name])}); see --install"
                )
            else:
                self.names.append(name)

    def job(self, name: str, source: Path, **settings: Any) -> Job:
        """A job of one contender; its own folder is under that of the rows."""
        folder = source.parent / name
        return Job(source=source, folder=folder, **settings)

    def write(self, source: Path, **settings: Any) -> list[str]:
        """The rows in every format, two at a time, for nothing is measured yet; who could."""

        def is_written(name: str) -> bool:
            job = self.job(name, source, num_steps=1, **settings)
            if not job.folder.exists() and (
                self.run(name, "write", job, limit_seconds=_WRITE_SECONDS) is None
            ):
                self._unwritten.add(job.folder)
            return job.folder not in self._unwritten

        with ThreadPoolExecutor(2) as pool:
            written = list(pool.map(is_written, self.names))
        os.sync()  # or it goes on while others are measured
        return [name for name, is_able in zip(self.names, written, strict=True) if is_able]

    def run(
        self,
        name: str,
        task: str,
        job: Job,
        *,
        afresh: bool = False,
        limit_seconds: float | None = None,
        **arguments: Any,
    ) -> dict[str, Any] | None:
        """One measurement; None if it failed, which is kept.

        Args:
            name: of the contender.
            task: of measure.py.
            job: what it does.
            afresh: in a process that imports the peer itself, which takes seconds; one that is
                forked has memory of which it cannot tell whose it is.
            limit_seconds: in place of the contest's own.
            arguments: of the task.
        """
        found = self.run_ranks(
            name, task, [job], [arguments], afresh=afresh, limit_seconds=limit_seconds
        )
        return found[0] if found else None

    def run_ranks(
        self,
        name: str,
        task: str,
        jobs: list[Job],
        arguments: list[dict[str, Any]],
        *,
        afresh: bool = False,
        limit_seconds: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """One measurement in as many processes as ranks, at the same time."""
        what = f"{task}, {jobs[0].num_workers} workers, {len(jobs)} ranks"
        port, measurements = _free_port(), []
        limit = self.limit_seconds if limit_seconds is None else limit_seconds
        for job, each in zip(jobs, arguments, strict=True):
            file = Path(self._files.name) / str(next(self._numbers))
            measurements.append(
                {
                    "task": task,
                    "job": {key: getattr(job, key) for key in job.__dataclass_fields__},
                    "arguments": each,
                    "environment": _of_rank(job, port),
                    "found": file.with_suffix(".json"),
                    "said": file.with_suffix(".txt"),
                }
            )
        codes = self._codes(name, measurements, limit, afresh=afresh)
        for code, each in zip(codes, measurements, strict=True):
            if code:
                said = [line for line in _text(each["said"]).splitlines() if line.strip()]
                said = said or _text(self._imports(name)).splitlines() or ["died"]
                self.failed(name, what, said[-1].strip()[:200])
                return None
        if None in codes:  # perhaps for the one that failed
            self.failed(name, what, f"longer than {limit:.0f} s")
            return None
        return [json.loads(each["found"].read_text()) for each in measurements]

    def _codes(
        self, name: str, measurements: list[dict[str, Any]], limit_seconds: float, *, afresh: bool
    ) -> list[int | None]:
        """The exit status of each measurement's process; None of one that took too long."""
        asked = {"measurements": measurements, "limit_seconds": limit_seconds}
        line = json.dumps(asked, default=str) + "\n"
        if afresh:
            process = self._begin(name, "--once")
            try:
                process.communicate(line, timeout=_IMPORT_SECONDS + limit_seconds)
            except subprocess.TimeoutExpired:
                return [None]
            finally:
                _end(process)
            return [process.returncode]
        if name not in self._imported:
            self._imported[name] = self._begin(name)
        process = self._imported[name]
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        with suppress(BrokenPipeError):  # it could not import: so it says
            process.stdin.write(line)
            process.stdin.flush()
        most = _IMPORT_SECONDS + limit_seconds
        is_answered = wait([process.stdout], most)  # select takes no descriptor above 1,023
        answer = process.stdout.readline() if is_answered else ""
        if not answer:
            _end(self._imported.pop(name))
            return [1 if is_answered else None] * len(measurements)
        found: list[int | None] = json.loads(answer)
        return found

    def _begin(self, name: str, *options: str) -> subprocess.Popen[str]:
        """A peer's own Python, which measures what it reads."""
        python = python_of(name, self.home)
        assert python is not None, "left out in __init__"
        command = [python, "-W", "ignore", str(HERE / "measure.py"), name, *options]
        with self._imports(name).open("w") as said:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=_environment(),
                start_new_session=True,
            )

    def _imports(self, name: str) -> Path:
        """What a peer says while it is imported."""
        return Path(self._files.name) / f"{name}.txt"

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._imported.values():
            _end(process)
        self._files.cleanup()

    def failed(self, name: str, what: str, reason: str) -> None:
        """Keeps a reason, and says it."""
        at = f"{name}: {what}" + (f", {self.point}" if self.point else "")
        self.page.failures[at] = reason
        print(f"  {at}: {reason}", flush=True)

    def in_turns(
        self,
        jobs: Mapping[str, Job],
        task: str,
        *,
        rounds: int,
        once_seconds: float,
        often: Sequence[str] = (),
        **arguments: Any,
    ) -> dict[str, list[dict[str, Any]]]:
        """Rounds of all, back and forth; who fails, or takes long, is not asked again.

        Args:
            jobs: of each contender.
            task: of measure.py.
            rounds: how many.
            once_seconds: who takes longer for one measurement has no second one.
            often: those that others are compared with: they come in the middle of a round, too.
            arguments: of the task.
        """
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
        left = list(jobs)
        for _ in range(rounds):
            middle = len(left) // 2
            for name in [*left[:middle], *often, *left[middle:]]:
                if name not in left:
                    continue
                start = time.monotonic()
                result = self.run(name, task, jobs[name], **arguments)
                if result is not None:
                    found[name].append(result)
                if result is None or time.monotonic() - start > once_seconds:
                    left.remove(name)
            left.reverse()
        return {name: runs for name, runs in found.items() if runs}


def median(runs: list[dict[str, Any]], key: str) -> float:
    """Of one number over the rounds."""
    return statistics.median(run[key] for run in runs)


def spread(values: list[float]) -> float:
    """Most over least, 1 on a quiet machine."""
    return max(values) / min(values)


def _environment() -> dict[str, str]:
    """One thread for numerical libraries, and no network."""
    one = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    quiet = {"PYTHONPATH": str(HERE), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return dict(os.environ) | one | quiet


def _of_rank(job: Job, port: int) -> dict[str, str]:
    """What torchrun would set, for more than one rank."""
    ranks = {"RANK": job.rank, "LOCAL_RANK": job.rank, "GLOBAL_RANK": job.rank}
    ranks |= {"WORLD_SIZE": job.world_size, "LOCAL_WORLD_SIZE": job.world_size}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    several = {key: str(value) for key, value in ranks.items()} | address
    return several if job.world_size > 1 else {}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a measurement's whole session, itself and its workers, and sessions forked from it."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


OURS_AND_FLOORS = (*FLOORS, OURS)
