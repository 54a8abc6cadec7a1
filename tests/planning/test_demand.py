import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.mixing.order import RowOrder
from mixstream.mixing.sampler import MixSampler
from mixstream.planning.demand import Demand

LAYOUT = {"a": np.full(6, 50), "b": np.full(4, 30), "tiny": np.array([1])}
WEIGHTS = {"a": 0.5, "b": 0.4, "tiny": 0.1}


def make_demand(*, nodes, num_rows, drawn_rows, rows_per_step=4, changes=()):
    sampler = MixSampler(LAYOUT, WEIGHTS, seed=3, num_canonical_nodes=nodes)
    for at_row, weights in changes:
        sampler.set_weights(weights, at_row=at_row)
    order = RowOrder(
        LAYOUT, seed=3, num_canonical_nodes=nodes, shuffle=True, shuffle_block_rows=1 << 18
    )
    return order, Demand(
        sampler, order, num_rows=num_rows, drawn_rows=drawn_rows, rows_per_step=rows_per_step
    )


@settings(deadline=None, max_examples=30)
@given(nodes=st.sampled_from([1, 2, 4]), num_rows=st.integers(1, 400), change=st.integers(1, 400))
def test_drawn_stretches_tell_the_rows_that_a_sampler_draws(nodes, num_rows, change):
    changes = [(change, {"a": 0.1, "b": 0.9, "tiny": 0.0})]
    order, demand = make_demand(nodes=nodes, num_rows=num_rows, drawn_rows=10**9, changes=changes)
    sampler = MixSampler(LAYOUT, WEIGHTS, seed=3, num_canonical_nodes=nodes)
    sampler.set_weights(changes[0][1], at_row=change)
    draw = sampler.draw(num_rows)
    groups = order.groups(draw.domain, draw.node)
    (stretch,) = demand.stretches()
    assert (stretch.first_row, stretch.end_row) == (0, num_rows)
    for row, (group, ordinal) in enumerate(
        zip(groups.tolist(), draw.ordinal.tolist(), strict=True)
    ):
        assert stretch.row_of(group, ordinal) == row
        assert stretch.count_at(group, row) == ordinal
    assert stretch.after.sum() == num_rows


def test_expected_counts_go_on_from_drawn_ones_and_meet_every_change():
    changes = [(100, {"a": 1, "b": 0, "tiny": 0}), (300, {"a": 0, "b": 1, "tiny": 0})]
    _, demand = make_demand(nodes=1, num_rows=1000, drawn_rows=39, changes=changes)
    assert demand.num_drawn == 40
    drawn, first, second, third = demand.stretches()
    assert (drawn.first_row, drawn.end_row) == (0, 40)
    assert [(s.first_row, s.end_row) for s in (first, second, third)] == [
        (40, 100), (100, 300), (300, 1000)
    ]  # fmt: skip
    np.testing.assert_allclose(first.before, drawn.after)
    np.testing.assert_allclose(first.after, drawn.after + 60 * np.array([0.5, 0.4, 0.1]))
    np.testing.assert_allclose(third.after - first.after, [200, 700, 0])
    assert [row for row, _ in drawn.rates] == [0, 100, 300]
    # with weight 1 each row is a draw
    count = int(np.ceil(second.before[0]))
    assert second.row_of(0, count + 10) == pytest.approx(100 + 10 + count - second.before[0])
    assert second.count_at(0, 150) == pytest.approx(second.before[0] + 50)


def test_expected_rows_are_the_mean_of_drawn_ones():
    _, expected = make_demand(nodes=2, num_rows=4000, drawn_rows=0)
    (mean,) = expected.stretches()
    rows = []
    for seed in range(40):
        sampler = MixSampler(LAYOUT, WEIGHTS, seed=seed, num_canonical_nodes=2)
        draw = sampler.draw(4000)
        rows.append(np.flatnonzero((draw.domain == 1) & (draw.node == 1))[300])
    # the 301st draw of a domain of rate 0.2: some 39 rows of deviation, of the mean of 40: 6
    assert mean.row_of(1 * 3 + 1, 300) == pytest.approx(np.mean(rows), abs=25)
