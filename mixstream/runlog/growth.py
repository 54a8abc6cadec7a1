"""Events of a run whose corpus grew or lost domains -> the same over all domains it ever had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mixstream.runlog.events import Event

__all__ = ["corpus_of", "over_all_domains"]

_CORPUS = ("corpus", "domains", "rows", "shards")


def over_all_domains(events: Sequence[Event]) -> list[Event]:
    """The events of a log, their vectors in the order of all domains that the run has had.

    These are the domains of the start, then those that came later. A domain has weight 0, count 0
    and no signal while it is not there. The start tells the rows and shards that each domain had
    at last, and keeps what it told itself as "first_corpus"; `corpus_of` finds it. Wherever an
    event tells weights, "among" tells the domains of which rows are drawn by them.

    Args:
        events: in the order of the log, the start first; vectors in the order of the corpus that
            the last start or resume before them names.
    """
    changes = [event for event in events if event["event"] == "resume" and "domains" in event]
    start, last = events[0], {}
    if not changes and "sampler" not in start:
        return list(events)
    for event in (start, *changes):
        for name, rows in zip(event["domains"], event["rows"], strict=True):
            last[name] = (rows, event["shards"][name])
    domains = list(last)
    whole = {
        "domains": domains,
        "rows": [rows for rows, _ in last.values()],
        "shards": {name: shards for name, (_, shards) in last.items()},
        "first_corpus": {key: start[key] for key in _CORPUS},
    }
    found, here = [], start["domains"]
    planned = {change["at_row"]: change for change in start.get("sampler", {}).get("changes", ())}
    for event in events:
        if event["event"] in ("start", "resume"):
            here = event.get("domains", start["domains"])
        found.append(_spread(event, here, domains) | _among(event, here, planned))
    found[0] = found[0] | whole
    return found


def corpus_of(start: Event, event: Event) -> Event:
    """The corpus, domains, rows and shards from a start or resume event on."""
    if event["event"] == "resume" and "domains" in event:
        return event
    first: Event = start.get("first_corpus", start)
    return first


def _among(event: Event, here: Sequence[str], planned: dict[int, Event]) -> Event:
    """Which domains rows are drawn of by the weights of an event: by default all that are there.

    Args:
        event: of the log.
        here: the domains of the corpus.
        planned: changes of the state that the log starts with, by row. The log tells them again
            right after its start; when it has, they are removed.
    """
    if event["event"] == "weights":
        return {"among": planned.pop(event["row"], {}).get("among") or list(here)}
    if event["event"] != "start":
        planned.clear()
    if event["event"] not in ("start", "resume"):
        return {}
    return {"among": event.get("sampler", {}).get("among") or list(here)}


def _spread(event: Event, here: Sequence[str], domains: Sequence[str]) -> Event:
    place = {name: index for index, name in enumerate(here)}
    source = [place.get(name) for name in domains]

    def spread(values: Sequence[Any], missing: object) -> list[Any]:
        return [missing if index is None else values[index] for index in source]

    def changed(change: Event) -> Event:
        among = change.get("among") or list(here)
        return {**change, "weights": spread(change["weights"], 0.0), "among": among}

    ways: dict[str, Callable[[Any], Any]] = {
        "weights": lambda weights: spread(weights, 0.0),
        "values": lambda values: spread(values, None),
        "counts": lambda counts: counts and [spread(row, 0) for row in counts],
        "changes": lambda changes: [changed(change) for change in changes],
    }
    return event | {key: way(event[key]) for key, way in ways.items() if key in event}
