"""P1 to P3: the order is arithmetic, weights change the interleaving alone and say from where."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import MixSampler, StepError, WeightsError
from tests.mixing.support import LAYOUT, naive_rows, rows_of
from tests.strategies import layout_weights, layouts, sampler_settings

GOLDEN_INDEPENDENT = [
    (0, 7),
    (2, 8),
    (0, 4),
    (1, 27),
    (2, 6),
    (0, 47),
    (1, 0),
    (1, 21),
    (0, 10),
    (1, 29),
    (2, 0),
    (2, 7),
    (2, 5),
    (2, 10),
    (1, 7),
    (2, 9),
]
GOLDEN_STRATIFIED = [
    (1, 2),
    (1, 16),
    (0, 25),
    (0, 13),
    (0, 2),
    (2, 9),
    (2, 0),
    (0, 20),
    (1, 15),
    (0, 33),
    (0, 39),
    (1, 13),
]


@settings(deadline=None, max_examples=100)
@given(data=st.data(), layout=layouts())
def test_rows_are_those_of_a_run_drawn_one_by_one(data, layout):
    """Every setting, changes at any row, takes of any size, against the specification."""
    options = data.draw(sampler_settings(layout))
    weights = data.draw(layout_weights(layout))
    sampler = MixSampler(layout, weights, **options)
    log = {0: sampler.weights}
    for at_row in sorted(data.draw(st.sets(st.integers(1, 120), max_size=3))):
        change = sampler.set_weights(data.draw(layout_weights(layout)), at_row=at_row)
        log[change.at_row] = change.weights
    expected = naive_rows(layout, log, 150, options)
    got: list[tuple[int, int]] = []
    while len(got) < 150:
        size = min(data.draw(st.integers(0, 60)) or 1, 150 - len(got))
        try:
            part = rows_of(sampler.take(size))
        except WeightsError:  # on_exhausted="raise": all rows before it can still be had
            assert options["on_exhausted"] == "raise"
            assert sampler.row == len(got)
            part = rows_of(sampler.take(len(expected) - len(got)))
            assert len(part) < size
            got += part
            with pytest.raises(WeightsError, match=f"before row {len(got)};"):
                sampler.take(1)
            break
        got += part
        if len(part) < size:
            assert options.get("on_exhausted") in {"stop", "redistribute"}
            assert sampler.take(5).size == 0
            break
    assert got == expected
    assert sampler.row == len(got)
    assert sampler.counts.tolist() == [sum(d == k for d, _ in got) for k in range(len(layout))]


@settings(deadline=None, max_examples=60)
@given(layout=layouts(), sizes=st.lists(st.integers(0, 90), max_size=8), data=st.data())
def test_rows_do_not_depend_on_how_take_is_split(layout, sizes, data):
    options = data.draw(sampler_settings(layout, limits=False))
    parts = MixSampler(layout, **options)
    taken = [rows_of(parts.take(size)) for size in sizes]
    whole = MixSampler(layout, **options)
    assert list(itertools.chain(*taken)) == rows_of(whole.take(sum(sizes)))
    assert parts.fingerprint == whole.fingerprint


@settings(deadline=None, max_examples=60)
@given(
    layout=layouts(),
    data=st.data(),
    at_row=st.integers(0, 100),
    decided_at=st.integers(0, 100),
)
def test_rows_do_not_depend_on_when_a_change_was_decided(layout, data, at_row, decided_at):
    decided_at = min(decided_at, at_row)
    options = data.draw(sampler_settings(layout, limits=False))
    old, new = data.draw(layout_weights(layout)), data.draw(layout_weights(layout))
    early, late = MixSampler(layout, old, **options), MixSampler(layout, old, **options)
    early.set_weights(new, at_row=at_row)
    first = rows_of(late.take(decided_at))
    late.set_weights(new, at_row=at_row)
    assert rows_of(early.take(150)) == first + rows_of(late.take(150 - decided_at))
    assert early.fingerprint == late.fingerprint


def test_the_order_of_a_run_never_changes_between_versions():
    options = {"seed": 17, "num_canonical_nodes": 2, "shuffle_block_rows": 20}
    sampler = MixSampler(LAYOUT, [0.5, 0.3, 0.2], **options)
    sampler.set_weights([0.1, 0.1, 0.8], at_row=10)
    assert rows_of(sampler.take(16)) == GOLDEN_INDEPENDENT
    sampler = MixSampler(LAYOUT, [0.5, 0.3, 0.2], sampling="stratified", stratum=10, seed=17)
    assert rows_of(sampler.take(12)) == GOLDEN_STRATIFIED


def test_another_seed_draws_another_order():
    first, second = (MixSampler(LAYOUT, seed=seed).take(100) for seed in (0, 2**64 - 1))
    assert (first == second).mean() < 0.2


@settings(deadline=None, max_examples=60)
@given(data=st.data(), layout=layouts())
def test_weights_never_change_the_order_inside_a_domain_on_a_node(data, layout):
    options = data.draw(sampler_settings(layout, limits=False))
    nodes = options["num_canonical_nodes"]
    steady = MixSampler(layout, **options)
    steered = MixSampler(layout, data.draw(layout_weights(layout)), **options)
    for at_row in data.draw(st.lists(st.integers(0, 300), max_size=4)):
        steered.set_weights(data.draw(layout_weights(layout)), at_row=at_row)
    first, second = steady.take(400), steered.take(400)
    for k, rows in enumerate(layout.values()):
        shared = rows.sum() < nodes  # too few rows to slice: one order for all nodes together
        for start, step in [(0, 1)] if shared else [(node, nodes) for node in range(nodes)]:
            mine, other = (
                x[start::step]["row"][x[start::step]["domain"] == k].tolist()
                for x in (first, second)
            )
            common = min(len(mine), len(other))
            assert mine[:common] == other[:common]


@pytest.mark.parametrize("nodes", [1, 4])
def test_every_row_comes_once_before_any_comes_twice_through_all_changes(nodes):
    """Per canonical node; the domains have rows enough for every node to own a slice."""
    layout = {"a": np.array([30] * 4), "b": np.array([25]), "c": np.array([3, 3, 2])}
    sampler = MixSampler(layout, num_canonical_nodes=nodes, seed=4, shuffle_block_rows=16)
    rng = np.random.default_rng(0)
    taken = []
    for _ in range(100):
        sampler.set_weights(rng.dirichlet(np.ones(3)))
        taken.append(sampler.take(int(rng.integers(0, 60))))
    rows = np.concatenate(taken)
    for k in range(3):
        owned = []
        for node in range(nodes):
            own = rows[node::nodes]
            mine = own["row"][own["domain"] == k]
            size = len(set(mine.tolist()))
            owned += sorted(set(mine.tolist()))
            for start in range(0, mine.size, size):
                part = mine[start : start + size]
                assert np.unique(part).size == part.size
        assert sorted(owned) == list(range(sampler.num_rows[k]))


def test_a_change_acts_at_exactly_the_row_returned():
    sampler = MixSampler(LAYOUT, {"web": 1, "code": 0, "books": 0})
    assert set(sampler.take(37)["domain"].tolist()) == {0}
    change = sampler.set_weights({"web": 0, "code": 1, "books": 0}, reason="eval at step 500")
    assert (change.at_row, change.reason) == (37, "eval at step 500")
    assert change.weights.tolist() == [0, 1, 0]
    assert (change.at_step, change.num_batches_in_flight) == (None, 0)
    assert sampler.weights.tolist() == [0, 1, 0]
    assert set(sampler.take(100)["domain"].tolist()) == {1}


def test_planned_changes_wait_for_their_rows_in_any_order_of_planning():
    sampler = MixSampler(LAYOUT, [1, 0, 0])
    late = sampler.set_weights([0, 0, 1], at_row=60)
    early = sampler.set_weights([0, 1, 0], at_row=50, reason="ramp")
    assert sampler.weights.tolist() == [1, 0, 0]
    assert [(c.at_row, c.reason) for c in sampler.planned] == [(50, "ramp"), (60, "")]
    assert (early.at_row, late.at_row) == (50, 60)
    domains = sampler.take(70)["domain"].tolist()
    assert domains == [0] * 50 + [1] * 10 + [2] * 10
    assert sampler.planned == ()


def test_a_change_between_two_planned_ones_leaves_the_later_one():
    sampler = MixSampler(LAYOUT, [1, 0, 0])
    sampler.set_weights([0, 0, 1], at_row=20)
    sampler.take(10)
    sampler.set_weights([0, 1, 0])
    assert sampler.take(20)["domain"].tolist() == [1] * 10 + [2] * 10


def test_a_second_change_for_the_same_row_replaces_the_first():
    sampler = MixSampler(LAYOUT, [1, 0, 0])
    sampler.set_weights([0, 1, 0], at_row=5, reason="first")
    sampler.set_weights([0, 0, 1], at_row=5, reason="second")
    assert [change.reason for change in sampler.planned] == ["second"]
    assert [change["reason"] for change in sampler.state_dict()["changes"]] == ["second"]
    once = MixSampler(LAYOUT, [1, 0, 0])
    once.set_weights([0, 0, 1], at_row=5)
    assert sampler.fingerprint == once.fingerprint
    assert rows_of(sampler.take(9)) == rows_of(once.take(9))


def test_a_drawn_row_cannot_be_changed_and_the_next_one_can():
    sampler = MixSampler(LAYOUT)
    sampler.take(30)
    before = sampler.fingerprint
    message = r"weights for row 29 come too late: the rows before 30 are drawn\. Plan them for row"
    with pytest.raises(StepError, match=message + " 30 or later"):
        sampler.set_weights([1, 0, 0], at_row=29)
    with pytest.raises(StepError, match="row -1 come too late"):
        sampler.set_weights([1, 0, 0], at_row=-1)
    assert sampler.fingerprint == before
    assert sampler.set_weights([1, 0, 0], at_row=30).at_row == 30


@pytest.mark.parametrize("at_row", [13, 14, 15, 16])
def test_a_change_in_the_middle_of_a_stratum_acts_at_its_row(at_row):
    options = {"sampling": "stratified", "stratum": 10}
    sampler = MixSampler(LAYOUT, [0.5, 0.5, 0], **options)
    sampler.take(3)
    sampler.set_weights([0, 0, 1], at_row=at_row)
    domains = np.concatenate([sampler.take(n)["domain"] for n in (8, 9, 10)])
    assert (domains[: at_row - 3] != 2).all()
    assert (domains[at_row - 3 :] == 2).all()


@pytest.mark.parametrize("integer", [np.int64, np.int32])
def test_rows_from_numpy_arithmetic_are_rows(integer):
    """at_row is often computed (steps * batch): the state stays JSON, the fingerprint works."""
    sampler, plain = MixSampler(LAYOUT), MixSampler(LAYOUT)
    sampler.set_weights([1, 0, 0], at_row=integer(7))
    plain.set_weights([1, 0, 0], at_row=7)
    assert json.loads(json.dumps(sampler.state_dict())) == plain.state_dict()
    assert sampler.fingerprint == plain.fingerprint


def test_settings_from_numpy_arithmetic_are_settings():
    options = {"seed": 3, "num_canonical_nodes": 2, "max_epochs": 2, "shuffle_block_rows": 9}
    plain = MixSampler(LAYOUT, **options)
    sampler = MixSampler(LAYOUT, **{name: np.int64(value) for name, value in options.items()})
    assert rows_of(sampler.take(20)) == rows_of(plain.take(20))
    assert json.loads(json.dumps(sampler.state_dict())) == plain.state_dict()
    assert sampler.fingerprint == plain.fingerprint
