import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.simplex import epoch_caps
from mixstream.algorithms.utilimax import (
    UtiliMax,
    medu_utilities,
    utilimax_objective,
    utilimax_weights,
)
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle, vectors


def test_utilimax_by_hand():
    utilities = np.array([[1.0], [0.0]])
    assert utilimax_objective(np.array([0.5, 0.5]), utilities, risk=1.0) == pytest.approx(1.5)
    # w = [x, 1 - x]: (1 - x) + 2 (x^2 + (1 - x)^2) has slope 8 x - 5.
    assert utilimax_weights(utilities, np.ones(2)) == pytest.approx([5 / 8, 3 / 8], abs=1e-9)
    # squared: (1 - x)^2 + 2 (x^2 + (1 - x)^2) has slope 10 x - 6.
    squared = utilimax_weights(utilities, np.ones(2), squared=True)
    assert squared == pytest.approx([0.6, 0.4], abs=1e-9)
    capped = utilimax_weights(utilities, np.array([0.55, 1.0]))
    assert capped == pytest.approx([0.55, 0.45], abs=1e-9)
    assert medu_utilities([[1, 0, 0, 0, 3]]) == pytest.approx([0.25])


def test_utilimax_equals_two_other_solvers():
    cases = oracle("utilimax_medu")
    for case in cases["cases"]:
        method = UtiliMax(
            case["sizes"],
            budget=case["budget"],
            max_epochs=case["max_epochs"],
            squared=case["squared_utility"],
        )
        weights = method.update(case["U"])
        assert weights == pytest.approx(case["w"], abs=1e-6)
        objective = utilimax_objective(
            weights, np.array(case["U"]), risk=1.0, squared=case["squared_utility"]
        )
        assert objective <= case["objective"] + 1e-9
    infeasible = cases["infeasible"]
    with pytest.raises(WeightsError, match=r"infeasible.*upper bounds to 0\.12"):
        UtiliMax(
            infeasible["sizes"], budget=infeasible["budget"], max_epochs=infeasible["max_epochs"]
        )


def test_medu_labels_become_utilities():
    medu = oracle("utilimax_medu")["medu"]
    counts = list(medu["counts_great_good_okay_poor_useless"].values())
    assert medu_utilities(counts) == pytest.approx(list(medu["rescaled_0_1"].values()), rel=1e-10)
    mean = 1 + 4 * medu_utilities(counts)
    assert mean == pytest.approx(list(medu["mean_score"].values()), rel=1e-10)
    assert list(medu["label_score"].values()) == [5, 4, 3, 2, 1]


def test_without_risk_the_best_domain_takes_what_its_cap_allows():
    utilities = np.array([[0.9], [0.1], [0.2]])
    weights = utilimax_weights(utilities, np.array([0.7, 1.0, 1.0]), risk=0.0)
    assert weights == pytest.approx([0.7, 0.0, 0.3], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), k=st.integers(1, 8), t=st.integers(1, 4), squared=st.booleans())
def test_no_small_move_within_the_caps_is_better(data, k, t, squared):
    utilities = data.draw(vectors(k * t, 0, 1)).reshape(k, t)
    caps = 1 / k + data.draw(vectors(k, 0, 1))
    weights = utilimax_weights(utilities, caps, squared=squared)
    assert_on_simplex(weights, k)
    assert (weights <= caps + 1e-12).all()
    best = utilimax_objective(weights, utilities, risk=1.0, squared=squared)
    for i in range(k):
        for j in range(k):
            moved = weights.copy()
            step = min(1e-4, weights[i], max(caps[j] - weights[j], 0.0))
            moved[i] -= step
            moved[j] += step
            value = utilimax_objective(moved, utilities, risk=1.0, squared=squared)
            assert value >= best - 1e-10


def test_the_even_weights_under_the_caps_hold_until_the_first_utilities():
    method = UtiliMax([10, 1000, 1000], budget=100, max_epochs=1)
    assert method.weights == pytest.approx([0.1, 0.45, 0.45])
    assert epoch_caps([10, 1000, 1000], 100, 1)[0] == 0.1


@pytest.mark.parametrize(
    ("utilities", "message"),
    [
        ([0.1, np.nan], r"utilities is nan at domain 1 \('code'\)"),
        ([0.1], r"shape \(1,\) where \(2,\)"),
        ([[[0.1]], [[0.2]]], "shape"),
    ],
)
def test_bad_utilities_are_refused_and_the_weights_stay(utilities, message):
    method = UtiliMax([100, 100], budget=100, domains=("web", "code"))
    with pytest.raises(WeightsError, match=message):
        method.update(utilities)
    assert method.weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, 2, 3]], r"give \(K, 5\)"),
        ([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], "domain 1 has no labelled document"),
        ([[np.nan, 0, 0, 0, 0]], "label_counts is nan"),
    ],
)
def test_labels_without_a_utility_are_refused(counts, message):
    with pytest.raises(WeightsError, match=message):
        medu_utilities(counts)
