"""A place in a run <-> JSON-able data, which fits one run alone, whose layout may have grown."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np

from mixstream.arrays import Counts
from mixstream.errors import StateError
from mixstream.mixing.changes import PlannedChange, WeightLog
from mixstream.mixing.settings import OrderSettings

__all__ = [
    "STATE_VERSION",
    "RetiredDomain",
    "SamplerState",
    "check_keys",
    "checked_place",
    "checked_settings",
]

STATE_VERSION = 2
"""Version 1 does not tell the shards of each domain, so it fits the layout that it was saved on."""


class RetiredDomain(TypedDict):
    """What a run knows of a domain that its corpus has lost, for the case that it returns."""

    counts: list[int]
    shards: list[Any]
    legs: list[list[int]]


class _StateOfOneLayout(TypedDict):
    version: int
    settings: dict[str, Any]
    layout: str
    row: int
    weights: dict[str, float]
    counts: list[list[int]]
    changes: list[PlannedChange]


class SamplerState(_StateOfOneLayout, total=False):
    """A place in the run, as JSON holds it; what may be missing was not in version 1."""

    domains: list[str]
    """In the order of the counts."""
    shards: dict[str, list[Any]]
    """Of each domain: how many shards, and 16 hex digits of their rows."""
    among: list[str] | None
    """See WeightChange, for the weights in force."""
    legs: dict[str, list[list[int]]]
    """See mixstream.mixing.growth."""
    retired: dict[str, RetiredDomain]


def checked_settings(
    state: SamplerState,
    settings: OrderSettings,
    *,
    domains: Sequence[str],
    adopt_stratum: bool,
) -> OrderSettings:
    """The settings under which a state goes on: this run's, with the state's stratum if asked.

    Epoch caps of domains that are in one of the two layouts alone may differ.

    Args:
        state: as it was saved.
        settings: of this run.
        domains: of this run.
        adopt_stratum: take the state's stratum over.

    Raises:
        StateError: the state is of another version or setting; both values are named.
    """
    check_keys(state, ["version"], "sampler's")
    if state["version"] not in (1, STATE_VERSION):
        raise StateError(
            f"the state has version {state['version']!r}, this mixstream reads version 1 and "
            f"version {STATE_VERSION}; load it with the mixstream that saved it."
        )
    wanted = _StateOfOneLayout if state["version"] == 1 else SamplerState
    check_keys(state, wanted.__annotations__, "sampler's")
    if adopt_stratum and settings.stratum is not None:
        settings = replace(settings, stratum=state["settings"]["stratum"] or settings.stratum)
    stated = dict(state["settings"])
    caps, ours = stated.get("max_epochs"), settings.max_epochs
    if isinstance(caps, dict) and ours is not None:
        saved_on = set(state["weights"])
        common = {name: cap for name, cap in ours.items() if name in saved_on}
        if common == {name: cap for name, cap in caps.items() if name in set(domains)}:
            stated["max_epochs"] = ours
    settings.check_state(stated)
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

    Args:
        state: as it was saved.
        domains: of the layout that it was saved on.
        shape: (C, K) of that layout.

    Raises:
        StateError: they are not of one place in a run; the value is named.
    """
    row = state["row"]
    try:
        counts = np.array(state["counts"], dtype=np.int64)
        weights = np.array([state["weights"][name] for name in domains], dtype=np.float64)
        among = state.get("among")
        log = WeightLog.of_state(
            row, weights, state["changes"], None if among is None else tuple(among)
        )
        vectors = [weights, *(change.weights for change in log.planned(row))]
        drawn_of_others = sum(sum(each["counts"]) for each in state.get("retired", {}).values())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"the state's counts, weights or changes are not what state_dict returned: {error!r}."
        ) from error
    num_drawn = counts.sum() + drawn_of_others
    if counts.shape != shape or counts.min(initial=0) < 0 or num_drawn != row:
        raise StateError(
            f"the state's counts, of shape {counts.shape}, add up to {num_drawn}, but its row "
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
