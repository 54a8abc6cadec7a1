"""The order inside a domain: slices that cover, epochs that repeat nothing, blocks that confine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mixstream.mixing.order import RowOrder, domain_slices
from tests.strategies import layouts, seeds

node_counts = st.sampled_from([1, 2, 3, 4, 7, 16])
block_rows = st.sampled_from([1, 2, 5, 20, 100, 1 << 18])

GOLDEN = {
    "blocked": [12, 6, 10, 8, 7, 14, 13, 11, 5, 9, 3, 0, 4, 1, 2],
    "blocked, epoch 1": [1, 3, 4, 2, 0, 13, 5, 12, 11, 6, 7, 8, 14, 10, 9],
    "whole, node 1": [13, 9, 10, 11, 12, 14],
    "code": [0, 3, 2, 1],
}


def order_of(layout, *, seed=0, nodes=1, shuffle=True, block=1 << 18) -> RowOrder:
    return RowOrder(
        layout,
        seed=seed,
        num_canonical_nodes=nodes,
        shuffle=shuffle,
        shuffle_block_rows=block,
    )


def shards_of(*domains) -> list[np.ndarray]:
    return [np.array(rows, dtype=np.int64) for rows in domains]


def drawn(order: RowOrder, domain: int, node: int, first: int, num_rows: int) -> list[int]:
    """Rows of consecutive draws of one domain on one node."""
    ordinal = np.arange(first, first + num_rows)
    return order.rows(
        np.full(num_rows, domain), np.full(num_rows, node), ordinal.astype(np.int64)
    ).tolist()


def epoch_rows(order: RowOrder, domain: int, node: int, epoch: int) -> list[int]:
    size = int(order.slices.num_rows[node, domain])
    return drawn(order, domain, node, epoch * size, size)


def test_domain_slices_by_hand():
    # 10 rows in shards of 3, 3, 4: the edge at 6 is nearer to half than the one at 3;
    # 5 rows in one shard: cut between rows, 2 and 3; one row: both nodes own it
    slices = domain_slices(shards_of([3, 3, 4], [5], [1]), 2)
    assert slices.first_row.tolist() == [[0, 10, 15], [6, 12, 15]]
    assert slices.num_rows.tolist() == [[6, 2, 1], [4, 3, 1]]


@settings(deadline=None, max_examples=300)
@given(
    domains=st.lists(st.lists(st.integers(1, 30), max_size=12), min_size=1, max_size=6).filter(any),
    nodes=node_counts,
)
def test_slices_cover_each_domain_once_and_leave_no_node_out(domains, nodes):
    shards = shards_of(*domains)
    slices = domain_slices(shards, nodes)
    assert slices.first_row.shape == slices.num_rows.shape == (nodes, len(domains))
    domain_start = 0
    for k, rows in enumerate(shards):
        total = int(rows.sum())
        first = slices.first_row[:, k] - domain_start
        end = first + slices.num_rows[:, k]
        if total >= nodes:
            assert first[0] == 0
            assert end[-1] == total
            assert (first[1:] == end[:-1]).all()
            assert (slices.num_rows[:, k] > 0).all()
        else:
            assert (first == 0).all()
            assert (end == total).all()
        if rows.size >= nodes:
            edges = {0, *np.cumsum(rows).tolist()}
            assert set(first.tolist()) | set(end.tolist()) <= edges
        elif total >= nodes:
            assert np.ptp(slices.num_rows[:, k]) <= 1
        domain_start += total


def test_equal_shards_are_dealt_evenly():
    slices = domain_slices(shards_of([10] * 64, [7] * 65), 16)
    assert (slices.num_rows[:, 0] == 40).all()
    assert set(slices.num_rows[:, 1].tolist()) == {28, 35}


def test_a_giant_shard_leaves_the_other_nodes_a_shard_each():
    for place in range(5):
        rows = [1] * 5
        rows[place] = 1000
        slices = domain_slices(shards_of(rows), 5)
        assert slices.num_rows[:, 0].tolist() == rows


def test_row_order_without_shuffle_by_hand():
    layout = {"a": np.array([2, 0, 3]), "b": np.array([4])}
    order = order_of(layout, shuffle=False)
    assert drawn(order, 0, 0, 0, 12) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert drawn(order, 1, 0, 2, 4) == [2, 3, 0, 1]
    order = order_of(layout, shuffle=False, nodes=2, block=1)
    assert drawn(order, 0, 0, 0, 3) == [0, 1, 0]
    assert drawn(order, 0, 1, 0, 4) == [2, 3, 4, 2]


@settings(deadline=None, max_examples=150)
@given(layout=layouts(), seed=seeds(), nodes=node_counts, shuffle=st.booleans(), block=block_rows)
def test_every_row_of_a_slice_comes_once_before_any_comes_twice(
    layout, seed, nodes, shuffle, block
):
    order = order_of(layout, seed=seed, nodes=nodes, shuffle=shuffle, block=block)
    domain_start = 0
    for k, rows in enumerate(layout.values()):
        for node in range(nodes):
            size = int(order.slices.num_rows[node, k])
            first = int(order.slices.first_row[node, k]) - domain_start
            for epoch in (0, 1, 2, 10**6) if size else ():
                visited = epoch_rows(order, k, node, epoch)
                assert sorted(visited) == list(range(first, first + size))
                assert shuffle or visited == sorted(visited)
        domain_start += int(rows.sum())


@settings(deadline=None, max_examples=100)
@given(layout=layouts(), seed=seeds(), nodes=node_counts, block=block_rows, data=st.data())
def test_any_split_and_any_sequence_of_requests_gives_the_same_rows(
    layout, seed, nodes, block, data
):
    filled = [k for k, rows in enumerate(layout.values()) if rows.sum()]
    draws = data.draw(
        st.lists(
            st.tuples(st.sampled_from(filled), st.integers(0, nodes - 1), st.integers(0, 200)),
            min_size=1,
            max_size=40,
        )
    )
    columns = np.array(draws, dtype=np.int64).T
    whole = order_of(layout, seed=seed, nodes=nodes, block=block).rows(*columns)
    used = order_of(layout, seed=seed, nodes=nodes, block=block)  # its tables go to and fro
    for index in data.draw(st.permutations(range(len(draws)))):
        fresh = order_of(layout, seed=seed, nodes=nodes, block=block)
        assert used.rows(*columns[:, index : index + 1])[0] == whole[index]
        assert fresh.rows(*columns[:, index : index + 1])[0] == whole[index]
        break_at = index + 1
        assert used.rows(*columns[:, :break_at]).tolist() == whole[:break_at].tolist()


def test_no_draws_give_no_rows():
    empty = np.empty(0, dtype=np.int64)
    for block in (1, 100):
        assert order_of({"a": np.array([5, 5])}, block=block).rows(empty, empty, empty).size == 0


@pytest.mark.parametrize(("shard", "block"), [(10, 50), (10, 10), (7, 50), (100, 30), (1, 20)])
def test_blocks_confine_the_shuffle(shard, block):
    """A window of the epoch reads about a block of rows, not the domain: P2's prefetch needs it."""
    layout = {"a": np.full(4000 // shard, shard)}
    order = order_of(layout, block=block, seed=3)
    visited = np.array(epoch_rows(order, 0, 0, 0))
    size = max(block, shard)  # a shard is never cut
    # every window of a block's length lies in at most two blocks, each below block + shard rows
    for start in range(0, visited.size - size, size):
        shards = np.unique(visited[start : start + size] // shard)
        assert shards.size * shard <= 2 * (size + shard)
    # and over the epoch every shard is open during one stretch of at most its block
    first = np.full(4000 // shard, visited.size)
    last = np.zeros(4000 // shard, dtype=np.int64)
    places = np.arange(visited.size)
    np.minimum.at(first, visited // shard, places)
    np.maximum.at(last, visited // shard, places)
    assert (last - first).max() < size + shard


@pytest.mark.parametrize("block", [40, 200])
def test_inside_a_block_every_row_is_equally_likely_in_every_place(block):
    """The first row drawn in many epochs is any row of the domain alike, and so is the 20th."""
    order = order_of({"a": np.array([10] * 20)}, block=block, seed=8)
    ordinals = np.arange(2_000) * 200
    zero = np.zeros_like(ordinals)
    for place in (0, 20, 199):
        counts = np.bincount(order.rows(zero, zero, ordinals + place), minlength=200)
        assert chisquare(counts).pvalue > 1e-4


def test_two_consecutive_draws_are_any_pair_of_rows_of_a_block():
    order = order_of({"a": np.array([4] * 2)}, seed=8)
    ordinals = np.arange(60_000) * 8
    zero = np.zeros_like(ordinals)
    first, second = order.rows(zero, zero, ordinals), order.rows(zero, zero, ordinals + 1)
    pairs = np.bincount(first * 8 + second, minlength=64).reshape(8, 8)
    assert (pairs.diagonal() == 0).all()
    assert chisquare(pairs[~np.eye(8, dtype=bool)]).pvalue > 1e-4


@pytest.mark.parametrize("block", [1 << 18, 64])
def test_epochs_seeds_nodes_and_domains_have_unrelated_orders(block):
    layout = {"a": np.array([16] * 32), "b": np.array([16] * 32)}
    size = 256  # rows of a slice
    order, other = (order_of(layout, seed=s, nodes=2, block=block) for s in (1, 2))
    base = np.array(epoch_rows(order, 0, 0, 0))
    others = {
        "epoch": epoch_rows(order, 0, 0, 1),
        "late epoch": epoch_rows(order, 0, 0, 2**40 // size),
        "seed": epoch_rows(other, 0, 0, 0),
        "node": np.array(epoch_rows(order, 0, 1, 0)) - size,
        "domain": epoch_rows(order, 1, 0, 0),
    }
    for name, rows in others.items():
        assert sorted(rows) == sorted(base), name
        assert (np.array(rows) == base).sum() < 10, name  # 1 by chance


def test_two_domains_of_one_layout_differ_because_of_their_names_alone():
    rows = np.array([50])
    one = order_of({"x": rows, "y": rows})
    assert epoch_rows(one, 0, 0, 0) != epoch_rows(one, 1, 0, 0)
    assert epoch_rows(order_of({"y": rows}), 0, 0, 0) == epoch_rows(one, 1, 0, 0)


@settings(deadline=None, max_examples=60)
@given(
    layout=layouts(max_domains=3),
    other=layouts(),
    seed=seeds(),
    nodes=node_counts,
    block=block_rows,
    before=st.booleans(),
)
def test_other_domains_do_not_change_the_order_inside_a_domain(
    layout, other, seed, nodes, block, before
):
    added = {name: rows for name, rows in other.items() if name not in layout}
    wider = {**added, **layout} if before else {**layout, **added}
    alone = order_of(layout, seed=seed, nodes=nodes, block=block)
    among = order_of(wider, seed=seed, nodes=nodes, block=block)
    for k, name in enumerate(layout):
        place = list(wider).index(name)
        for node in range(nodes):
            for epoch in (0, 3):
                mine = epoch_rows(alone, k, node, epoch)
                assert epoch_rows(among, place, node, epoch) == mine


@settings(deadline=None, max_examples=60)
@given(layout=layouts(), seed=seeds(), nodes=node_counts, block=block_rows, data=st.data())
def test_empty_shards_change_nothing(layout, seed, nodes, block, data):
    def with_empty(rows):
        place = data.draw(st.integers(0, rows.size))
        return np.insert(rows, place, 0)

    padded = {name: with_empty(rows) for name, rows in layout.items()}
    plain, gaps = (order_of(x, seed=seed, nodes=nodes, block=block) for x in (layout, padded))
    for k in range(len(layout)):
        for node in range(nodes):
            assert epoch_rows(plain, k, node, 1) == epoch_rows(gaps, k, node, 1)


def test_the_order_of_rows_never_changes_between_versions():
    layout = {"web": np.array([5, 4, 6]), "code": np.array([9])}
    blocked = order_of(layout, seed=17, block=5)
    whole = order_of(layout, seed=17, nodes=2)
    assert epoch_rows(blocked, 0, 0, 0) == GOLDEN["blocked"]
    assert epoch_rows(blocked, 0, 0, 1) == GOLDEN["blocked, epoch 1"]
    assert epoch_rows(whole, 0, 1, 0) == GOLDEN["whole, node 1"]
    assert epoch_rows(whole, 1, 0, 0) == GOLDEN["code"]
