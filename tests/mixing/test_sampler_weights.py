"""Weights through a sampler: drawn shares, every form, refusals that change nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mixstream import MixSampler, WeightsError
from tests.mixing.support import LAYOUT, rows_of
from tests.strategies import layout_weights, layouts, sampler_settings


@pytest.mark.parametrize("k", [1, 2, 22, 1000])
@pytest.mark.parametrize("stratum", [None, 4096])
def test_drawn_counts_pass_a_chi_square(k, stratum):
    layout = {f"d{i}": np.array([50, 50]) for i in range(k)}
    weights = np.random.default_rng(k).dirichlet(np.full(k, 2.0))
    sampling = "independent" if stratum is None else "stratified"
    sampler = MixSampler(layout, weights, seed=11, sampling=sampling, stratum=stratum)
    counts = np.bincount(sampler.take(409_600)["domain"], minlength=k)
    assert counts.tolist() == sampler.counts.tolist()
    expected = weights / weights.sum() * 409_600
    if k > 1:
        assert chisquare(counts, expected).pvalue > 1e-4
    if stratum is not None:
        assert np.abs(counts - expected).max() <= 100


def test_every_row_of_a_domain_is_drawn_equally_often_after_whole_epochs():
    sampler = MixSampler(LAYOUT, [0, 1, 0], seed=2)
    taken = sampler.take(30 * 7)
    assert (np.bincount(taken["row"]) == 7).all()
    assert sampler.epochs.tolist() == [0, 7, 0]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), layout=layouts(min_domains=2))
def test_weight_0_is_never_drawn(data, layout):
    options = data.draw(sampler_settings(layout))
    weights = data.draw(layout_weights(layout))
    sampler = MixSampler(layout, weights, **options)
    try:
        taken = sampler.take(200)
    except WeightsError:
        assume(False)
    assert (weights[taken["domain"]] > 0).all()
    num_rows = sampler.num_rows[taken["domain"]]
    assert ((taken["row"] >= 0) & (taken["row"] < num_rows)).all()


def test_no_weights_draw_every_domain_by_its_share_of_the_rows():
    sampler = MixSampler({**LAYOUT, "none": np.array([], dtype=np.int64)})
    assert sampler.weights.tolist() == (np.array([65, 30, 11, 0]) / 106).tolist()


@pytest.mark.parametrize(
    "weights",
    [
        {"books": 0.0, "web": 1, "code": 3},
        [1, 3, 0],
        np.array([1, 3, 0], dtype=np.float32),
        torch.tensor([1.0, 3.0, 0.0], requires_grad=True),
        torch.tensor([1, 3, 0], dtype=torch.int8),
    ],
    ids=["mapping", "list", "ndarray", "tensor with grad", "integer tensor"],
)
def test_every_form_of_weights_gives_the_same_run(weights):
    sampler, reference = MixSampler(LAYOUT, weights), MixSampler(LAYOUT, [0.25, 0.75, 0.0])
    assert sampler.fingerprint == reference.fingerprint
    sampler.set_weights(weights)
    assert sampler.weights.tolist() == [0.25, 0.75, 0.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"web": 1, "code": 1}, "domain 'books' is missing in weights"),
        ({"web": 1, "code": 1, "books": 1, "wiki": 1}, "unknown domain 'wiki' in weights"),
        ([1, math.nan, 1], "weight of domain 'code' in weights is nan"),
        ([1, 1, math.inf], "weight of domain 'books' in weights is inf"),
        (torch.tensor([1.0, -1.0, 1.0]), "weight of domain 'code' in weights is -1.0"),
        (np.zeros(3), "all weights in weights are 0"),
        ([1, 1], r"weights has shape \(2,\)"),
        (np.ones((3, 1)), r"weights has shape \(3, 1\)"),
        ("web", "weights is 'web', which is not one number a domain"),
    ],
)
def test_wrong_weights_are_refused_and_the_old_ones_stay(weights, message):
    sampler, untouched = (MixSampler(LAYOUT, [1, 2, 3], seed=1) for _ in range(2))
    for one in (sampler, untouched):
        one.take(10)
        one.set_weights([3, 2, 1], at_row=20)
    for at_row in (None, 10, 20, 40):
        with pytest.raises(WeightsError, match=message):
            sampler.set_weights(weights, at_row=at_row)
    with pytest.raises(WeightsError, match=message):
        MixSampler(LAYOUT, weights)
    assert sampler.fingerprint == untouched.fingerprint
    assert len(sampler.planned) == 1
    assert rows_of(sampler.take(50)) == rows_of(untouched.take(50))


def test_a_positive_weight_on_a_domain_without_rows_is_refused():
    layout = {"web": np.array([3]), "empty": np.array([0, 0]), "none": np.array([], dtype=int)}
    for k, name in ((1, "empty"), (2, "none")):
        with pytest.raises(WeightsError, match=f"weight of domain '{name}' .* holds no rows"):
            MixSampler(layout, np.eye(3)[k] + [1, 0, 0])
    assert set(MixSampler(layout, [1, 0, 0]).take(100)["domain"].tolist()) == {0}
    assert set(MixSampler(layout).take(100)["domain"].tolist()) == {0}


def test_arrays_that_a_caller_changes_do_not_change_the_run():
    layout = {name: rows.copy() for name, rows in LAYOUT.items()}
    weights = np.array([0.5, 0.5, 0.0])
    sampler, untouched = MixSampler(layout, weights), MixSampler(LAYOUT, [0.5, 0.5, 0.0])
    weights[:] = [0, 0, 1]
    layout["web"][:] = 1
    sampler.weights[:] = 0
    sampler.counts[:] = 5
    mark = sampler.mark()
    assert rows_of(sampler.take(40)) == rows_of(untouched.take(40))
    sampler.rewind(mark)
    sampler.take(10)
    sampler.rewind(mark)
    assert sampler.counts.sum() == 0


def test_the_weights_of_a_change_that_a_caller_changes_do_not_change_the_run():
    """`w = change.weights; w[0] *= 2; set_weights(w)` is what a tuning loop writes."""
    sampler = MixSampler(LAYOUT, [1, 0, 0])
    change = sampler.set_weights([0, 1, 0])
    try:
        change.weights[:] = [0, 0, 1]
        sampler.set_weights([1, 0, 0], at_row=10).weights[:] = [0, 0, 1]
        sampler.planned[0].weights[:] = [0, 0, 1]
    except ValueError:
        pass  # read-only arrays would do, too
    assert sampler.weights.tolist() == [0, 1, 0]
    assert sampler.take(20)["domain"].tolist() == [1] * 10 + [0] * 10
