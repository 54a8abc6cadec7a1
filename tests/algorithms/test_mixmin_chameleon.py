import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.chameleon import Chameleon, leverage_scores
from mixstream.algorithms.convex import improvement_bound
from mixstream.algorithms.mixmin import MixMin, mixmin_loss, mixmin_step
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle, vectors


def test_mixmin_by_hand():
    half = np.full(2, 0.5)
    loss, gradient = mixmin_loss(half, np.log([[0.5], [0.25]]), np.ones(1))
    assert loss == pytest.approx(-np.log(3 / 8))
    assert gradient == pytest.approx([-4 / 3, -2 / 3])
    assert mixmin_step(half, np.log([[0.5], [0.5]]), np.ones(1)) == pytest.approx(half)
    # Two documents, each known to one model alone: equal weights.
    weights = MixMin(2).update(np.log([[0.5, 1e-9], [1e-9, 0.5]]))
    assert weights == pytest.approx(half, abs=1e-8)


def test_mixmin_equals_the_reference_code_and_its_optimum():
    case = oracle("mixmin")
    table, lengths = np.array(case["log_probs"]), np.array(case["lengths"])
    weights, wanted = (
        np.full(3, 1 / 3),
        dict(zip((0, 1, 2, 10, 100), case["iterates_at_0_1_2_10_100"], strict=True)),
    )
    for iteration in range(case["max_steps"] + 1):
        if iteration in wanted:
            assert weights == pytest.approx(wanted[iteration], rel=1e-10)
        weights = mixmin_step(weights, table, lengths, step_size=case["lr"])
    best = MixMin(3).update(table, lengths)
    assert best == pytest.approx(case["optimum_slsqp"], abs=1e-6)
    assert mixmin_loss(best, table, lengths)[0] <= case["optimum_loss"] + 1e-12


@pytest.mark.parametrize(
    ("table", "caps"),
    [  # found by the property below: a step so long that all but one weight underflowed
        ([[-5, 0], [0, 0], [0, 0], [0, 0], [-4, 0]], [1.2, 0.325, 0.325, 0.325, 1.2]),
        ([[0, -2.25, 0], [0, 0, 0], [0, 0, 0], [0, 0, -4], [0, 0, -4]], [1, 0.25, 0.25, 1, 1]),
    ],
)
def test_no_domain_is_lost_by_a_long_step(table, caps):
    weights = MixMin(len(table), caps=caps).update(table)
    gradient = mixmin_loss(weights, np.array(table, float), np.ones(len(table[0])))[1]
    assert improvement_bound(gradient, weights, np.array(caps)) < 1e-6


@settings(max_examples=40, deadline=None)
@given(data=st.data(), k=st.integers(1, 6), t=st.integers(1, 6))
def test_mixmin_keeps_its_caps_and_commutes(data, k, t):
    table = data.draw(vectors(k * t, -10, 0)).reshape(k, t)
    caps = 1 / k + data.draw(vectors(k, 0.01, 1))
    weights = MixMin(k, caps=caps).update(table)
    assert_on_simplex(weights, k)
    assert (weights <= caps + 1e-12).all()
    order = np.array(data.draw(st.permutations(range(k))))
    again = MixMin(k, caps=caps[order]).update(table[order])
    ones = np.ones(t)
    assert mixmin_loss(again, table[order], ones)[0] == pytest.approx(
        mixmin_loss(weights, table, ones)[0], abs=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.0, np.nan], [0.0, 0.0]],), "log_probabilities is nan at domain 0"),
        (([[0.0, -np.inf], [0.0, 0.0]],), "log_probabilities is -inf"),
        (([[0.0, 0.0]],), r"shape \(1, 2\)"),
        (([0.0, 0.0],), "log_probabilities"),
        (([[0.0, 0.0]] * 2, [1.0, 0.0]), "lengths hold 0"),
        (([[0.0, 0.0]] * 2, [1.0]), r"lengths has shape \(1,\)"),
    ],
)
def test_mixmin_refuses_and_the_weights_stay(arguments, message):
    method = MixMin(2)
    with pytest.raises(WeightsError, match=message):
        method.update(*arguments)
    assert method.weights.tolist() == [0.5, 0.5]


def test_chameleon_by_hand():
    assert leverage_scores(np.array([[1.0], [-1.0]]), ridge=1.0) == pytest.approx([0.5, 0.5])
    assert leverage_scores(np.ones((3, 2)), ridge=1.0) == pytest.approx([1 / 3] * 3)
    # Mean 1: centred [-1, -1, 2], one eigenvalue 6, scores as the squares 1 : 1 : 4.
    scores = leverage_scores(np.array([[0.0], [0.0], [3.0]]), ridge=1.0)
    assert scores == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_chameleon_equals_the_reference_code():
    case = oracle("chameleon")
    embeddings = np.array(case["domain_embeddings"])
    for expected in case["cases"]:
        ridge = expected["lambda_reg"]
        scores = leverage_scores(embeddings, ridge=ridge)
        assert scores == pytest.approx(expected["krls_normalised"], rel=1e-10)
        common = Chameleon(4, ridge=ridge).update(embeddings)
        assert common == pytest.approx(expected["pretrain_T5"], rel=1e-10)
        unusual = Chameleon(4, ridge=ridge, purpose="finetuning").update(embeddings)
        assert unusual == pytest.approx(expected["finetune_T0_2"], rel=1e-10)


@pytest.mark.parametrize("purpose", ["pretraining", "finetuning"])
@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 6))
def test_chameleon_stays_on_the_simplex(purpose, data, k):
    embeddings = data.draw(vectors(k * 3, -3, 3)).reshape(k, 3)
    method = Chameleon(k, purpose=purpose)
    assert_on_simplex(method.update(embeddings), k)
    twin = Chameleon(k, purpose=purpose)
    twin.load_state_dict(method.state_dict())
    assert np.array_equal(twin.weights, method.weights)


def test_chameleon_refuses_and_the_weights_stay():
    method = Chameleon(2, domains=("web", "code"))
    for embeddings, message in (
        ([[1.0], [np.nan]], r"embeddings is nan at domain 1 \('code'\)"),
        ([1.0, 2.0], r"embeddings has shape \(2,\)"),
        ([[1.0]], r"embeddings has shape \(1, 1\)"),
    ):
        with pytest.raises(WeightsError, match=message):
            method.update(embeddings)
    with pytest.raises(WeightsError, match="purpose is 'eval'"):
        Chameleon(2, purpose="eval")
    assert method.weights.tolist() == [0.5, 0.5]
