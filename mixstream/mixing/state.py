"""A place in a run <-> JSON-able data, which fits one layout and one set of settings alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict

import numpy as np

from mixstream.arrays import Counts
from mixstream.errors import StateError
from mixstream.mixing.changes import PlannedChange, WeightLog
from mixstream.mixing.settings import OrderSettings

__all__ = [
    "STATE_VERSION",
    "Mark",
    "SamplerState",
    "check_keys",
    "checked_place",
    "checked_settings",
]

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
    check_keys(state, SamplerState.__annotations__, "sampler's")
    if state["version"] != STATE_VERSION:
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


def check_keys(state: object, keys: Collection[str], whose: str) -> None:
    """Refuses what is no state at all.

    Raises:
        StateError: naming the first key that is missing.
    """
    found = list(state) if isinstance(state, Mapping) else []
    for key in keys:
        if key not in found:
            raise StateError(
                f"no {key!r} in the {whose} state, which is {type(state).__name__} of "
                f"{', '.join(map(repr, found)) or 'nothing'}; give what state_dict returned."
            )


def checked_place(
    state: SamplerState, domains: Sequence[str], shape: tuple[int, ...]
) -> tuple[int, Counts, WeightLog]:
    """The row, the (C, K) counts and the weights of a state, whose settings fit.

    Raises:
        StateError: they are not of one place in a run; the value is named.
    """
    row = state["row"]
    try:
        counts = np.array(state["counts"], dtype=np.int64)
        weights = np.array([state["weights"][name] for name in domains], dtype=np.float64)
        log = WeightLog.of_state(row, weights, state["changes"])
        vectors = [weights, *(change.weights for change in log.planned(row))]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"the state's counts, weights or changes are not what state_dict returned: {error!r}."
        ) from error
    if counts.shape != shape or counts.min(initial=0) < 0 or counts.sum() != row:
        raise StateError(
            f"the state's counts, of shape {counts.shape}, add up to {counts.sum()}, but its row "
            f"is {row!r} and this run counts by {shape}; the state is damaged."
        )
    for vector in vectors:
        is_point = vector.shape == (len(domains),) and (vector >= 0).all()
        if not is_point or abs(math.fsum(vector.tolist()) - 1) > 1e-9:
            raise StateError(
                f"the state holds weights {vector.tolist()[:10]}, which are not {len(domains)} "
                f"numbers of at least 0 that add up to 1; the state is damaged."
            )
    return row, counts, log
