import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.simplex import (
    bounded_projection,
    capped_weights,
    epoch_caps,
    exponentiated_gradient,
    log_weights,
    normalized,
    smoothed,
    softmax,
    uniform_weights,
)
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, simplexes, sparse_simplexes, vectors

sizes = st.integers(1, 30)


def test_softmax_by_hand():
    assert softmax(np.array([0.0, np.log(3), -np.inf])) == pytest.approx([0.25, 0.75, 0.0])
    assert normalized(np.array([1.0, 3.0])).tolist() == [0.25, 0.75]
    assert uniform_weights(4).tolist() == [0.25] * 4


def test_softmax_survives_huge_logits_and_refuses_infinite_ones():
    assert softmax(np.array([1e300, 0.0])).tolist() == [1.0, 0.0]
    with pytest.raises(WeightsError, match="too large"):
        softmax(np.array([np.inf, 0.0]))
    with pytest.raises(WeightsError, match="too large"):
        softmax(np.array([np.nan, 0.0]))


def test_uniform_weights_need_a_domain():
    with pytest.raises(WeightsError, match="num_domains is 0"):
        uniform_weights(0)


def test_exponentiated_gradient_by_hand():
    logits = log_weights(np.array([0.5, 0.5]))
    new = np.exp(exponentiated_gradient(logits, np.array([np.log(3), 0.0]), step_size=1.0))
    assert new == pytest.approx([0.75, 0.25], rel=1e-12)


def test_exponentiated_gradient_never_underflows():
    logits = log_weights(np.array([0.5, 0.5]))
    for _ in range(10):
        logits = exponentiated_gradient(logits, np.array([1000.0, 0.0]), step_size=1.0)
    for _ in range(10):
        logits = exponentiated_gradient(logits, np.array([-1000.0, 0.0]), step_size=1.0)
    assert np.exp(logits) == pytest.approx([0.5, 0.5], rel=1e-9)


def test_exponentiated_gradient_refuses_a_step_out_of_float64():
    with pytest.raises(WeightsError, match="smaller step size"):
        exponentiated_gradient(np.zeros(2), np.array([1e308, 0.0]), step_size=1e10)


@settings(deadline=None)
@given(data=st.data(), k=st.integers(2, 20))
def test_absent_domains_keep_their_weight(data, k):
    weights = data.draw(sparse_simplexes(k))
    present = np.array(data.draw(st.lists(st.booleans(), min_size=k, max_size=k)))
    gain = data.draw(vectors(k))
    if not present.any():
        present[0] = True
    logits = exponentiated_gradient(log_weights(weights), gain, step_size=1.0, present=present)
    new = np.exp(logits)
    assert_on_simplex(new, k)
    assert new[~present] == pytest.approx(weights[~present], rel=1e-9)
    assert (new[weights == 0] == 0).all()


@settings(deadline=None)
@given(data=st.data(), k=sizes, smoothing=st.floats(0, 1))
def test_smoothed_stays_above_its_floor(data, k, smoothing):
    new = smoothed(data.draw(sparse_simplexes(k)), smoothing)
    assert_on_simplex(new, k)
    assert (new >= smoothing / k - 1e-15).all()


def test_bounded_projection_by_hand():
    point = np.array([0.8, 0.6])
    assert bounded_projection(point) == pytest.approx([0.6, 0.4], rel=1e-12)
    assert bounded_projection(point, upper=0.55) == pytest.approx([0.55, 0.45], rel=1e-12)
    assert bounded_projection(point, lower=0.45) == pytest.approx([0.55, 0.45], rel=1e-12)
    mixed = bounded_projection(np.array([9.0, -9.0, 0.0]), upper=[0.2, np.inf, np.inf])
    assert mixed == pytest.approx([0.2, 0.0, 0.8])
    far = bounded_projection(np.array([5.0, 1.0, 2.0]), upper=[1.0, np.inf, np.inf], total=100)
    assert far == pytest.approx([1.0, 49.0, 50.0])


@settings(deadline=None)
@given(data=st.data(), k=sizes)
def test_bounded_projection_is_nearest(data, k):
    """No move of mass from one domain to another within the bounds brings it nearer."""
    point = data.draw(vectors(k, -5, 5))
    low, high = 0.5 / k * data.draw(vectors(k, 0, 1)), 1 / k + data.draw(vectors(k, 0, 1))
    x = bounded_projection(point, lower=low, upper=high)
    assert x.sum() == pytest.approx(1.0, abs=1e-9)
    assert (x >= low - 1e-15).all()
    assert (x <= high + 1e-15).all()
    pull = point - x
    gives, takes = x > low + 1e-9, x < high - 1e-9
    if gives.any() and takes.any():
        assert pull[takes].max() <= pull[gives].min() + 1e-7


def test_bounded_projection_refuses_bounds_without_room():
    with pytest.raises(WeightsError, match="infeasible"):
        bounded_projection(np.zeros(3), upper=0.3)
    with pytest.raises(WeightsError, match="infeasible"):
        bounded_projection(np.zeros(3), lower=0.4)
    with pytest.raises(WeightsError, match=r"domain 1 \('code'\) is above"):
        bounded_projection(np.zeros(2), lower=[0, 0.5], upper=[1, 0.4], domains=("web", "code"))


def test_capped_weights_by_hand():
    new = capped_weights(np.array([0.6, 0.3, 0.1]), np.array([0.3, 1.0, 1.0]))
    assert new == pytest.approx([0.3, 0.525, 0.175], rel=1e-12)
    # The first cap pushes the second domain over its own: 0.525 > 0.4.
    new = capped_weights(np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.4, 1.0]))
    assert new == pytest.approx([0.3, 0.4, 0.3], rel=1e-12)


@settings(deadline=None)
@given(data=st.data(), k=sizes)
def test_capped_weights_keep_the_caps_and_the_proportions(data, k):
    weights = data.draw(sparse_simplexes(k))
    caps = data.draw(vectors(k, 0.0, 1.0))
    room = caps[weights > 0].sum()
    if room < 1.0:
        caps = caps + (1.0 - room + 1e-6)
    new = capped_weights(weights, caps)
    assert_on_simplex(new, k)
    assert (new <= caps).all()
    free = (new < caps) & (weights > 0)
    if free.any():
        levels = new[free] / weights[free]
        assert levels == pytest.approx(np.full(free.sum(), levels[0]), rel=1e-9)
        capped = (new >= caps) & (weights > 0)
        assert (caps[capped] / weights[capped] <= levels[0] * (1 + 1e-9)).all()


@settings(deadline=None)
@given(data=st.data(), k=sizes)
def test_caps_out_of_reach_change_nothing(data, k):
    weights = data.draw(simplexes(k))
    assert capped_weights(weights, np.full(k, np.inf)) == pytest.approx(weights, rel=1e-12)


@settings(deadline=None)
@given(data=st.data(), k=sizes)
def test_capping_and_projecting_commute_with_a_permutation(data, k):
    order = np.array(data.draw(st.permutations(range(k))))
    weights, caps = data.draw(simplexes(k)), 1 / k + data.draw(vectors(k, 0, 1))
    assert capped_weights(weights[order], caps[order]) == pytest.approx(
        capped_weights(weights, caps)[order], rel=1e-9
    )
    assert bounded_projection(weights[order] * 2, upper=caps[order]) == pytest.approx(
        bounded_projection(weights * 2, upper=caps)[order], abs=1e-9
    )


def test_weights_next_to_nothing_are_shared_out_without_overflow():
    new = capped_weights(np.array([1.0, 1e-310, 1e-310]), np.array([0.5, 1.0, 1.0]))
    assert new == pytest.approx([0.5, 0.25, 0.25])


def test_infeasible_caps_name_the_tightest():
    with pytest.raises(WeightsError, match=r"sum to 0\.5.*tightest at domain 1 \('code'\), 0\.1"):
        capped_weights(
            np.array([0.5, 0.5, 0.0]), np.array([0.4, 0.1, 1.0]), domains=("web", "code", "wiki")
        )


def test_epoch_caps_by_hand():
    assert epoch_caps([50, 2000], 1000, 4).tolist() == [0.2, 8.0]
    assert epoch_caps([50, 0, 7], 100, [1, np.inf, np.inf]).tolist() == [0.5, 0.0, np.inf]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1, 2], 10, 1), "sizes hold -1"),
        (([1, 2], 0, 1), "budget is 0"),
        (([1, 2], np.nan, 1), "budget is nan"),
        (([1, 2], 10, 0), "max_epochs is 0"),
        (([1, 2], 10, [1, 2, 3]), "each of the 2 domains"),
    ],
)
def test_epoch_caps_refuse_what_is_out_of_range(arguments, message):
    with pytest.raises(WeightsError, match=message):
        epoch_caps(*arguments)


def test_ten_thousand_domains_keep_their_caps():
    """benchmarks/algorithms.py says how long it takes."""
    rng = np.random.default_rng(5)
    weights = normalized(rng.random(10_000))
    caps = 2e-4 * rng.random(10_000) + 5e-5
    for found in (capped_weights(weights, caps), bounded_projection(weights, upper=caps)):
        assert found.sum() == pytest.approx(1.0)
        assert (found <= caps * (1 + 1e-12)).all()
