"""A place in a run <-> JSON-able data, which fits one layout and one set of settings alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict

from mixstream.arrays import Counts
from mixstream.errors import StateError
from mixstream.mixing.changes import PlannedChange
from mixstream.mixing.settings import OrderSettings

__all__ = ["STATE_VERSION", "Mark", "SamplerState", "checked_settings"]

STATE_VERSION = 1


class Mark(NamedTuple):
    """A place in the run that a sampler can go back to."""

    row: int
    """The next row of the run."""
    counts: Counts
    """(C, K) int64, how often each node has drawn each domain."""


class SamplerState(TypedDict):
    """A place in the run, as JSON holds it."""

    version: int
    settings: dict[str, Any]
    layout: str
    row: int
    weights: dict[str, float]
    counts: list[list[int]]
    changes: list[PlannedChange]


def checked_settings(
    state: SamplerState,
    settings: OrderSettings,
    *,
    layout: str,
    domains: Sequence[str],
    adopt_stratum: bool,
) -> OrderSettings:
    """The settings under which a state goes on: this run's, with the state's stratum if asked.

    Raises:
        StateError: the state is of another version, layout or setting; both values are named.
    """
    if state.get("version") != STATE_VERSION:
        raise StateError(
            f"the state has version {state.get('version')!r}, this mixstream reads version "
            f"{STATE_VERSION}; load it with the mixstream that saved it."
        )
    if state["layout"] != layout:
        raise StateError(
            f"the state was saved on a corpus of layout {state['layout']} with domains "
            f"{', '.join(list(state['weights'])[:10])}; this one has layout {layout} with domains "
            f"{', '.join(domains[:10])}."
        )
    if adopt_stratum and settings.stratum is not None:
        settings = replace(settings, stratum=state["settings"]["stratum"] or settings.stratum)
    settings.check_state(state["settings"])
    return settings
