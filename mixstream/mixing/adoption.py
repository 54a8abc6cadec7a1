"""A state, and the layout of today -> the same place in the run, as far as one follows the other.

A layout follows another one if each domain that both have begins with the other's shards, and the
domains stand in the same order. Then every row that was drawn is still the row that it was.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from mixstream.arrays import Counts
from mixstream.errors import StateError
from mixstream.mixing.changes import WeightLog
from mixstream.mixing.growth import Leg, grown_legs
from mixstream.mixing.settings import OrderSettings
from mixstream.mixing.state import (
    RetiredDomain,
    SamplerState,
    checked_place,
    checked_settings,
)
from mixstream.mixing.weights import WeightChange

__all__ = ["LayoutOfToday", "OnRetired", "Place", "has_grown", "shard_lists"]

OnRetired: TypeAlias = Literal["raise", "redistribute"]


class Place(NamedTuple):
    """A place in a run, for a sampler to go on from."""

    settings: OrderSettings
    row: int
    counts: Counts
    """(C, K) int64."""
    log: WeightLog
    legs: dict[str, tuple[Leg, ...]]
    retired: dict[str, RetiredDomain]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutOfToday:
    """The layout of a sampler that is to take a state."""

    layout: Mapping[str, Counts]
    """Rows of each shard, an int64 array a domain."""
    digest: str
    """Of `checked_layout`."""
    settings: OrderSettings

    def place(self, state: SamplerState, *, adopt_stratum: bool, on_retired: OnRetired) -> Place:
        """The place of a state in the run over this layout.

        Raises:
            StateError: the state is damaged, or of a version, layout or setting that this one does
                not follow; both values are named.
        """
        if on_retired not in ("raise", "redistribute"):
            raise ValueError(f"on_retired is {on_retired!r}; choose 'raise' or 'redistribute'.")
        settings = checked_settings(
            state, self.settings, domains=list(self.layout), adopt_stratum=adopt_stratum
        )
        names = list(state.get("domains", self.layout))
        if state["version"] == 1 and state["layout"] != self.digest:
            raise self._misfit(state, "a state of version 1 does not tell which shards it knew.")
        legs, retired = _checked_growth(state, settings.num_canonical_nodes)
        if state["layout"] != self.digest:
            self._check_follows(state, names)
        row, counts, log = checked_place(state, names, (settings.num_canonical_nodes, len(names)))
        if state["layout"] != self.digest:
            return self._followed(
                state, names, Place(settings, row, counts, log, legs, retired), on_retired
            )
        return Place(settings, row, counts, log, legs, retired)

    def _check_follows(self, state: SamplerState, names: Sequence[str]) -> None:
        """Refuses a state that this layout does not follow, by the first difference."""
        kept = [name for name in names if name in self.layout]
        if not kept:
            raise self._misfit(state, "they have no domain in common.")
        known = {name: state["shards"][name] for name in kept}
        known |= {n: d["shards"] for n, d in state["retired"].items() if n in self.layout}
        for name, (number, digest) in known.items():
            rows = self.layout[name]
            if number > len(rows):
                raise self._misfit(
                    state,
                    f"domain {name!r} had {number} shards and has {len(rows)} here, so this corpus "
                    f"is an older one than the run's; open the one that the run has seen.",
                )
            if (found := _shard_list(rows[:number])[1]) != digest:
                raise self._misfit(
                    state,
                    f"the first {number} shards of domain {name!r} are others: their rows have "
                    f"digest {found}, those of the run {digest}; open the corpus of the run.",
                )
        here = [name for name in self.layout if name in set(kept)]
        if here != kept:
            raise self._misfit(
                state,
                f"they stood in the order {', '.join(kept[:10])} and stand in the order "
                f"{', '.join(here[:10])} here; open them in the order of the run.",
            )

    def _misfit(self, state: SamplerState, why: str) -> StateError:
        names = state.get("domains", list(state["weights"]))
        return StateError(
            f"the state was saved on a corpus of layout {state['layout']} with domains "
            f"{', '.join(names[:10])}; this one has layout {self.digest} with "
            f"domains {', '.join(list(self.layout)[:10])}: {why}"
        )

    def _followed(
        self, state: SamplerState, names: Sequence[str], place: Place, on_retired: OnRetired
    ) -> Place:
        """A place in a run over an earlier layout, as one over this layout."""
        gone = [index for index, name in enumerate(names) if name not in self.layout]
        retired = place.retired | {
            names[index]: RetiredDomain(
                counts=place.counts[:, index].tolist(),
                shards=state["shards"][names[index]],
                legs=[list(leg) for leg in place.legs.get(names[index], ())],
            )
            for index in gone
        }
        legs = {name: each for name, each in place.legs.items() if name in self.layout}
        counts = np.zeros((len(place.counts), len(self.layout)), dtype=np.int64)
        known = {name: state["shards"][name][0] for name in names if name in self.layout}
        column = {name: index for index, name in enumerate(names)}
        for index, name in enumerate(self.layout):
            if name in known:
                counts[:, index] = place.counts[:, column[name]]
            elif name in retired:  # and back again
                back = retired.pop(name)
                known[name], counts[:, index] = back["shards"][0], back["counts"]
                legs |= {name: _legs(back["legs"])} if back["legs"] else {}
        grown = {
            name: len(self.layout[name])
            for name, number in known.items()
            if self.layout[name][number:].any()
        }
        before = {name: rows[: known.get(name)] for name, rows in self.layout.items()}
        return place._replace(
            counts=counts,
            log=place.log.mapped(lambda change: self._drawn_here(change, state, on_retired)),
            legs=grown_legs(before, legs, counts, grown, place.settings),
            retired=retired,
        )

    def _drawn_here(
        self, change: WeightChange, state: SamplerState, on_retired: OnRetired
    ) -> WeightChange:
        """A change of weights of an earlier layout as one of this layout: 0 for new domains.

        Its rows go on being drawn among the domains of that time, so that nothing moves before the
        weights are set anew, unless a domain of positive weight is gone.
        """
        names = state["domains"]
        by_name = dict(zip(names, change.weights.tolist(), strict=True))
        weights = np.array([by_name.get(name, 0.0) for name in self.layout])
        lost = [name for name in names if name not in self.layout and by_name[name] > 0]
        if not lost:
            return replace(change, weights=weights, among=change.among or tuple(names))
        if on_retired == "raise":
            new = [name for name in self.layout if name not in by_name]
            raise self._misfit(
                state,
                f"domain {lost[0]!r}, of weight {by_name[lost[0]]:.6g} from row {change.at_row} "
                f"on, is gone (new: {', '.join(new[:10]) or 'none'}). If it was renamed, name it "
                f"as before; if it is retired, load the state with on_retired='redistribute', "
                f"which gives its weight to the others.",
            )
        if not weights.any():
            raise self._misfit(
                state,
                f"no domain of positive weight is left from row {change.at_row} on, where "
                f"{', '.join(lost[:10])} had all of it; keep one of them, or begin a new run.",
            )
        return replace(change, weights=weights / math.fsum(weights.tolist()), among=None)


def has_grown(state: SamplerState) -> bool:
    """Whether a place needs more than layout, settings, weights and counts to go on from."""
    among = [state.get("among"), *(change.get("among") for change in state["changes"])]
    return any(among) or bool(state.get("legs")) or bool(state.get("retired"))


def shard_lists(layout: Mapping[str, Counts]) -> dict[str, list[Any]]:
    """Of each domain how many shards it has, and 16 hex digits of their rows."""
    return {name: _shard_list(rows) for name, rows in layout.items()}


def _shard_list(rows: Counts) -> list[Any]:
    digest = hashlib.blake2b(np.asarray(rows).astype("<i8").tobytes(), digest_size=8)
    return [len(rows), digest.hexdigest()]


def _checked_growth(
    state: SamplerState, num_nodes: int
) -> tuple[dict[str, tuple[Leg, ...]], dict[str, RetiredDomain]]:
    """The legs and the retired domains of a state.

    Raises:
        StateError: they are not what state_dict returned, nor are the shards.
    """
    retired = dict(state.get("retired") or {})
    legs: dict[str, tuple[Leg, ...]] = {}
    try:
        known = set(state.get("domains", ()))  # a state of version 1 has none
        for name, (number, _) in state.get("shards", {}).items():
            legs[name] = _legs(state["legs"].get(name, ()))
            ends = [leg.end_shard for leg in legs[name]]
            is_whole = ends == sorted(ends) and all(0 < end <= number for end in ends)
            if not is_whole or name not in known:
                message = f"legs {legs[name]} of domain {name!r} with {number} shards"
                raise ValueError(message)
        for name, domain in retired.items():
            number, _ = domain["shards"]
            if len(domain["counts"]) != num_nodes or min(domain["counts"]) < 0 or number < 0:
                message = f"retired domain {name!r} with counts {domain['counts']}"
                raise ValueError(message)
            _legs(domain["legs"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"the state's shards, legs or retired domains are not what state_dict returned: "
            f"{error!r}; the state is damaged."
        ) from error
    return {name: each for name, each in legs.items() if each}, retired


def _legs(found: Sequence[Sequence[int]]) -> tuple[Leg, ...]:
    return tuple(Leg(*map(operator.index, leg)) for leg in found)
