"""max_epochs: no row more often than allowed, and the exact end of every policy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mixstream import MixSampler, WeightsError
from tests.mixing.support import rows_of
from tests.strategies import layouts, sampler_settings


@settings(deadline=None, max_examples=100)
@given(data=st.data(), layout=layouts())
def test_no_row_is_drawn_more_often_than_max_epochs(data, layout):
    options = data.draw(sampler_settings(layout, limits=False))
    cap = options["max_epochs"] = data.draw(st.integers(1, 3))
    options["on_exhausted"] = data.draw(st.sampled_from(["redistribute", "stop"]))
    sampler = MixSampler(layout, **options)
    taken = np.concatenate([sampler.take(n) for n in (1, 30, 1000)])
    for k, rows in enumerate(layout.values()):
        mine = taken["row"][taken["domain"] == k]
        assert np.bincount(mine, minlength=1).max() <= cap
        assert mine.size <= cap * rows.sum()


def test_a_domain_with_fewer_rows_than_nodes_keeps_its_max_epochs():
    """The class says: no row is drawn more often."""
    sampler = MixSampler({"a": np.array([3])}, num_canonical_nodes=4, max_epochs=1)
    assert np.bincount(sampler.take(100)["row"]).max() <= 1


@pytest.mark.parametrize("policy", ["redistribute", "stop"])
@pytest.mark.parametrize("stratum", [None, 4])
def test_one_domain_ends_exactly_after_its_epochs(policy, stratum):
    sampling = "independent" if stratum is None else "stratified"
    sampler = MixSampler(
        {"a": np.array([5, 2])},
        max_epochs=3,
        on_exhausted=policy,
        sampling=sampling,
        stratum=stratum,
    )
    assert sampler.take(20).size == 20
    assert sampler.take(20).size == 1
    assert sampler.row == 21
    assert sampler.take(1).size == 0
    assert sampler.take(0).size == 0
    assert sampler.epochs.tolist() == [3.0]


def test_raise_draws_nothing_and_names_domain_epochs_and_row():
    sampler = MixSampler({"a": np.array([5, 2])}, max_epochs=3, on_exhausted="raise")
    sampler.take(10)
    message = r"domain 'a' has reached its max_epochs of 3 before row 21; set its weight to 0"
    with pytest.raises(WeightsError, match=message):
        sampler.take(12)
    assert sampler.row == 10
    assert sampler.take(11).size == 11
    with pytest.raises(WeightsError, match=message):
        sampler.take(1)
    assert sampler.take(0).size == 0


def test_redistribute_gives_the_weight_to_the_others_in_proportion():
    layout = {"small": np.array([10]), "b": np.array([10**6]), "c": np.array([10**6])}
    sampler = MixSampler(layout, [0.5, 0.3, 0.2], max_epochs={"small": 2}, seed=5)
    taken = sampler.take(100_000)["domain"]
    last = np.flatnonzero(taken == 0)[-1]
    assert (taken == 0).sum() == 20
    after = np.bincount(taken[last + 1 :], minlength=3)
    assert chisquare(after[1:], np.array([0.6, 0.4]) * after.sum()).pvalue > 1e-4
    assert sampler.weights.tolist() == [0.5, 0.3, 0.2]  # as they were asked for


def test_redistribute_takes_hold_at_the_row_after_the_last_one():
    """Up to there the run is the run without caps."""
    layout = {"small": np.array([10]), "b": np.array([1000])}
    capped = MixSampler(layout, [0.5, 0.5], max_epochs={"small": 1}, seed=5).take(200)
    free = MixSampler(layout, [0.5, 0.5], seed=5).take(200)
    last = int(np.flatnonzero(free["domain"] == 0)[9])
    assert rows_of(capped[: last + 1]) == rows_of(free[: last + 1])
    assert (capped["domain"][last + 1 :] == 1).all()


def test_stop_ends_before_the_first_row_that_cannot_be_drawn_and_goes_on_with_other_weights():
    layout = {"small": np.array([10]), "b": np.array([1000])}
    free = MixSampler(layout, [0.5, 0.5], seed=5).take(200)
    eleventh = int(np.flatnonzero(free["domain"] == 0)[10])
    sampler = MixSampler(layout, [0.5, 0.5], seed=5, max_epochs={"small": 1}, on_exhausted="stop")
    assert rows_of(sampler.take(500)) == rows_of(free[:eleventh])
    assert sampler.take(500).size == 0
    assert sampler.set_weights({"small": 0, "b": 1}).at_row == eleventh
    assert (sampler.take(500)["domain"] == 1).all()
    assert sampler.row == eleventh + 500


@pytest.mark.parametrize("policy", ["redistribute", "stop", "raise"])
def test_all_weight_on_exhausted_domains_is_refused(policy):
    layout = {"a": np.array([4]), "b": np.array([100])}
    sampler = MixSampler(layout, [1, 0], max_epochs={"a": 1}, on_exhausted=policy)
    assert sampler.take(4).size == 4
    with pytest.raises(WeightsError, match=r"every domain of positive weight has .*: a\. Give"):
        sampler.set_weights([1, 0])
    sampler.set_weights([0, 1])
    assert (sampler.take(9)["domain"] == 1).all()


def test_a_rewind_gives_exhausted_domains_back():
    layout = {"a": np.array([4]), "b": np.array([100])}
    sampler = MixSampler(layout, [0.9, 0.1], max_epochs={"a": 1})
    mark = sampler.mark()
    first = rows_of(sampler.take(30))
    assert sum(d == 0 for d, _ in first) == 4
    sampler.rewind(mark)
    assert rows_of(sampler.take(30)) == first
