"""Data Mixing Laws, Olmix and the convex solver under both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.convex import capped_minimum, capped_softmax, improvement_bound
from mixstream.algorithms.mixing_law_fit import (
    MixingLaws,
    fit_exponential_law,
    fit_mixing_laws,
)
from mixstream.algorithms.mixing_laws import DataMixingLaws, best_mixture
from mixstream.algorithms.olmix import Olmix, olmix_objective, olmix_weights
from mixstream.algorithms.simplex import capped_weights, softmax
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle, simplexes, vectors


def law(slope):
    slope = np.atleast_2d(np.array(slope, float))
    zeros = np.zeros(len(slope))
    return MixingLaws(floor=zeros, slope=slope, error=zeros, spread=zeros + 1)


def huber_mean(errors, delta):
    size = np.abs(errors)
    return float(np.where(size < delta, size**2 / 2, delta * (size - delta / 2)).mean())


def test_the_solver_by_hand():
    weights = capped_minimum(
        lambda x: (float(x[1]), np.array([0.0, 1.0])),
        np.full(2, 0.5),
        np.full(2, np.inf),
        prior=np.full(2, 0.5),
        kl_weight=1.0,
    )
    assert weights == pytest.approx(np.array([np.e, 1]) / (np.e + 1), rel=1e-10)


def test_the_solvers_parts_by_hand():
    no_caps = np.full(2, np.inf)
    assert improvement_bound(np.array([0.0, 1.0]), np.array([0.5, 0.5]), no_caps) == 0.5
    capped = improvement_bound(np.array([0.0, 1.0]), np.array([0.5, 0.5]), np.array([0.7, 1.0]))
    assert capped == pytest.approx(0.2)
    far = capped_softmax(np.array([0.0, -1000.0, -1000.0]), np.array([0.5, 1.0, 1.0]))
    assert far.tolist() == [0.5, 0.25, 0.25]
    barred = capped_softmax(np.array([0.0, -np.inf, -900.0]), np.array([0.5, 1.0, 1.0]))
    assert barred == pytest.approx([0.5, 0.0, 0.5])


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 12), spread=st.sampled_from([1.0, 30.0, 1e4]))
def test_capped_softmax_is_the_capped_weights_of_the_softmax(data, k, spread):
    logits, caps = spread * data.draw(vectors(k, -1, 1)), 1 / k + data.draw(vectors(k, 0, 1))
    found = capped_softmax(logits, caps)
    assert_on_simplex(found, k)
    assert (found <= caps).all()
    if spread <= 30:
        assert found == pytest.approx(capped_weights(softmax(logits), caps), rel=1e-9, abs=1e-12)


def test_the_best_mixture_by_hand():
    ones = np.ones(1)
    assert best_mixture(law([0, np.log(2)]), ones, np.full(2, np.inf)) == pytest.approx([1, 0])
    capped = best_mixture(law([0, np.log(2)]), ones, np.array([0.6, 1.0]))
    assert capped == pytest.approx([0.6, 0.4])
    # exp(-x) + exp(-2 (1 - x)): x = 2 - ln 2 - 2 x.
    both = best_mixture(law([[-1, 0], [0, -2]]), np.full(2, 0.5), np.full(2, np.inf))
    assert both[0] == pytest.approx((2 - np.log(2)) / 3, abs=1e-9)


def test_five_domain_fits_are_as_good_as_the_refined_ones():
    case = oracle("data_mixing_laws_5mix")
    runs = np.array([[float(share) for share in row.split("-")] for row in case["ratios"]])
    delta = case["huber_delta"]
    for fit in case["fits"].values():
        observed = np.array(fit["obs"])
        laws = fit_mixing_laws(runs, observed, huber_delta=delta)
        predicted = laws.losses(runs)[:, 0]
        assert huber_mean(predicted - observed, delta) <= fit["refined_huber_mean"] * (1 + 1e-6)
        log_c, log_k, *slope = fit["refined"]
        refined = np.exp(log_c) + np.exp(log_k + runs @ np.array(slope))
        assert predicted == pytest.approx(refined, abs=1e-4)
        assert predicted == pytest.approx(fit["pred"], abs=5e-4)
        assert not laws.degenerate.any()


def test_two_domain_fits_equal_the_published_ones():
    case = oracle("data_mixing_laws_2mix")
    for fit in case["fits"]:
        x, y = np.array(fit["x"]), np.array(fit["y"])
        found = fit_exponential_law(x, y)
        assert found.floor == pytest.approx(fit["best_c"], abs=1e-12)
        assert found.correlation == pytest.approx(fit["max_corr"], rel=1e-10)
        slope, intercept = fit["float64_huber_k_b"]
        assert found.slope == pytest.approx(slope, rel=1e-6)
        assert found.intercept == pytest.approx(intercept, rel=1e-6)
        published = fit["model"], fit["domain"], fit["step"]
        assert found.degenerate == (published == ("160M", "Pile-CC", 10000))


def test_free_two_domain_fits_are_as_good_as_the_oracles():
    for fit in oracle("data_mixing_laws_2mix")["fits"]:
        x, y = np.array(fit["x"]), np.array(fit["y"])
        runs = np.column_stack((x, 1 - x))
        predicted = fit_mixing_laws(runs, y).losses(runs)[:, 0]
        floor, slope, intercept = fit["free_c_k_b"]
        free = floor + np.exp(slope * x + intercept)
        assert huber_mean(predicted - y, 0.02) <= huber_mean(free - y, 0.02) * (1 + 1e-6)


def test_the_critical_proportion_is_found():
    case = oracle("data_mixing_laws_critical")
    found = fit_exponential_law(case["pile_proportion"], case["pile_loss"])
    assert found.floor == pytest.approx(case["best_c"], rel=1e-9)
    assert found.slope == pytest.approx(case["rerun_float64"]["k"], rel=1e-6)
    critical = found.proportion(case["original_loss"])
    assert critical == pytest.approx(case["rerun_float64"]["critical"], rel=1e-6)
    assert np.isnan(found.proportion(found.floor))


def test_olmix_equals_two_other_solvers():
    case = oracle("olmix_exact")
    slopes, prior = np.array(case["A"]), np.array(case["prior_q"])
    for expected in case["cases"]:
        method = Olmix(prior, kl_weight=expected["kl_reg"], caps=expected["caps"])
        weights = method.update(slopes)
        assert weights == pytest.approx(expected["x"], abs=1e-8)
        objective = olmix_objective(weights, slopes, prior, expected["kl_reg"])
        assert objective == pytest.approx(expected["objective"], rel=1e-10)


def test_olmix_without_losses_to_tell_stays_at_its_prior():
    prior = np.array([0.5, 0.3, 0.2, 0.0])
    assert olmix_weights(np.zeros((1, 4)), prior) == pytest.approx(prior, abs=1e-12)
    moved = olmix_weights(np.array([[0.0, 0.0, 0.0, -9.0]]), prior)
    assert moved[3] == 0.0


@pytest.mark.parametrize("kl", [0.0, 0.05, 1.0])
def test_olmix_leaves_out_a_domain_whose_cap_or_prior_is_0_and_decides_among_the_others(kl):
    slopes = np.array([[-0.5, -9.0, 0.3, 0.1], [0.2, -9.0, 0.1, -0.4]])
    others = [0, 2, 3]
    alone = Olmix([0.5, 0.2, 0.3], kl_weight=kl, caps=[0.6, 1, 1]).update(slopes[:, others])
    for prior, caps in (([5, 9, 2, 3], [0.6, 0, 1, 1]), ([5, 0, 2, 3], [0.6, 1, 1, 1])):
        found = Olmix(prior, kl_weight=kl, caps=caps).update(slopes)
        assert found[1] == 0
        assert found[others] == pytest.approx(alone, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), k=st.integers(1, 8), m=st.integers(1, 4), kl=st.sampled_from([0.0, 0.05, 1]))
def test_olmix_keeps_caps_commutes_and_no_mixture_is_better(data, k, m, kl):
    slopes = data.draw(vectors(m * k, -3, 3)).reshape(m, k)
    prior = data.draw(simplexes(k, floor=0.05))
    caps = 1 / k + data.draw(vectors(k, 0, 1))
    weights = Olmix(prior, kl_weight=kl, caps=caps).update(slopes)
    assert_on_simplex(weights, k)
    assert (weights <= caps + 1e-12).all()
    terms = np.exp(slopes @ weights) / m
    gradient = terms @ slopes
    if kl:
        gradient = gradient + kl * (np.log(np.maximum(weights, 1e-300) / prior) + 1)
    # The Frank-Wolfe gap bounds how much any other mixture could be better.
    best, room = np.zeros(k), 1.0
    for i in np.argsort(gradient):
        best[i] = min(caps[i], room)
        room -= best[i]
    assert gradient @ (weights - best) < 1e-5
    order = np.array(data.draw(st.permutations(range(k))))
    permuted = Olmix(prior[order], kl_weight=kl, caps=caps[order]).update(slopes[:, order])
    if kl:
        assert permuted == pytest.approx(weights[order], abs=1e-6)


def test_the_best_of_known_laws_is_found_from_runs():
    rng = np.random.default_rng(11)
    runs = rng.dirichlet(np.ones(3), 30)
    truth = np.array([[-2.0, 0.5, 0.0], [0.0, -1.5, 0.3]])
    losses = np.array([2.0, 1.0]) + np.exp(runs @ truth.T)
    method = DataMixingLaws(runs, importance=[1, 3])
    weights = method.update(losses)
    expected = best_mixture(law(truth), np.array([0.25, 0.75]), np.full(3, np.inf))
    assert weights == pytest.approx(expected, abs=1e-4)
    assert method.laws is not None
    assert method.laws.floor == pytest.approx([2.0, 1.0], abs=1e-3)
    twin = DataMixingLaws(runs, importance=[1, 3])
    twin.load_state_dict(method.state_dict())
    assert np.array_equal(twin.weights, weights)


def test_a_law_that_explains_nothing_is_called_degenerate():
    rng = np.random.default_rng(1)
    runs = rng.dirichlet(np.ones(3), 40)
    laws = fit_mixing_laws(runs, 3 + 0.1 * rng.standard_normal(40))
    assert laws.degenerate.tolist() == [True]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([1.0, np.nan, 1.0, 1.0], "losses is nan"),
        ([1.0, 1.0], r"losses has shape \(2, 1\)"),
        (np.ones((4, 2)), "importance holds 1 numbers for 2"),
    ],
)
def test_losses_that_do_not_fit_are_refused_and_the_weights_stay(losses, message):
    method = DataMixingLaws(np.full((4, 2), 0.5), importance=[1.0])
    with pytest.raises(WeightsError, match=message):
        method.update(losses)
    assert method.weights.tolist() == [0.5, 0.5]


def test_too_few_runs_and_bad_settings_are_refused():
    with pytest.raises(WeightsError, match="2 runs cannot fix 4 numbers"):
        fit_mixing_laws(np.full((2, 3), 1 / 3), [1.0, 2.0])
    with pytest.raises(WeightsError, match="P >= 3 runs"):
        fit_exponential_law([0.1, 0.2], [1.0, 2.0])
    with pytest.raises(WeightsError, match="one row a run"):
        DataMixingLaws([0.5, 0.5])
    with pytest.raises(WeightsError, match="infeasible"):
        Olmix([0.5, 0.5], caps=[0.1, 0.2])
    with pytest.raises(WeightsError, match=r"caps have shape \(1,\)"):
        Olmix([0.5, 0.5], caps=[1.0])
    olmix = Olmix([0.5, 0.5], domains=("web", "code"))
    with pytest.raises(WeightsError, match=r"slopes is nan at domain 1 \('code'\)"):
        olmix.update([[0.1, np.nan]])
    with pytest.raises(WeightsError, match="importance holds 2 numbers for 1"):
        olmix.update([[0.1, 0.2]], importance=[1, 1])
    assert olmix.weights.tolist() == [0.5, 0.5]
