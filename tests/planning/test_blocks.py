import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.mixing.order import RowOrder
from mixstream.planning.blocks import ShardBlocks
from tests.strategies import layouts, seeds


def make_blocks(layout, *, seed=0, nodes=1, block_rows=1 << 18, shuffle=True):
    order = RowOrder(
        layout,
        seed=seed,
        num_canonical_nodes=nodes,
        shuffle=shuffle,
        shuffle_block_rows=block_rows,
    )
    return order, ShardBlocks(order, layout, shuffle_block_rows=block_rows)


def drawn_shards(order, layout, domain, node, num_draws):
    """The shard of each of the first draws, from the rows themselves."""
    ordinals = np.arange(num_draws)
    rows = order.rows(np.full(num_draws, domain), np.full(num_draws, node), ordinals)
    return np.searchsorted(np.cumsum(list(layout.values())[domain]), rows, side="right").tolist()


@settings(deadline=None, max_examples=60)
@given(
    layout=layouts(),
    seed=seeds(),
    nodes=st.sampled_from([1, 2, 3, 7]),
    block_rows=st.sampled_from([1, 3, 10, 40, 1 << 18]),
    shuffle=st.booleans(),
)
def test_blocks_tell_every_shard_and_its_first_draw(layout, seed, nodes, block_rows, shuffle):
    order, blocks = make_blocks(
        layout, seed=seed, nodes=nodes, block_rows=block_rows, shuffle=shuffle
    )
    for domain, node in itertools.product(range(len(layout)), range(nodes)):
        size = int(order.slices.num_rows[node, domain])
        if size == 0:
            assert list(blocks.blocks(domain, node)) == []
            continue
        drawn = drawn_shards(order, layout, domain, node, 3 * size)
        end = 0
        for block in blocks.blocks(domain, node):
            assert block.start == end
            end = min(block.end, len(drawn))
            here = drawn[block.start : end]
            assert block.shards.tolist() == list(dict.fromkeys(here))
            assert [drawn.index(s, block.start) for s in block.shards.tolist()] == (
                block.draws.tolist()
            )
            if end == len(drawn):
                break


def test_without_shuffling_each_shard_is_a_block_and_a_slice_of_one_shard_has_no_end():
    layout = {"a": np.array([3, 0, 2]), "b": np.array([4])}
    _, blocks = make_blocks(layout, shuffle=False)
    found = [
        (block.start, block.end, block.shards.tolist(), block.draws.tolist())
        for block in itertools.islice(blocks.blocks(0, 0), 3)
    ]
    assert found == [(0, 3, [0], [0]), (3, 5, [2], [3]), (5, 8, [0], [5])]
    (block,) = blocks.blocks(1, 0)
    assert (block.start, block.shards.tolist()) == (0, [0])


@pytest.mark.parametrize(("shuffle", "ends"), [(True, [3, 6, 9, 12]), (False, [3, 6, 9, 12])])
def test_blocks_end_where_a_domain_is_exhausted(shuffle, ends):
    layout = {"a": np.array([3, 3])}
    order, _ = make_blocks(layout, block_rows=3, shuffle=shuffle)
    blocks = ShardBlocks(order, layout, shuffle_block_rows=3, num_draws=np.array([[12]]))
    assert [block.end for block in blocks.blocks(0, 0)] == ends


@settings(deadline=None, max_examples=60)
@given(data=st.data(), layout=layouts(max_domains=2), block_rows=st.sampled_from([3, 1 << 18]))
def test_the_next_draw_of_a_shard_is_the_next_one(data, layout, block_rows):
    order, blocks = make_blocks(layout, block_rows=block_rows)
    domain = int(np.argmax([rows.sum() for rows in layout.values()]))
    drawn = drawn_shards(order, layout, domain, 0, 200)
    shard = data.draw(st.sampled_from(sorted(set(drawn))))
    start = data.draw(st.integers(0, 199))
    end = data.draw(st.integers(start, 200))
    expected = next((at for at in range(start, end) if drawn[at] == shard), None)
    assert blocks.next_draw(domain, 0, shard, start, end) == expected
