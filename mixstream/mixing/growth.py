"""A layout that grew while a run went on -> the rows of its domains, each once an epoch.

Shards that are appended to a domain in the middle of an epoch leave the rows of that epoch where
they are: all nodes finish it in the order of the old shards, the new shards follow as its end, and
from the next epoch on old and new rows are shuffled together. So no row comes a second time before
every row of the domain has come once. A *leg* is what a domain draws in one such order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Counts
from mixstream.mixing.order import Block, RowOrder, Slices
from mixstream.mixing.settings import OrderSettings

__all__ = ["GrownOrder", "Leg", "Legs", "grown_legs", "row_order"]


class Leg(NamedTuple):
    """Epochs of a domain over some of its shards, in an order of their own.

    A leg of epochs > 0 over shards from the first one on is so many whole epochs. One that begins
    at a later shard is the end of the epoch before it.
    """

    first_shard: int
    end_shard: int
    """The shard after the last."""
    epochs: int
    """How often each row of these shards comes."""


Legs: TypeAlias = Mapping[str, Sequence[Leg]]
"""By domain, the legs before the last one, which has all shards and no end."""


class _Part(NamedTuple):
    """One leg of every domain; a domain with fewer legs has no rows in it."""

    order: RowOrder
    end: Counts
    """(C K,) int64, the group's first ordinal after the leg."""
    shift: Counts
    """(C K,) int64, from an ordinal of the run to one of this order."""
    first_row: Counts
    """(K,) int64, where the leg's rows begin within the domain."""


class GrownOrder:
    """Rows of every domain as RowOrder gives them, where some domains have legs.

    Args:
        layout: rows of each shard, an int64 array a domain.
        legs: by domain.
        settings: of the run.
    """

    def __init__(self, layout: Mapping[str, Counts], legs: Legs, settings: OrderSettings) -> None:
        num_nodes = settings.num_canonical_nodes
        # nodes that have drawn a small domain as one group go on so, however much it grows
        whole = {
            name: rows[: legs[name][0].end_shard] if legs.get(name) else rows
            for name, rows in layout.items()
        }
        shared = np.array([rows.sum() < num_nodes for rows in whole.values()], dtype=bool)
        make = partial(_ordered, settings=settings, shared=shared)
        self._last = make(layout)
        self.slices: Slices = self._last.slices
        self.start = np.zeros_like(self.slices.num_rows)
        """(C, K) int64, the first ordinal of the last leg."""
        epochs = np.zeros(len(layout), dtype=np.int64)
        self._parts: list[_Part] = []
        for place in range(max(map(len, legs.values()), default=0)):
            none = Leg(0, 0, 0)
            mine = [legs[n][place] if place < len(legs.get(n, ())) else none for n in layout]
            order = make(
                {
                    name: rows[leg.first_shard : leg.end_shard]
                    for (name, rows), leg in zip(layout.items(), mine, strict=True)
                }
            )
            size = order.slices.num_rows
            is_end = np.array([leg.first_shard > 0 for leg in mine])
            shift = (epochs - is_end) * size - self.start
            num_epochs = np.array([leg.epochs for leg in mine], dtype=np.int64)
            self.start = self.start + num_epochs * size
            epochs += np.where(is_end, 0, num_epochs)
            first_row = np.array(
                [
                    rows[: leg.first_shard].sum()
                    for rows, leg in zip(layout.values(), mine, strict=True)
                ],
                dtype=np.int64,
            )
            self._parts.append(_Part(order, self.start.ravel(), shift.ravel(), first_row))
        self.extra_rows = self.start - epochs * self.slices.num_rows
        """(C, K) int64, what the draws of E epochs are more than E times the rows there are."""
        self._shift = -self.extra_rows.ravel()
        self._shared = shared

    def of_domains(self, of_groups: Counts) -> Counts:
        """(C, K) draws of each group -> (K,) draws of each domain by all nodes."""
        return np.where(self._shared, of_groups[0], of_groups.sum(axis=0))

    def groups(self, domain: Counts, node: Counts) -> Counts:
        """The group that each draw belongs to: (n,) domains and nodes -> (n,) int64."""
        return self._last.groups(domain, node)

    def rows(self, domain: Counts, node: Counts, ordinal: Counts) -> Counts:
        """The rows of some draws, as RowOrder.rows gives them."""
        group = self.groups(domain, node)
        left = np.arange(group.size)
        row = np.empty(group.size, dtype=np.int64)
        for part in self._parts:
            in_part = ordinal[left] < part.end[group[left]]
            now, left = left[in_part], left[~in_part]
            if now.size:
                drawn = part.order.rows(
                    domain[now], node[now], ordinal[now] + part.shift[group[now]]
                )
                row[now] = drawn + part.first_row[domain[now]]
        row[left] = self._last.rows(
            domain[left], node[left], ordinal[left] + self._shift[group[left]]
        )
        return row

    def block(self, domain: int, node: int, ordinal: int) -> Block | None:
        """The block in which one draw lies, as RowOrder.block gives it."""
        group = int(self.groups(np.array([domain]), np.array([node]))[0])
        order, shift, first_row = self._last, int(self._shift[group]), 0
        for part in self._parts:
            if ordinal < part.end[group]:
                order, shift = part.order, int(part.shift[group])
                first_row = int(part.first_row[domain])
                break
        block = order.block(domain, node, ordinal + shift)
        if block is None:
            return None
        return block._replace(
            first_draw=block.first_draw - shift, run_row=block.run_row + first_row
        )


def row_order(
    layout: Mapping[str, Counts], legs: Legs, settings: OrderSettings
) -> RowOrder | GrownOrder:
    """The order of the rows of a layout, of which some domains may have legs."""
    return GrownOrder(layout, legs, settings) if legs else _ordered(layout, settings=settings)


def grown_legs(
    layout: Mapping[str, Counts],
    legs: Legs,
    counts: Counts,
    grown: Mapping[str, int],
    settings: OrderSettings,
) -> dict[str, tuple[Leg, ...]]:
    """The legs of all domains from now on.

    Args:
        layout: as it was.
        legs: as they were.
        counts: (C, K) int64, rows drawn of each group.
        grown: the shards that each domain has now, for those that grew.
        settings: of the run.
    """
    new = {name: tuple(each) for name, each in legs.items()}
    if not grown:
        return new
    order = GrownOrder(layout, legs, settings)
    size = np.maximum(order.slices.num_rows, 1)
    epochs = np.maximum(-((order.start - counts) // size), 0).max(axis=0)  # begun ones, rounded up
    for index, (name, rows) in enumerate(layout.items()):
        if name in grown:
            mine = new.get(name, ())
            if epochs[index]:
                mine += (Leg(0, len(rows), int(epochs[index])),)
            if mine:
                new[name] = (*mine, Leg(len(rows), grown[name], 1))
    return new


def _ordered(
    layout: Mapping[str, Counts],
    *,
    settings: OrderSettings,
    shared: NDArray[np.bool_] | None = None,
) -> RowOrder:
    return RowOrder(
        layout,
        seed=settings.seed,
        num_canonical_nodes=settings.num_canonical_nodes,
        shuffle=settings.shuffle,
        shuffle_block_rows=settings.shuffle_block_rows,
        shared=shared,
    )
