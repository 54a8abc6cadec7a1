"""A person's weights -> a file beside the log of a steerable run, and the run's answer to it.

The folder is the log's name with ".requests" after it. A request is "NNN.json", its answer
"NNN.answer.json"; both appear whole, by rename. Rank 0 takes requests in the order of their names,
writes the answer and removes the request.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixstream.errors import StateError
from mixstream.mixing.weights import WeightsLike, simplex_point
from mixstream.runlog.run import Run, read_run

__all__ = ["Request", "RequestFolder", "read_answer", "request_weights"]

_ANSWER = ".answer.json"


class Request(NamedTuple):
    """What a person asked for."""

    path: Path
    weights: Any
    """As the file holds them, not checked."""
    reason: str


class RequestFolder:
    """The requests beside one log, as the run sees them.

    Args:
        log_path: of the run log.
    """

    def __init__(self, log_path: str | os.PathLike[str]) -> None:
        self.path = requests_path(log_path)
        self.path.mkdir(parents=True, exist_ok=True)

    def pending(self) -> Iterator[Request]:
        """The requests that wait, oldest first; one that cannot be read is answered so."""
        for name in sorted(os.listdir(self.path)):
            if name.startswith(".") or not name.endswith(".json") or name.endswith(_ANSWER):
                continue
            path = self.path / name
            try:
                asked = json.loads(path.read_bytes())
                yield Request(path, asked["weights"], str(asked["reason"]))
            except FileNotFoundError:  # taken back
                continue
            except (ValueError, KeyError, TypeError) as error:
                self.refuse(Request(path, None, ""), StateError(f"{name} is no request: {error!r}"))

    def accept(self, request: Request, *, step: int, row: int) -> None:
        """Answers a request with the first step and row that feel it."""
        self._answer(request, {"accepted": True, "step": step, "row": row})

    def refuse(self, request: Request, error: Exception) -> None:
        """Answers a request with what `set_weights` raised."""
        said = {"accepted": False, "error": type(error).__name__, "message": str(error)}
        self._answer(request, said)

    def _answer(self, request: Request, answer: dict[str, Any]) -> None:
        _write_whole(request.path.with_suffix(_ANSWER), answer)
        request.path.unlink(missing_ok=True)


def requests_path(log_path: str | os.PathLike[str]) -> Path:
    """The folder of the requests to the run of a log."""
    path = Path(log_path)
    return path.with_name(path.name + ".requests")


def request_weights(run: Run | str | os.PathLike[str], weights: WeightsLike, reason: str) -> Path:
    """Asks a running, steerable run for other weights; it takes them at its next step.

    Args:
        run: the run, or the path of its log.
        weights: by name or (K,), as `set_weights` takes them: over the corpus of today.
        reason: why, for the record.

    Returns:
        The request, for `read_answer`. It is gone when it is answered.

    Raises:
        WeightsError: weights that are no point on the simplex; nothing is asked then.
        StateError: the run was not started with steerable=True.
    """
    found = run if isinstance(run, Run) else read_run(run)
    if not found.is_steerable:
        raise StateError(
            f"the run of {found.path} was not started with Loader(..., steerable=True), so it "
            f"takes no requests; start it so, or call set_weights in its code."
        )
    corpus = found.corpora[-1]  # which may have lost domains since the start
    names, num_rows = corpus["domains"], np.array(corpus["rows"], dtype=np.int64)
    point = simplex_point(weights, names, num_rows, source="weights")
    folder = requests_path(found.path)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.time_ns():020d}-{os.getpid()}.json"
    values = dict(zip(names, point.tolist(), strict=True))
    _write_whole(path, {"weights": values, "reason": reason})
    return path


def read_answer(request: Path, *, timeout_seconds: float = 0.0) -> dict[str, Any] | None:
    """The run's answer: {"accepted": True, "step", "row"} or {"accepted": False, "message", ...}.

    Args:
        request: from `request_weights`.
        timeout_seconds: how long to wait for it.

    Returns:
        The answer; None where the run has not looked yet.
    """
    path = request.with_suffix(_ANSWER)
    until = time.monotonic() + timeout_seconds
    while True:
        try:
            answer: dict[str, Any] = json.loads(path.read_bytes())
            return answer
        except FileNotFoundError:
            if time.monotonic() >= until:
                return None
            time.sleep(0.02)


def _write_whole(path: Path, value: dict[str, Any]) -> None:
    """JSON under its name by rename, so that nobody reads half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
    beside.replace(path)
