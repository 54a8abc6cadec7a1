import importlib.util
import sys

import numpy as np
import pytest

from mixstream.algorithms.regmix import (
    RegMix,
    best_of_simulated,
    lightgbm_predictor,
    regmix_mixtures,
    ridge_predictor,
)
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle

needs_lightgbm = pytest.mark.skipif(
    importlib.util.find_spec("lightgbm") is None, reason="lightgbm is not installed"
)


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    mixtures = rng.dirichlet(np.ones(4), 200)
    return mixtures, 2 + np.exp(-3 * mixtures[:, 0]) + 0.5 * mixtures[:, 1]


def test_ridge_by_hand():
    predict = ridge_predictor(np.eye(2), np.array([1.0, 3.0]), penalty=0.0)
    assert predict(np.array([[0.5, 0.5], [1.0, 0.0]])) == pytest.approx([2.0, 1.0])
    # Centred X is [[.5, -.5], [-.5, .5]], X'X + 1 has eigenvalue 2 along (1, -1): b = (-.5, .5).
    predict = ridge_predictor(np.eye(2), np.array([1.0, 3.0]), penalty=1.0)
    assert predict(np.eye(2)) == pytest.approx([1.5, 2.5])


@pytest.mark.slow
def test_the_published_mixtures_are_drawn_to_the_digit():
    case = oracle("regmix_dirichlet")
    constants = case["constants"]
    mixtures = regmix_mixtures(
        case["prior_normalised"],
        case["num_configs"],
        seed=constants["SEED"],
        temperature=constants["TEMP"],
        strengths=(constants["MIN_STRENGH"], constants["MAX_STRENGH"]),
        max_usage=constants["MAXIMUM_USAGE"],
        minimum=constants["MINIMUM"],
        oversampling=constants["SAMPLE_MULTIPLIER"],
    )
    assert mixtures[:3] == pytest.approx(np.array(case["first_configs"]), abs=1e-12)
    assert mixtures.sum(axis=1).min() == pytest.approx(case["row_sum_min"], abs=1e-12)
    assert mixtures.sum(axis=1).max() == pytest.approx(case["row_sum_max"], abs=1e-12)
    assert (mixtures > 0).sum(axis=1).mean() == pytest.approx(case["mean_nonzero"])
    assert (mixtures <= np.array(case["upper_bound"]) + constants["MINIMUM"]).all()


def test_drawn_mixtures_are_a_function_of_the_seed():
    first = regmix_mixtures([0.7, 0.3], 5, oversampling=10)
    assert np.array_equal(first, regmix_mixtures([0.7, 0.3], 5, oversampling=10))
    assert not np.array_equal(first, regmix_mixtures([0.7, 0.3], 5, oversampling=10, seed=1))
    with pytest.raises(WeightsError, match=r"of 20 draws keep the bounds and differ"):
        regmix_mixtures([0.5, 0.5], 20, oversampling=1, max_usage=1.0)


def test_the_best_of_the_simulated_have_the_least_loss():
    prior = np.array([0.5, 0.3, 0.2])
    weights = best_of_simulated(lambda rows: rows[:, 2], prior, num_simulated=2000, num_best=16)
    assert_on_simplex(weights, 3)
    assert weights[2] < 1e-3


def test_ridge_finds_the_domain_that_pays(runs):
    mixtures, losses = runs
    method = RegMix(np.ones(4), mixtures, regressor="ridge", num_simulated=5000, num_best=32)
    weights = method.update(losses)
    assert_on_simplex(weights, 4)
    assert weights[0] > 0.8
    again = RegMix(np.ones(4), mixtures, regressor="ridge", num_simulated=5000, num_best=32)
    again.load_state_dict(method.state_dict())
    assert np.array_equal(again.weights, weights)


def test_caps_are_kept_by_the_mean(runs):
    mixtures, losses = runs
    method = RegMix(
        np.ones(4), mixtures, regressor="ridge", caps=0.4, num_simulated=20000, num_best=16
    )
    assert (method.update(losses) <= 0.4).all()
    tight = RegMix(np.ones(4), mixtures, regressor="ridge", caps=0.2501, num_simulated=200)
    with pytest.raises(WeightsError, match="simulated mixtures keep the caps"):
        tight.update(losses)


def test_an_empty_domain_stays_out(runs):
    mixtures, losses = runs
    method = RegMix(
        [1.0, 0.0, 1.0, 1.0], mixtures, regressor="ridge", num_simulated=500, num_best=16
    )
    assert method.update(losses)[1] == pytest.approx(0.0, abs=1e-12)


def test_without_lightgbm_the_error_says_how_to_install_it(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ImportError, match=r"pip install 'lightgbm>=4\.5'"):
        lightgbm_predictor(*runs)


@needs_lightgbm
@pytest.mark.slow
def test_boosted_trees_rank_held_out_mixtures(runs):
    mixtures, losses = runs
    predict = lightgbm_predictor(
        mixtures[:150], losses[:150], validation=(mixtures[150:], losses[150:])
    )
    ranks = [np.argsort(np.argsort(x)) for x in (predict(mixtures[150:]), losses[150:])]
    assert np.corrcoef(*ranks)[0, 1] > 0.85


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regressor": "svm"}, "regressor is 'svm'"),
        ({"num_best": 0}, "num_best is 0"),
        ({"validation": ([[1.0, 1.0]], [1.0])}, r"validation mixtures have shape \(1, 2\)"),
    ],
)
def test_settings_out_of_range_are_refused(runs, settings, message):
    with pytest.raises(WeightsError, match=message):
        RegMix(np.ones(4), runs[0], **settings)


def test_bad_losses_are_refused_and_the_weights_stay(runs):
    method = RegMix(np.ones(4), runs[0], regressor="ridge")
    with pytest.raises(WeightsError, match="losses is nan at domain 3"):
        method.update(np.where(np.arange(200) == 3, np.nan, runs[1]))
    with pytest.raises(WeightsError, match=r"losses has shape \(4,\)"):
        method.update(np.ones(4))
    assert method.weights.tolist() == [0.25] * 4
