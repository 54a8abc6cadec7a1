"""The record of a run: JSON lines as it goes, the run read back, and any of its rows again."""

from mixstream.runlog.events import FORMAT, Event
from mixstream.runlog.replay import Sightings, drawn_counts, replay, seen_at
from mixstream.runlog.requests import Request, RequestFolder, read_answer, request_weights
from mixstream.runlog.run import Run, RunShape, WeightsFrom, read_run
from mixstream.runlog.writer import RunLog

__all__ = [
    "FORMAT",
    "Event",
    "Request",
    "RequestFolder",
    "Run",
    "RunLog",
    "RunShape",
    "Sightings",
    "WeightsFrom",
    "drawn_counts",
    "read_answer",
    "read_run",
    "replay",
    "request_weights",
    "seen_at",
]
