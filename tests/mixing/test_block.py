"""What a domain draws next, block by block: the rows that drawing gives, and nothing is drawn."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import MixSampler
from mixstream.mixing.order import RowOrder
from tests.mixing.test_order import drawn, order_of
from tests.strategies import layouts, seeds

node_counts = st.sampled_from([1, 2, 3, 7])
block_rows = st.sampled_from([1, 2, 5, 20, 100, 1 << 18])


def by_blocks(order: RowOrder, domain: int, node: int, first: int, num_rows: int) -> list[int]:
    """Rows of consecutive draws, from blocks."""
    rows: list[int] = []
    while len(rows) < num_rows:
        ordinal = first + len(rows)
        block = order.block(domain, node, ordinal)
        assert block.first_draw <= ordinal < block.first_draw + block.num_rows
        rows += block.rows(ordinal - block.first_draw, block.num_rows).tolist()
    return rows[:num_rows]


@settings(deadline=None, max_examples=150)
@given(
    layout=layouts(),
    seed=seeds(),
    nodes=node_counts,
    shuffle=st.booleans(),
    block=block_rows,
    data=st.data(),
)
def test_blocks_hold_the_rows_that_are_drawn(layout, seed, nodes, shuffle, block, data):
    order = order_of(layout, seed=seed, nodes=nodes, shuffle=shuffle, block=block)
    untouched = order_of(layout, seed=seed, nodes=nodes, shuffle=shuffle, block=block)
    for _ in range(3):
        domain = data.draw(st.integers(0, len(layout) - 1))
        node = data.draw(st.integers(0, nodes - 1))
        size = int(order.slices.num_rows[node, domain])
        if size == 0:
            assert order.block(domain, node, 0) is None
            continue
        first = data.draw(st.integers(0, 3 * size))
        expected = drawn(untouched, domain, node, first, 2 * size)
        assert by_blocks(order, domain, node, first, 2 * size) == expected
        assert drawn(order, domain, node, first, 2 * size) == expected


def test_a_block_by_hand():
    # one domain, three shards of 5 rows, blocks of 5: each shard is a block
    order = order_of({"d": np.array([5, 5, 5])}, block=5)
    block = order.block(0, 0, 7)
    assert (block.first_draw, block.num_rows, block.run_start.tolist()) == (5, 5, [0])
    first = int(block.run_row[0])
    assert sorted(block.rows(0, 5).tolist()) == list(range(first, first + 5))
    assert block.rows(2, 3).tolist() == drawn(order, 0, 0, 7, 1)
    straight = order_of({"d": np.array([5, 5, 5])}, shuffle=False)
    assert straight.block(0, 0, 31).first_draw == 30
    assert straight.block(0, 0, 31).rows(1, 4).tolist() == [1, 2, 3]


def test_looking_ahead_of_a_sampler_draws_nothing():
    layout = {"a": np.full(20, 50), "b": np.array([7])}
    options = {"seed": 3, "num_canonical_nodes": 2, "shuffle_block_rows": 100}
    sampler, twin = MixSampler(layout, **options), MixSampler(layout, **options)
    sampler.take(333), twin.take(333)
    version = sampler.version
    for ordinal in range(0, 5000, 100):
        assert sampler.coming_block(0, 1, ordinal) is not None
    assert sampler.version == version
    assert sampler.take(5000).tolist() == twin.take(5000).tolist()


def test_the_weights_that_come_are_those_of_the_next_changes():
    sampler = MixSampler({"a": np.array([9]), "b": np.array([9])}, [1.0, 0.0])
    for at_row in (5, 20, 30):
        sampler.set_weights([1.0, at_row], at_row=at_row)
    sampler.take(6)
    found = sampler.coming_weights(1)
    assert [(row, weights.round(3).tolist()) for row, weights in found] == [
        (6, [0.167, 0.833]),
        (20, [0.048, 0.952]),
    ]
    assert [row for row, _ in sampler.coming_weights(8)] == [6, 20, 30]


def test_what_a_domain_has_left_ends_with_its_last_epoch():
    layout = {"a": np.array([9]), "b": np.array([9, 9])}
    sampler = MixSampler(layout, num_canonical_nodes=2, max_epochs={"a": 2})
    size = int(sampler.coming_block(0, 0, 0).num_rows)
    assert sampler.coming_block(0, 0, 2 * size - 1) is not None
    assert sampler.coming_block(0, 0, 2 * size) is None
    assert sampler.coming_block(1, 1, 10**9) is not None
