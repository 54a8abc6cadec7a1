"""A corpus, weights and machines -> the plan of a run: sampler and caches, without data."""

from __future__ import annotations

import heapq
import math
from collections import Counter

import numpy as np

from mixstream.arrays import Counts, Vector
from mixstream.errors import RecipeError
from mixstream.mixing.order import RowOrder, Slices
from mixstream.mixing.sampler import MixSampler
from mixstream.mixing.schedule import Schedule
from mixstream.mixing.weights import WeightsLike
from mixstream.planning.blocks import ShardBlocks
from mixstream.planning.contents import Contents
from mixstream.planning.demand import Demand, Stretch
from mixstream.planning.node import SimulatedNode
from mixstream.planning.pace import Forecast, Pace
from mixstream.planning.reader import Reader
from mixstream.planning.report import DomainPlan, NodePlan, Plan
from mixstream.planning.settings import PlanSettings

__all__ = ["plan_run"]

_INDEX_BYTES = 450
"""What index.json says of a shard: 428 to 446 bytes in ours, 548 where it is compressed."""
_INDEX_READERS = 32
"""Indexes that `Catalog.indexes` reads at the same time."""


def plan_run(
    contents: Contents, weights: WeightsLike | Schedule | None, settings: PlanSettings
) -> Plan:
    """Simulate a run.

    Args:
        contents: of the corpus.
        weights: as a Loader takes them; None draws every domain by its share of the rows.
        settings: of the run and its machines.

    Raises:
        WeightsError: weights that do not fit the corpus.
        RecipeError: a cache that does not hold a shard, or no row to draw.
    """
    return _Simulation(contents, weights, settings).run()


class _Simulation:
    """All simulated nodes, step by step; only steps that ask for a shard are looked at."""

    def __init__(
        self, contents: Contents, weights: WeightsLike | Schedule | None, settings: PlanSettings
    ) -> None:
        _check_cache(contents, settings.cache_bytes)
        self._contents, self._settings = contents, settings
        sampler = _planned_sampler(contents, weights, settings)
        self._order = RowOrder(
            contents.layout,
            seed=settings.seed,
            num_canonical_nodes=settings.canonical,
            shuffle=settings.shuffle,
            shuffle_block_rows=settings.shuffle_block_rows,
        )
        self._demand = Demand(
            sampler,
            self._order,
            num_rows=settings.num_rows,
            drawn_rows=settings.drawn_rows,
            rows_per_step=settings.rows_per_step,
        )
        blocks = ShardBlocks(
            self._order,
            contents.layout,
            shuffle_block_rows=settings.shuffle_block_rows,
            num_draws=self._demand.num_draws,
        )
        self._opening = opening = _open_seconds(contents, settings)
        self._pace = Pace(settings.rows_per_step / settings.step_seconds, opening)
        self._nodes: list[SimulatedNode] = []
        self._groups: list[Counts] = []
        first_shard = contents.first_shard
        for node in range(settings.simulated):
            owned = _canonical_of(node, settings)
            readers = [
                Reader(blocks, domain, canonical, int(first_shard[domain]))
                for canonical in owned
                for domain in np.flatnonzero(contents.num_rows).tolist()
            ]
            groups = self._order.groups(
                np.array([reader.domain for reader in readers]),
                np.array([reader.canonical_node for reader in readers]),
            )
            self._nodes.append(SimulatedNode(settings, contents, readers, self._pace))
            self._nodes[-1].begin(opening)
            self._groups.append(groups)
        self._stalls: list[tuple[int, float]] = []
        self._heap: list[tuple[float, int, int, int]] = []

    def run(self) -> Plan:
        """Go through all rows.

        Raises:
            RecipeError: there are none.
        """
        settings = self._settings
        counts = np.zeros(self._order.slices.num_rows.size)
        for stretch in self._demand.stretches():
            self._enter(stretch)
            while self._heap:
                self._step(stretch, int(self._heap[0][0] // settings.rows_per_step))
            counts = stretch.after
        end = self._pace.last_row = self._demand.end_row
        if end == 0:
            raise RecipeError(
                f"every domain reaches its max_epochs before the first batch of "
                f"{settings.rows_per_step} rows; allow more epochs, or make the batch smaller."
            )
        for node in self._nodes:
            node.advance(self._pace.seconds_at(end))
        return self._plan(counts)

    def _enter(self, stretch: Stretch) -> None:
        """The touches of a stretch."""
        self._pace.last_row = max(self._pace.last_row, stretch.first_row)
        for number, (node, groups) in enumerate(zip(self._nodes, self._groups, strict=True)):
            after = stretch.after[groups]
            for place in np.flatnonzero(after > stretch.before[groups]).tolist():
                self._push(stretch, number, place)
            node.enter(Forecast(stretch, groups))

    def _push(self, stretch: Stretch, number: int, place: int) -> None:
        """Queue the next touch of a reader, if it comes in this stretch."""
        group = int(self._groups[number][place])
        touch = self._nodes[number].readers[place].next_touch
        if touch is not None and touch.ordinal < math.floor(stretch.after[group]):
            row = stretch.row_of(group, touch.ordinal)
            heapq.heappush(self._heap, (row, number, place, touch.ordinal))

    def _step(self, stretch: Stretch, step: int) -> None:
        """All touches of a step: every node waits for its own, and then all for the last."""
        first_row = step * self._settings.rows_per_step
        start = self._pace.seconds_at(first_row)
        self._pace.last_row = max(self._pace.last_row, first_row)
        touched: dict[int, set[int]] = {}
        while self._heap and self._heap[0][0] < first_row + self._settings.rows_per_step:
            _, number, place, ordinal = heapq.heappop(self._heap)
            node = self._nodes[number]
            queued = node.readers[place].next_touch
            if queued is None or queued.ordinal != ordinal:
                continue  # taken by now: it was queued twice, when an earlier one was found
            if number not in touched:
                node.advance(start)
                touched[number] = set()
            touch = node.take(place)
            if not node.is_mapped(touch.shard):
                touched[number].add(touch.shard)
            self._push(stretch, number, place)
        end = start
        for number, shards in touched.items():
            if shards:
                self._unmap(stretch, number, step)
                end = max(end, self._nodes[number].read(shards, start))
        if end > start:
            self._stalls.append((step, end - start))
            self._pace.offset_seconds += end - start

    def _unmap(self, stretch: Stretch, number: int, step: int) -> None:
        """Before a node maps anything: what is evicted and not in this batch is asked for again."""
        node = self._nodes[number]
        if not node.gone:
            return
        rows = step * self._settings.rows_per_step, (step + 1) * self._settings.rows_per_step
        places = {shard: node.places_of(shard) for shard in node.gone}
        groups = self._groups[number]
        counts = {
            place: [stretch.count_at(int(groups[place]), max(r, stretch.first_row)) for r in rows]
            for place in set().union(*places.values())
        }
        kept = {
            shard
            for shard, found in places.items()
            if any(node.readers[place].draws(shard, *counts[place]) for place in found)
        }
        for shard in node.unmap_gone(kept):
            for place in places[shard]:
                node.readers[place].touch_again(shard, counts[place][1])
                self._push(stretch, number, place)

    def _plan(self, counts: Vector) -> Plan:
        settings = self._settings
        first = sum(wait for step, wait in self._stalls if step == 0)
        later = [wait for step, wait in self._stalls if step > 0]
        fetched = Counter(shard for node in self._nodes for shard in node.counts.shards)
        return Plan(
            num_nodes=settings.num_nodes,
            ranks=settings.num_nodes * settings.ranks_per_node,
            num_steps=self._demand.end_row // settings.rows_per_step,
            asked_steps=settings.num_steps,
            num_rows=self._demand.end_row,
            num_drawn=self._demand.num_drawn,
            is_described=self._contents.is_described,
            domains=self._domain_plans(counts),
            nodes=tuple(_node_plan(number, node) for number, node in enumerate(self._nodes)),
            shards_of_two_nodes=sum(times > 1 for times in fetched.values()),
            open_seconds=self._opening,
            first_batch_seconds=self._opening + first,
            stall_seconds=math.fsum(later),
            stalled_steps=len(later),
            longest_stall_seconds=max(later, default=0.0),
            total_seconds=self._pace.seconds_at(self._demand.end_row),
            cache_bytes=settings.cache_bytes,
            bytes_per_second=settings.bytes_per_second,
        )

    def _domain_plans(self, counts: Vector) -> tuple[DomainPlan, ...]:
        drawn = counts.reshape(self._order.slices.num_rows.shape).sum(axis=0).tolist()
        shared = _shared_shards(self._contents, self._order.slices, self._settings)
        return tuple(
            DomainPlan(
                name=name,
                rows=drawn[domain],
                epochs=drawn[domain] / max(int(rows.sum()), 1),
                shards=len(rows),
                shared_shards=shared[domain],
            )
            for domain, (name, rows) in enumerate(self._contents.layout.items())
        )


def _planned_sampler(
    contents: Contents, weights: WeightsLike | Schedule | None, settings: PlanSettings
) -> MixSampler:
    """The sampler of the run, with all changes that are planned."""
    sampler = MixSampler(
        contents.layout,
        weights.weights_like() if isinstance(weights, Schedule) else weights,
        seed=settings.seed,
        num_canonical_nodes=settings.canonical,
        sampling=settings.sampling,
        stratum=settings.stratum,
        shuffle=settings.shuffle,
        shuffle_block_rows=settings.shuffle_block_rows,
        max_epochs=settings.max_epochs,
    )
    if isinstance(weights, Schedule):
        for change in weights.changes[1:]:
            at_row = change.step * settings.rows_per_step
            sampler.set_weights(weights.weights_like(change), at_row=at_row, reason=change.reason)
    return sampler


def _canonical_of(node: int, settings: PlanSettings) -> range:
    """The canonical nodes whose rows a node reads, as MixBatchSampler deals them."""
    each = settings.canonical // settings.num_nodes
    return range(node * each, (node + 1) * each)


def _check_cache(contents: Contents, cache_bytes: int | None) -> None:
    largest = int(contents.made_bytes.max(initial=0))
    if cache_bytes is not None and cache_bytes < largest:
        raise RecipeError(
            f"cache_bytes is {cache_bytes}, but a shard of the corpus takes {largest} bytes while "
            f"it is made. Give the cache at least several shards' bytes."
        )


def _open_seconds(contents: Contents, settings: PlanSettings) -> float:
    """For corpus.json, and then all index.json files."""
    rounds = 1 + -(-len(contents.layout) // _INDEX_READERS)
    num_bytes = _INDEX_BYTES * len(contents.raw_bytes)
    return rounds * settings.latency_seconds + num_bytes / settings.bytes_per_second


def _node_plan(number: int, node: SimulatedNode) -> NodePlan:
    counts = node.counts
    return NodePlan(
        node=number,
        downloads=counts.downloads,
        downloaded_bytes=counts.downloaded_bytes,
        downloads_again=counts.downloads_again,
        shards=len(counts.shards),
        cache_high_water_bytes=node.cache.high_water_bytes,
        working_set_bytes=counts.max_live_bytes,
    )


def _shared_shards(contents: Contents, slices: Slices, settings: PlanSettings) -> list[int]:
    """(K,) how many shards of each domain lie in the slices of several nodes."""
    each = settings.canonical // settings.num_nodes
    cuts = slices.first_row[::each]
    shared = []
    for domain, rows in enumerate(contents.layout.values()):
        edges = np.cumsum(rows)
        if settings.num_nodes > 1 and 0 < edges[-1:].sum() < settings.canonical:
            shared.append(int((rows > 0).sum()))  # all nodes draw all of its rows
            continue
        inside = np.setdiff1d(cuts[1:, domain] - cuts[0, domain], [0, *edges.tolist()])
        shared.append(len(np.unique(np.searchsorted(edges, inside, "right"))))
    return shared
