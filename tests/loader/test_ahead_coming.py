"""Which shards come next, ranked by weights: those that drawing reads; rows raise no cost."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import MixBatchSampler, MixSampler
from mixstream.loader.coming import ComingShards, nodes_of_rank, rows_until
from tests.strategies import layouts, seeds

ALL = {"max_shards": 64, "max_bytes": np.inf, "raw_bytes": lambda domain, shard: 1}


def coming_of(sampler, layout, nodes=(0,), counts=None):
    counts = sampler.mark().counts if counts is None else counts
    return ComingShards(sampler, layout, np.array(nodes), counts)


def look(coming, sampler, **changed):
    return coming.outlook(sampler.mark().counts, sampler.row, **(ALL | changed))


def shards_of(layout, addresses):
    """(domain, shard) of each row, in order."""
    ends = [np.cumsum(rows) for rows in layout.values()]
    return [(int(d), int(np.searchsorted(ends[d], r, "right"))) for d, r in addresses]


def test_rows_until_by_hand():
    rates, starts = [np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.0, 0.4])], np.array([0.0, 10.0])
    assert rows_until(np.array([6, 6, 6]), rates, starts).tolist() == [20.0, np.inf, 25.0]
    assert rows_until(np.array([5, 0, 0]), rates, starts).tolist() == [10.0, 0.0, 10.0]
    assert np.isinf(rows_until(np.array([1]), [np.array([5e-324])], np.array([0.0])))


@given(
    draws=st.lists(st.integers(0, 1000), min_size=1, max_size=5),
    stretches=st.lists(
        st.tuples(st.floats(0.5, 100), st.floats(1e-6, 1) | st.just(0.0)), min_size=1, max_size=4
    ),
)
def test_so_many_rows_bring_so_many_draws_as_are_asked_for(draws, stretches):
    starts = np.cumsum([0.0, *(length for length, _ in stretches)])[:-1]
    rates = [np.full(len(draws), rate) for _, rate in stretches]
    found = rows_until(np.array(draws), rates, starts)
    ends = np.append(starts[1:], np.inf)
    for wanted, rows in zip(draws, found.tolist(), strict=True):
        pieces = zip(stretches, starts, ends, strict=True)
        expected = [
            rate * (min(rows, end) - start)
            for (_, rate), start, end in pieces
            if rows > start and rate > 0
        ]
        total = sum(expected)
        if np.isinf(rows):
            assert stretches[-1][1] == 0
            assert total < wanted + 1e-6 or wanted == 0
        else:
            assert total == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(
    nodes=st.integers(1, 12),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 6),
    data=st.data(),
)
@settings(deadline=None)
def test_a_rank_reads_the_nodes_that_its_batches_come_from(nodes, batch_size, world_size, data):
    rank = data.draw(st.integers(0, world_size - 1))
    layout = {"d": np.array([nodes * 40] * nodes)}
    sampler = MixSampler(layout, num_canonical_nodes=nodes)
    sampler.take(data.draw(st.integers(0, 50)))
    batches = MixBatchSampler(sampler, batch_size, rank=rank, world_size=world_size)
    expected = set(nodes_of_rank(sampler.row, batch_size, rank, world_size, nodes).tolist())
    drawn = list(itertools.islice(batches, 8))
    found = {int(row) // (nodes * 40) for addresses in drawn for row in addresses["row"]}
    assert found <= expected
    if (batch_size * world_size) % nodes == 0:
        assert found == expected


@settings(deadline=None, max_examples=40)
@given(
    layout=layouts(),
    seed=seeds(),
    nodes=st.sampled_from([1, 2, 3]),
    block=st.sampled_from([1, 5, 20, 1 << 18]),
    shuffle=st.booleans(),
    first=st.integers(0, 100),
    data=st.data(),
)
def test_no_row_is_drawn_from_a_shard_that_was_not_told_before(
    layout, seed, nodes, block, shuffle, first, data
):
    sampler = MixSampler(
        layout, seed=seed, num_canonical_nodes=nodes, shuffle=shuffle, shuffle_block_rows=block
    )
    sampler.take(first)
    coming = coming_of(sampler, layout, range(nodes))
    told, held = set(), set()
    for _ in range(6):
        outlook = look(coming, sampler, max_shards=50)
        told |= {(need.domain, need.shard) for need in outlook.needs}
        coming.finish([(need.domain, need.shard) for need in outlook.needs])
        held = (held | told) - set(outlook.passed)
        drawn = sampler.take(data.draw(st.integers(1, 30)))
        assert set(shards_of(layout, drawn)) <= told
        weights = data.draw(st.sampled_from([sampler.num_rows > 0, np.flip(sampler.num_rows)]))
        if (np.asarray(weights)[sampler.num_rows == 0] == 0).all():
            sampler.set_weights(weights)


def test_needs_come_in_the_order_of_the_weights_and_anew_after_a_change():
    layout = {"a": np.full(8, 100), "b": np.full(8, 100), "c": np.full(8, 100)}
    sampler = MixSampler(layout, [0.9, 0.1, 0.0], shuffle=False)
    coming = coming_of(sampler, layout)
    before = look(coming, sampler, max_shards=6).needs
    assert [need[1:] for need in before] == [(0, 0), (1, 0), (0, 1), (0, 2), (0, 3), (0, 4)]
    assert [round(need.rows) for need in before[:3]] == [1, 10, 112]
    coming.finish([(0, 0), (0, 1)])
    sampler.set_weights([0.0, 0.5, 0.5])
    after = look(coming, sampler, max_shards=4).needs
    assert [need[1:] for need in after] == [(1, 0), (2, 0), (1, 1), (2, 1)]


def test_what_a_planned_change_will_ask_for_comes_before_what_is_needed_later():
    layout = {"a": np.full(8, 100), "b": np.full(8, 100)}
    sampler = MixSampler(layout, [1.0, 0.0], shuffle=False)
    sampler.set_weights([0.0, 1.0], at_row=150)
    needs = look(coming_of(sampler, layout), sampler, max_shards=4).needs
    assert [need[1:] for need in needs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [need.rows for need in needs] == [1, 101, 151, 251]


def test_no_more_is_told_than_the_bytes_hold_and_one_at_least():
    layout = {"a": np.full(8, 100)}
    sampler = MixSampler(layout, shuffle=False)
    sizes = {"raw_bytes": lambda domain, shard: 10}
    outlook = look(coming_of(sampler, layout), sampler, max_shards=6, max_bytes=35, **sizes)
    assert ([need.shard for need in outlook.needs], outlook.num_left_out) == ([0, 1, 2], 3)
    outlook = look(coming_of(sampler, layout), sampler, max_bytes=1, **sizes)
    assert [need.shard for need in outlook.needs] == [0]


def test_shards_whose_rows_are_all_drawn_are_told_once():
    layout = {"a": np.full(4, 100)}
    sampler = MixSampler(layout, shuffle=False, max_epochs=1)
    coming = coming_of(sampler, layout)
    outlook = look(coming, sampler)
    assert len(outlook.needs) == 4, "there is no second epoch"
    coming.finish([(0, shard) for shard in range(4)])
    sampler.take(250)
    assert coming.reading(sampler.mark().counts) == [(0, 0), (0, 1), (0, 2)]
    assert look(coming, sampler).passed == [(0, 0), (0, 1)]
    assert coming.reading(sampler.mark().counts) == [(0, 2)]
    assert look(coming, sampler).passed == []


def test_a_place_before_the_first_one_is_known_to_be_another():
    layout = {"a": np.full(4, 100)}
    sampler = MixSampler(layout)
    start = sampler.mark()
    sampler.take(50)
    coming = coming_of(sampler, layout)
    sampler.take(50)
    assert coming.holds(sampler.mark().counts)
    assert not coming.holds(start.counts)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_trillion_rows_in_a_hundred_thousand_shards_are_looked_at_no_longer(shuffle):
    layout = {f"d{i}": np.full(100, 10**7) for i in range(1000)}
    sampler = MixSampler(layout, np.arange(1, 1001), num_canonical_nodes=4, shuffle=shuffle)
    sampler.take(10_000)
    calls = []
    block_at = sampler.coming_block
    sampler.coming_block = lambda *place: calls.append(place) or block_at(*place)
    coming = coming_of(sampler, layout, [1])
    outlook = look(coming, sampler)
    assert len(outlook.needs) == 64
    assert len(calls) <= 4 * 64
    assert {need.domain for need in outlook.needs} > {999, 998}
    assert all(0 <= need.shard <= 25 * 2 for need in outlook.needs)
    calls.clear()
    for _ in range(20):
        coming.finish([(need.domain, need.shard) for need in outlook.needs])
        sampler.take(64)
        outlook = look(coming, sampler)
    assert len(calls) <= 4 * 64 * 4, "what was looked at is not looked at again"
