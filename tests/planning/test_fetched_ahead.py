"""What a plan fetches ahead, beside the policy of the Loader itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.loader.coming import ComingShards
from mixstream.mixing.order import RowOrder
from mixstream.mixing.sampler import MixSampler
from mixstream.planning import Contents, PlanSettings
from mixstream.planning.blocks import ShardBlocks
from mixstream.planning.demand import Demand
from mixstream.planning.node import SimulatedNode
from mixstream.planning.pace import Forecast, Pace
from mixstream.planning.reader import Reader

WEIGHTS = np.array([0.47, 0.31, 0.22])


def contents_of_rows(layout):
    rows = np.concatenate(list(layout.values()))
    raw = 100 * rows
    return Contents(
        layout=layout, seq_len=1, stored_bytes=raw, raw_bytes=raw, made_bytes=raw, is_described=True
    )


def fetched_ahead(layout, weights, plan):
    """The shards whose downloads a node starts after a first batch of no shard, and the sampler."""
    contents = contents_of_rows(layout)
    common = {"seed": plan.seed, "num_canonical_nodes": 1, "shuffle": plan.shuffle}
    order = RowOrder(layout, shuffle_block_rows=20, **common)
    limits = {"max_epochs": plan.max_epochs}
    sampler = MixSampler(layout, weights, shuffle_block_rows=20, **common, **limits)
    demand = Demand(sampler, order, num_rows=1000, drawn_rows=0, rows_per_step=1)
    blocks = ShardBlocks(order, layout, shuffle_block_rows=20, num_draws=demand.num_draws)
    first = contents.first_shard
    readers = [Reader(blocks, domain, 0, int(first[domain])) for domain in range(len(layout))]
    node = SimulatedNode(plan, contents, readers, Pace(1.0))
    stretch = next(demand.stretches())
    node.enter(Forecast(stretch, np.arange(len(layout))))
    node.read(set(), 0.0)
    node.advance(1.0)
    shards = [np.searchsorted(first, shard, "right") - 1 for shard in node.link.active]
    pairs = zip(shards, node.link.active, strict=True)
    return [(int(domain), int(shard - first[domain])) for domain, shard in pairs], sampler


def plan_of(**others):
    """A run on one node whose downloads begin and never end, unless told otherwise."""
    settings = {
        "num_nodes": 1,
        "ranks_per_node": 1,
        "batch_size": 1,
        "num_steps": 1000,
        "bytes_per_second": 1.0,
        "latency_seconds": 1e6,
        "step_seconds": 1.0,
        "max_downloads": 100,
    }
    return PlanSettings(**settings | others)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=6, max_size=12), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
    max_ahead=st.integers(1, 12),
    max_bytes=st.sampled_from([10**9, 4000]),
    shuffle=st.booleans(),
)
def test_a_plan_fetches_ahead_what_a_loader_would(sizes, seed, max_ahead, max_bytes, shuffle):
    layout = {name: np.array(rows) for name, rows in zip("abc", sizes, strict=True)}
    layout = {name: np.append(rows, [21]) for name, rows in layout.items()}  # more than a block
    plan = plan_of(
        max_ahead=max_ahead,
        memory_bytes=4 * max_bytes,
        shuffle_block_rows=20,
        shuffle=shuffle,
        seed=seed,
    )
    found, sampler = fetched_ahead(layout, WEIGHTS, plan)
    counts = np.zeros((1, 3), np.int64)
    outlook = ComingShards(sampler, layout, np.array([0]), counts).outlook(
        counts,
        0,
        max_shards=max_ahead,
        max_bytes=max_bytes,
        raw_bytes=lambda domain, shard: 100 * int(list(layout.values())[domain][shard]),
    )
    assert found == [(need.domain, need.shard) for need in outlook.needs]


def test_without_prefetch_nothing_is_fetched_ahead():
    plan = plan_of(max_ahead=0)
    assert fetched_ahead({"a": np.array([30, 30])}, None, plan)[0] == []


@pytest.mark.parametrize("max_ahead", [1, 5])
def test_no_more_than_the_limit_is_fetched_ahead(max_ahead):
    plan = plan_of(max_ahead=max_ahead)
    assert len(fetched_ahead({"a": np.full(40, 30)}, None, plan)[0]) == max_ahead


@pytest.mark.parametrize("shuffle", [True, False])
def test_nothing_is_fetched_ahead_of_an_exhausted_domain(shuffle):
    layout = {"a": np.full(4, 30), "b": np.full(90, 30)}
    plan = plan_of(max_ahead=30, shuffle=shuffle, max_epochs={"a": 1})
    found, sampler = fetched_ahead(layout, np.array([0.9, 0.1]), plan)
    assert sum(domain == 0 for domain, _ in found) == 4
    counts = np.zeros((1, 2), np.int64)
    outlook = ComingShards(sampler, layout, np.array([0]), counts).outlook(
        counts, 0, max_shards=30, max_bytes=10**9, raw_bytes=lambda *_: 1
    )
    assert found == [(need.domain, need.shard) for need in outlook.needs]
