import json

import numpy as np
import pytest

from mixstream.algorithms.ado import ADO, MAX_BLOCKS, ado_preference, floored
from mixstream.algorithms.ado_law import ScalingLaws, fit_scaling_laws
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle


def test_ado_by_hand():
    half = np.array([0.5, 0.5])
    preference = ado_preference(np.ones(2), half, np.array([0.8, 0.2]))
    assert preference == pytest.approx([2 / 3, 1 / 3])
    assert ado_preference(np.zeros(2), half, half).tolist() == [0.5, 0.5]
    assert floored(np.array([0.995, 0.005]), 0.01) == pytest.approx([0.995 / 1.005, 0.01 / 1.005])
    laws = ScalingLaws(np.array([2.0]), np.array([4.0]), np.array([0.5]))
    assert laws.losses(4.0).tolist() == [4.0]
    assert laws.slopes(4.0).tolist() == [0.25]  # 0.5 * 2 / 4


def test_the_policy_equals_the_reference_code():
    case = oracle("ado")["policy_given_params"]
    parameters = np.array(case["params_loga_loge_alpha"])
    laws = ScalingLaws(np.exp(parameters[:, 1]), np.exp(parameters[:, 0]), parameters[:, 2])
    ado = ADO(case["prior_mu"], fit_every=10**9)
    ado.use_laws(laws, step=case["steps"][0]["itr"] - 1, num_rows=case["initial_n_total"])
    for step in case["steps"]:
        weights = ado.update(step["task_loss_last"], step["batch_counts"])
        assert weights == pytest.approx(step["p"], rel=1e-10)
        state = ado.state_dict()
        assert state["average"] == pytest.approx(step["p_avg_after"], rel=1e-10)
        assert state["recent"] == pytest.approx(step["p_history"], rel=1e-10)
        assert (state["step"], state["num_rows"]) == (step["itr"], step["n_total"])


def test_the_floor_equals_the_reference_code():
    for case in oracle("ado")["clip_min_probability"]:
        found = floored(np.array(case["inp"], float), case["min_prob"])
        assert found == pytest.approx(case["out"], rel=1e-10)


def test_absent_domains_are_imputed_as_the_reference_code_does():
    case = oracle("ado")["imputation"]
    ado = ADO(np.ones(4))
    for step in (case["step0"], case["step1"]):
        rows = np.bincount(step["ids"], minlength=4)
        total = np.bincount(step["ids"], weights=step["losses"], minlength=4)
        losses = np.divide(total, rows, out=np.full(4, np.nan), where=rows > 0)
        ado.update(losses, rows)
        assert ado.state_dict()["last_losses"] == pytest.approx(step["task_loss"], rel=1e-6)


def test_a_fit_finds_loss_and_slope():
    case = oracle("ado")["scaling_law_fit_noiseless"]
    log_a, log_e, alpha = np.array(case["true_loga_loge_alpha"]).T
    steps = np.arange(1, case["steps"] + 1)[case["ignore_steps"] :: case["subsample"]]
    rows = case["batch"] * steps.astype(float)
    losses = np.exp(log_e) + np.exp(log_a) * rows[:, np.newaxis] ** -alpha
    laws = fit_scaling_laws(rows, losses)
    end = case["batch"] * float(case["steps"])
    assert laws.losses(end) == pytest.approx(case["true_loss_at_end"], rel=1e-6)
    assert laws.slopes(end) == pytest.approx(case["true_slope"], rel=1e-4)
    # The reference's float32 fit is 4e-4 off the truth itself.
    assert laws.slopes(end) == pytest.approx(case["predicted_slope"], rel=1e-3)


def test_one_point_makes_no_fit_and_the_prior_stays():
    """The reference code fits one point at step 1000 and gives NaN ever after."""
    ado = ADO([0.7, 0.3], fit_from=10, fit_every=11, block_steps=1)
    for _ in range(11):
        weights = ado.update([3.0, 2.0], [5, 3])
    assert ado.laws is None
    assert weights == pytest.approx([0.7, 0.3])


def run(ado, num_steps, first=0):
    for step in range(first, first + num_steps):
        n = 8.0 * (step + 1)
        losses = np.array([2.0 + 4.0 * n**-0.5, 3.0 + 0.3 * n**-0.1])
        ado.update(losses, [5, 3])
    return ado


def test_weights_follow_the_domain_that_falls_faster_after_a_fit():
    ado = run(ADO([0.5, 0.5], fit_from=20, fit_every=150, block_steps=2, mix=1.0), 150)
    assert ado.laws is not None
    assert_on_simplex(ado.weights, 2)
    assert ado.weights[0] > 0.6


def test_a_stop_amid_a_block_equals_no_stop():
    def make():
        return ADO([0.5, 0.5], fit_from=5, fit_every=60, block_steps=2, min_fit_blocks=3)

    whole, first = run(make(), 135), run(make(), 66)
    second = make()
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    run(second, 69, first=66)
    assert second.state_dict() == whole.state_dict()
    assert second.laws is not None


def test_the_history_stays_small():
    ado = run(ADO([0.5, 0.5], fit_from=0, fit_every=10**9, block_steps=1), MAX_BLOCKS * 3)
    blocks = np.array(ado.state_dict()["blocks"])
    assert len(blocks) < MAX_BLOCKS
    assert (np.diff(blocks[:, 0]) > 0).all()
    assert blocks[0, 0] == pytest.approx(8 * (1 + ado.state_dict()["steps_per_block"]) / 2)


def test_bad_numbers_are_refused_and_nothing_changes():
    ado = run(ADO([0.5, 0.5]), 3)
    before = ado.state_dict()
    for losses, rows, message in (
        ([np.nan, 1.0], [1, 1], "losses is nan at domain 0"),
        ([1.0, 1.0], [1, np.inf], "num_rows is inf at domain 1"),
        ([1.0, 1.0], [0, 0], "no row at all"),
        ([1.0, 1.0], [-1, 2], "negative count"),
        ([1.0], [1, 1], r"losses has shape \(1,\)"),
    ):
        with pytest.raises(WeightsError, match=message):
            ado.update(losses, rows)
        assert ado.state_dict() == before
    ado.update([np.nan, 1.0], [0, 8])


def test_laws_and_fits_that_do_not_match_are_refused():
    laws = ScalingLaws(np.ones(3), np.ones(3), np.ones(3))
    with pytest.raises(WeightsError, match="3 laws for 2 domains"):
        ADO([0.5, 0.5]).use_laws(laws, step=1, num_rows=1)
    with pytest.raises(WeightsError, match="T >= 3"):
        fit_scaling_laws(np.ones(2), np.ones((2, 1)))
    with pytest.raises(WeightsError, match="positive and finite"):
        fit_scaling_laws(np.ones(3), np.zeros((3, 1)))


def test_one_domain_has_all_the_weight():
    assert run_one(ADO([2.0])).tolist() == [1.0]


def run_one(ado):
    for _ in range(3):
        weights = ado.update([1.0], [4])
    return weights


def test_a_first_fit_on_one_point_leaves_the_prior_where_the_reference_code_gives_nan():
    assert oracle("ado")["first_fit_single_point"]["policy_after"] == ["nan"] * 3
    ado = ADO([0.5, 0.3, 0.2], fit_from=0, fit_every=10, block_steps=10)
    for _ in range(10):
        weights = ado.update([2.0, 3.0, 4.0], [1, 1, 1])
    assert ado.laws is None
    assert weights.tolist() == [0.5, 0.3, 0.2]
