"""Events -> the log of a run, appended line by line; one process writes, any number read."""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixstream.corpus.jsonfile import brief
from mixstream.errors import StateError
from mixstream.runlog.events import (
    FORMAT,
    Event,
    decoded_line,
    encoded_line,
    layout_of_runs,
)

__all__ = ["RunLog"]

_SAME_RUN = ("corpus", "seq_len", "domains", "rows", "shards")
_NO_ORDER = ("batch_size", "world_size")
_DECIDING = ("start", "weights", "resume", "checkpoint")
_FIRST_BYTES = b'{"event":"start"'

_open_logs: weakref.WeakValueDictionary[Path, RunLog] = weakref.WeakValueDictionary()


def _mark_copies() -> None:
    for log in _open_logs.values():
        log.is_copy = True


os.register_at_fork(after_in_child=_mark_copies)  # os.getpid at each event would be a system call


class RunLog:
    r"""Appends events to the log of one run.

    Each event is one write of one line, so a kill tears the last line at most, and the next process
    cuts that off before it appends. What decides the order of rows is on the disk before the
    checkpoint that knows of it returns. A lock file beside the log keeps a second process out; in
    one process the log opened last takes the file over.

    Args:
        path: the log; folders above it are made.
        start: what a start event says of this run: see `events`. An existing log must be of the
            same run.

    Raises:
        StateError: the file is the log of another run (the difference is named), is no run log, or
            another process is writing it.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], start: Mapping[str, Any]) -> None:
        self.path = Path(path).absolute()
        self._start = dict(start)
        self._first: Event | None = None
        self.is_copy = False
        """Whether this is a forked worker's copy, which writes nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path in _open_logs and self.path.exists():  # or that one goes on as it is
            self._check_first()
        earlier = _open_logs.pop(self.path, None)
        if earlier is not None:
            earlier.close()
        self._lock = _locked(self.path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o666)
        self._is_synced = True
        _open_logs[self.path] = self
        whole_bytes = self._check_first()
        os.ftruncate(self._file, whole_bytes)
        self._num_bytes = whole_bytes

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    @property
    def is_new(self) -> bool:
        """Whether the log has no start event yet."""
        return self._first is None

    @property
    def corpus(self) -> str:
        """The fingerprint of the corpus of the run's start."""
        assert self._first is not None, "only a log with a start has a corpus"
        return str(self._first["corpus"])

    @property
    def is_closed(self) -> bool:
        """Whether the log was closed, or taken over by another one of this process."""
        return self._file < 0

    def check_same_run(
        self,
        start: Mapping[str, Any] | None = None,
        *,
        ignored: tuple[str, ...] = (),
        may_have_grown: bool = False,
    ) -> None:
        """Refuses the start of another run than the log's.

        Args:
            start: what the run says of itself now; what it said at first if not given.
            ignored: settings that may differ.
            may_have_grown: take a corpus that may be the log's with more or fewer domains, or more
                shards behind those of a domain; whether it is, the state of the run tells.

        Raises:
            StateError: the log is of another run; the first difference is named.
        """
        assert self._first is not None, "only a log with a start can be of another run"
        ours = dict(start or self._start)
        grown = may_have_grown and _may_be_grown(self._first, ours)
        ignored += ("max_epochs",) if grown else ()
        for key in ("seq_len",) if grown else _SAME_RUN:
            self._check(key, self._first.get(key), ours[key])
        theirs = self._first["settings"]
        for key, value in ours["settings"].items():
            if key not in (*_NO_ORDER, *ignored):
                self._check(key, theirs.get(key), value)

    def append(self, kind: str, /, *, step: int, row: int, **values: Any) -> None:
        """Writes one event; a start only as the first line.

        Raises:
            StateError: the log was closed, or taken over by another one of this process.
            OSError: the line cannot be written, on a full disk say; none of it is left then.
        """
        if self.is_copy:
            return
        if self.is_closed:
            raise StateError(
                f"the run log {self.path} is closed, or a later Loader of this process writes it; "
                f"go on with that one."
            )
        assert (kind == "start") == self.is_new, "one start, and first"
        event = {"event": kind, "time": time.time(), "step": step, "row": row, **values}
        if kind == "start":
            event["format"] = FORMAT
        line = encoded_line(event)
        self._write(line)
        if kind == "start":
            self._first = decoded_line(line, self.path, 1)
        if kind in _DECIDING:
            self._is_synced = False

    def sync(self) -> None:
        """Returns when what decides the order, and where it was saved, is on the disk."""
        if not self._is_synced and self._file >= 0:
            os.fsync(self._file)
            self._is_synced = True

    def close(self) -> None:
        """Gives the file and its lock back."""
        for name in ("_file", "_lock"):
            file = getattr(self, name, -1)
            if file >= 0:
                os.close(file)
            setattr(self, name, -1)

    def _check_first(self) -> int:
        """Reads the start event, if there is one, and checks it; the bytes of the whole lines."""
        self._first, whole_bytes = _first_event(self.path)
        if self._first is not None:
            # a state to come may bring another stratum, or have been saved before the corpus grew
            self.check_same_run(ignored=("stratum",), may_have_grown=True)
        return whole_bytes

    def _write(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, self._num_bytes)
            raise
        self._num_bytes += written

    def _check(self, key: str, theirs: object, ours: object) -> None:
        if theirs != ours:
            raise StateError(
                f"the run log {self.path} is of a run with {key} {brief(theirs, 200)}, this one "
                f"has {key} {brief(ours, 200)}; give run_log another path, or the same {key} to go "
                f"on."
            )


def _may_be_grown(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two corpora differ, but by whole domains and by shards behind others alone."""
    layouts = [layout_of_runs(start["shards"], start["domains"]) for start in (one, other)]
    common = set(layouts[0]) & set(layouts[1])
    first = {name: min(len(layout[name]) for layout in layouts) for name in common}
    same = all(
        np.array_equal(layouts[0][name][:number], layouts[1][name][:number])
        for name, number in first.items()
    )
    return bool(common) and same and one["shards"] != other["shards"]


def _locked(path: Path) -> int:
    """The open lock file; a lock of this kind ends with its process and is not forked."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    lock = os.open(path.with_name(path.name + ".lock"), flags, 0o666)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StateError(
            f"another process writes the run log {path}; wait for it to end, or give run_log "
            f"another path."
        ) from error
    return lock


def _first_event(path: Path) -> tuple[Event | None, int]:
    """The start event of an existing log, if there is one, and the bytes of its whole lines."""
    with path.open("rb") as file:
        first = file.readline()
        if not first.endswith(b"\n"):  # nothing yet, or a start that a kill has torn
            is_ours = first.startswith(_FIRST_BYTES) or _FIRST_BYTES.startswith(first)
            if not is_ours:
                raise StateError(_NO_LOG.format(path=path, line=first[:60]))
            return None, 0
        event = decoded_line(first, path, 1)
        if event["event"] != "start" or event.get("format") != FORMAT:
            raise StateError(_NO_LOG.format(path=path, line=first[:60]))
        return event, _whole_bytes(file)


_NO_LOG = (
    "{path} exists and is no run log of this version, it starts with {line!r}; give run_log "
    "another path."
)


def _whole_bytes(file: BinaryIO) -> int:
    """Bytes up to the end of the last whole line, which is not far from the end."""
    end = file.seek(0, os.SEEK_END)
    num_bytes = 1 << 16
    while True:
        start = max(end - num_bytes, 0)
        file.seek(start)
        last = file.read(end - start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        num_bytes *= 16
