r"""Events of a run <-> lines of its log.

A log is JSON lines, an event a line, and a line is whole when its "\n" is there. Every event has
"event" (its kind), "time" (Unix seconds), "step" and "row" (batches and global rows delivered, or
where a change is felt). An array (K,) is a list in the order of "domains"; NaN is null.

| kind | and beside these |
| --- | --- |
| start | the first line, once: "format", "versions", "corpus" (fingerprint), "path" of the corpus or null, "domains", "rows" (K,), "seq_len", "shards" {domain: [[shards, rows of each], ...]}, "settings" {what the order depends on, "batch_size", "world_size"}, "weights" (K,) from "row" on, "steerable"; and "counts" (C, K) where row > 0, "sampler" (the whole state) where the corpus had grown by then |
| weights | "row" is the first that feels them and "step" the step that holds it; "decided_step", "weights" (K,), "reason", "source": "code", "schedule" or "person" |
| signal | "name", "values" (K,), and "unit" if given |
| epoch | "domain" begins pass number "epoch" (from 0) over its rows; "row" is where it was noticed |
| progress | the run came as far as this; about one a second |
| checkpoint | a state was taken here: "state" (its id), and "counts" (C, K) where they are few |
| resume | the run goes on from a state: "state", "weights" (K,), "changes" [{"at_row", "weights", "reason"}] that are planned, "counts", "batch_size", "world_size", "steerable", "versions"; and where the corpus is another one than at the start, or has grown, "corpus", "domains", "rows" and "shards" of it, to which all later events refer, and "sampler" (the whole state). What the log holds past it, in rows and in decisions, was rolled back |
| fault | "kind", "object", "detail": something could not be read |
| end | the iteration ended: "reason" |
"""  # noqa: E501 (a table has no line breaks)

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson

from mixstream.arrays import Counts
from mixstream.errors import StateError

__all__ = [
    "FORMAT",
    "Event",
    "decoded_line",
    "encoded_line",
    "layout_of_runs",
    "runs_of_layout",
    "versions",
]

FORMAT = 1
"""Of the log; a reader refuses any other."""

Event: TypeAlias = dict[str, Any]
"""One line of a log."""

_COMMON: dict[str, tuple[type, ...]] = {
    "event": (str,),
    "time": (int, float),
    "step": (int,),
    "row": (int,),
}
_OWN = {
    "start": ("corpus", "domains", "rows", "seq_len", "shards", "settings", "weights"),
    "weights": ("decided_step", "weights", "reason", "source"),
    "signal": ("name", "values"),
    "epoch": ("domain", "epoch"),
    "resume": ("weights", "changes", "batch_size", "world_size"),
    "end": ("reason",),
}
"""What a reader needs of a kind of event, beside what all events have."""
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
_PACKAGES = ("mixstream", "mosaicml-streaming", "numpy", "torch")


def encoded_line(event: Mapping[str, Any]) -> bytes:
    """An event as its line; numpy arrays and numbers become lists and numbers, NaN null."""
    return orjson.dumps(event, option=_OPTIONS)


def decoded_line(line: bytes, path: Path, number: int) -> Event:
    """A whole line as its event.

    Raises:
        StateError: naming the file and the line.
    """
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        mend = "Copy the log again, or cut it before this line."
        if number == 1:
            mend = "Give the file that Loader(run_log=...) wrote, or copy the log again."
        raise StateError(f"{path}, line {number} is no JSON: {error}. {mend}") from error
    for key, kind in _COMMON.items():
        if not isinstance(event, dict) or not isinstance(event.get(key), kind):
            raise StateError(
                f"{path}, line {number} has no {key!r} as every event of a run log has: "
                f"{line[:60]!r}. Give the file that Loader(run_log=...) wrote."
            )
    kind, is_ours = event["event"], event.get("format", FORMAT) == FORMAT
    for own in _OWN.get(kind, ()) if is_ours else ():
        if own not in event:
            raise StateError(
                f"{path}, line {number} has no {own!r} as every {kind} event has; copy the log "
                f"again, or cut it before this line."
            )
    return dict(event)


def runs_of_layout(layout: Mapping[str, Counts]) -> dict[str, list[list[int]]]:
    """Rows of the shards, run-length: [7, 7, 7, 2] becomes [[3, 7], [1, 2]]."""
    runs = {}
    for name, shard_rows in layout.items():
        rows = np.asarray(shard_rows, dtype=np.int64)
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        lengths = np.diff(np.append(first, rows.size))
        runs[name] = np.stack([lengths, rows[first]], axis=1).tolist()
    return runs


def layout_of_runs(runs: Mapping[str, list[list[int]]], domains: list[str]) -> dict[str, Counts]:
    """The rows of the shards again, an int64 array a domain, in the order of the domains."""
    layout = {}
    for name in domains:
        lengths, rows = np.array(runs[name], dtype=np.int64).reshape(-1, 2).T
        layout[name] = np.repeat(rows, lengths)
    return layout


def versions() -> dict[str, str]:
    """The versions of what a run depends on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
