import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixstream.algorithms.autoscale import (
    AutoScale,
    AutoScaleWarning,
    autoscale_counts,
    autoscale_exponent,
)
from mixstream.algorithms.ddo import (
    PowerLaws,
    ddo_counts,
    ddo_weights,
    fit_joint_law,
    fit_power_laws,
)
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle, vectors


def laws(offset, exponent, scale=None):
    offset, exponent = np.array(offset, float), np.array(exponent, float)
    scale = None if scale is None else np.array(scale, float)
    return PowerLaws(offset=offset, exponent=exponent, floor=np.zeros(len(offset)), scale=scale)


def test_ddo_by_hand():
    assert ddo_counts(laws([0, 0], [1, 1], [1, 4]), 3.0) == pytest.approx([1, 2], rel=1e-12)
    # (n + 1)^-1 twice with 4 times the scale: n + 1 is as 1 : 2, so 5 = 5/3 + 10/3.
    assert ddo_counts(laws([1, 1], [1, 1], [1, 4]), 3.0) == pytest.approx([2 / 3, 7 / 3])
    assert ddo_counts(laws([1, 1], [1, 1], [1, 4]), 3.0, lower=1.0) == pytest.approx([1, 2])
    assert ddo_counts(laws([1, 1], [1, 1], [1, 4]), 3.0, upper=2.0) == pytest.approx([1, 2])
    assert ddo_counts(laws([1, 1], [1, 1], [1, 400]), 3.0) == pytest.approx([0, 3])


def test_two_scale_law_by_hand():
    first, second = np.array([1.0, 1.0]), np.array([2.0, 8.0])
    assert autoscale_counts(first, second, 2.0) == pytest.approx([4, 64], rel=1e-12)
    assert autoscale_exponent(first, second, 68.0) == pytest.approx(2.0, rel=1e-12)


def test_the_published_fit_and_its_optimum_are_found():
    case = oracle("autoscale_ddo")
    fit = fit_power_laws(case["x_scale_points"], case["y_normalised"], domains=case["domains"])
    assert fit.offset == pytest.approx(case["published_fit"]["a"], rel=1e-6)
    observed = np.array(case["y_normalised"])
    for x, y in zip(case["x_scale_points"], observed.T, strict=True):
        assert fit.loss(np.full(7, x)) == pytest.approx(y, rel=1e-9)
    for lower, key in ((0.2, "lo_0.2"), (0.0, "lo_0")):
        expected = case["kkt_exact"][key]["n"]
        assert ddo_counts(fit, 7.0, lower=lower) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        weights = ddo_weights(case["x_scale_points"], observed, np.ones(7), min_multiple=lower)
        assert weights == pytest.approx(case[f"weights_{key}"], rel=1e-9, abs=1e-12)
    free = case["active_set_gd"]["free"]
    published = case["active_set_gd"]["published_final"]
    assert ddo_counts(fit, 7.0, lower=0.2)[free] == pytest.approx(published, rel=1e-7)


def test_the_other_exact_fit_has_its_own_optimum():
    case = oracle("autoscale_ddo")
    roots = np.array(case["exact_interpolation_roots_a_b_c"])[:, 0]
    other = PowerLaws(offset=roots[:, 0], exponent=roots[:, 1], floor=roots[:, 2])
    expected = case["alternative_fit_optimum_lo_0.2"]["n"]
    assert ddo_counts(other, 7.0, lower=0.2) == pytest.approx(expected, rel=1e-9)


def test_the_multiple_is_what_the_caller_says():
    case = oracle("autoscale_ddo")
    third = case["if_x_were_one_third"]
    fit = fit_power_laws(third["x"], case["y_normalised"])
    assert fit.offset == pytest.approx(third["a"], rel=1e-6)
    assert fit.exponent == pytest.approx(third["b"], rel=1e-6)
    for lower, key in ((1 / 3, "n_lo_1/3"), (0.2, "n_lo_0.2")):
        assert ddo_counts(fit, 7.0, lower=lower) == pytest.approx(third[key], rel=1e-6)


def test_the_law_reproduces_the_published_extrapolation():
    case = oracle("autoscale_extrapolation")
    first, second = np.array(case["n_0.3B"]), np.array(case["n_1.2B"])
    rerun = case["rerun"]
    for power, expected, total in zip(range(2, 6), rerun["steps"], rerun["sums"], strict=True):
        assert autoscale_counts(first, second, power) == pytest.approx(expected, rel=1e-10)
        scaled = AutoScale(first, second)
        assert scaled.counts(total) == pytest.approx(expected, rel=1e-10)
        assert scaled.update(total) == pytest.approx(rerun["weights"][power - 2], rel=1e-10)
    assert AutoScale(first, second).counts(rerun["mid_sum"]) == pytest.approx(
        rerun["mid_0.6B"], rel=1e-10
    )


def test_the_law_is_exact_where_the_loss_has_no_offset():
    case = oracle("autoscale_extrapolation")["theory_synthetic"]
    synthetic = laws(np.zeros(3), case["gamma"], case["beta"])
    first, second = ddo_counts(synthetic, case["N1"]), ddo_counts(synthetic, case["N2"])
    assert first == pytest.approx(case["opt1"], rel=1e-10)
    assert second == pytest.approx(case["opt2"], rel=1e-10)
    third = AutoScale(first, second).counts(case["N3"])
    assert third == pytest.approx(case["opt3_direct"], rel=1e-10)
    assert third == pytest.approx(ddo_counts(synthetic, case["N3"]), rel=1e-10)


def test_a_joint_law_predicts_the_runs_that_it_was_fitted_to():
    case = oracle("autoscale_joint_fit_olmix")
    fit = fit_joint_law(case["X"], case["y"], case["N"])
    predicted = np.array([fit.loss(case["N"] * np.array(x)).sum() for x in case["X"]])
    rmse = np.sqrt(np.mean((predicted - case["y"]) ** 2))
    assert rmse < 1.1 * case["rmse"]
    expected = case["fit"]
    reference = PowerLaws(
        offset=np.array(expected["alpha"]) * case["N"],
        exponent=np.array(expected["gamma"]),
        floor=np.full(3, expected["L"] / 3),
    )
    assert ddo_counts(fit, 50.0) == pytest.approx(ddo_counts(reference, 50.0), rel=0.01)


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 12))
def test_ddo_keeps_bounds_and_total_and_no_move_gains(data, k):
    law = laws(
        data.draw(vectors(k, 0.05, 5)),
        data.draw(vectors(k, 0.1, 3)),
        data.draw(vectors(k, 0.1, 3)),
    )
    low, high = data.draw(vectors(k, 0, 0.9)), 1.0 + data.draw(vectors(k, 0, 3))
    total = float(k)
    assume(low.sum() < total < high.sum())
    n = ddo_counts(law, total, lower=low, upper=high)
    assert n.sum() == pytest.approx(total, rel=1e-9)
    assert (n >= low).all()
    assert (n <= high).all()
    slope = law.scale * law.exponent * (n + law.offset) ** (-law.exponent - 1)
    gives, takes = n > low + 1e-9, n < high - 1e-9
    if gives.any() and takes.any():
        assert slope[takes].max() <= slope[gives].min() * (1 + 1e-6)
    order = np.array(data.draw(st.permutations(range(k))))
    permuted = laws(law.offset[order], law.exponent[order], law.scale[order])
    again = ddo_counts(permuted, total, lower=low[order], upper=high[order])
    assert again == pytest.approx(n[order], rel=1e-7, abs=1e-9)


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 12), budget=st.floats(0.5, 1e6))
def test_autoscale_fills_any_budget_it_can_reach(data, k, budget):
    first = data.draw(vectors(k, 0.1, 1))
    second = first * data.draw(vectors(k, 0.5, 9))
    assume(second.sum() > 1.01 * first.sum())
    scaled = AutoScale(first, second)
    try:
        counts = scaled.counts(budget)
    except WeightsError:
        assert budget < first.sum()
    else:
        assert counts.sum() == pytest.approx(budget, rel=1e-6)
        assert_on_simplex(scaled.update(budget), k)


def test_a_budget_out_of_reach_is_refused():
    # 2^s + 2^-s is 2 at least.
    scaled = AutoScale([1.0, 1.0], [2.0, 0.5])
    with pytest.raises(WeightsError, match=r"never sum to less than 2\b"):
        scaled.update(1.9)
    assert scaled.weights.tolist() == [0.8, 0.2]
    with pytest.raises(WeightsError, match="budget is nan"):
        scaled.update(np.nan)


def test_a_domain_that_is_nowhere_stays_nowhere():
    assert AutoScale([1.0, 0.0, 1.0], [2.0, 0.0, 3.0]).update(100.0)[1] == 0.0


def test_a_domain_at_its_bound_is_named():
    case = oracle("autoscale_extrapolation")
    first, second = np.array(case["n_0.3B"]), np.array(case["n_1.2B"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AutoScale(
            first,
            second,
            first_lower=0.2 * 0.3 / 7,
            second_lower=0.2 * 1.2 / 7,
            domains=case["domains"],
        )
    assert [w.category for w in caught] == [AutoScaleWarning] * 2
    assert "first scale: domain 1 ('github');" in str(caught[0].message)
    assert "'github'), domain 6 ('arxiv')" in str(caught[1].message)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 0.0], [2.0, 1.0], "domain 1 is 0 at one scale alone"),
        ([1.0, 1.0], [1.0, 0.5], "is not above the first"),
        ([1.0, -1.0], [1.0, 0.5], "negative"),
        ([1.0, np.nan], [1.0, 0.5], "first is nan at domain 1"),
        ([1.0], [1.0, 0.5], r"second has shape \(2,\)"),
    ],
)
def test_counts_without_a_law_are_refused(first, second, message):
    with pytest.raises(WeightsError, match=message):
        AutoScale(first, second)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([[1.0, 1.0, 1.1], [1.1, 1.0, 0.9]], r"no law .* of domain 0 \('web'\)"),
        ([[1.1, 1.0, 0.95], [1.1, np.nan, 0.9]], r"losses is nan at domain 1 \('code'\)"),
        ([[1.1, 1.0]], "P >= 3 runs"),
    ],
)
def test_losses_without_a_law_are_refused(losses, message):
    with pytest.raises(WeightsError, match=message):
        fit_power_laws([0.2, 1.0, 3.0], losses, domains=("web", "code"))


def test_bounds_without_room_are_refused():
    law = laws([1, 1], [1, 1])
    with pytest.raises(WeightsError, match="lower bounds sum to 4"):
        ddo_counts(law, 3.0, lower=2.0)
    with pytest.raises(WeightsError, match="upper bounds sum to 2"):
        ddo_counts(law, 3.0, upper=1.0)
    with pytest.raises(WeightsError, match="undefined at its lower bound"):
        ddo_counts(laws([-0.1, 1], [1, 1]), 3.0)
    with pytest.raises(WeightsError, match="total is 0"):
        ddo_counts(law, 0.0)
