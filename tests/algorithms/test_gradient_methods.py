"""R&B, PiKE and Aioli."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.aioli import Aioli, loss_matrix, probe_mixtures, shifted_to_simplex
from mixstream.algorithms.pike import PiKE, pike_update
from mixstream.algorithms.rnb import RnB, gradient_gram, rnb_weights
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle, simplexes, vectors


def test_rnb_by_hand():
    gram = gradient_gram(np.array([[2.0, 0.0], [3.0, 3.0]]), np.array([2.0, 3.0]))
    assert gram.tolist() == [[1, 1], [1, 2]]
    weights = rnb_weights(np.eye(2), np.array([1.0, 0.0]), step_size=np.log(3))
    assert weights == pytest.approx([0.75, 0.25], rel=1e-12)


def test_rnb_equals_the_derivations():
    case = oracle("rnb")
    gram = gradient_gram(np.array(case["accumulated_grad_sums"]), np.array(case["counts"], float))
    assert gram == pytest.approx(np.array(case["gram"]), rel=1e-10)
    for expected in case["cases"]:
        method = RnB(case["eval_p"], step_size=expected["lam"])
        assert method.weights == pytest.approx(case["eval_p"])
        assert method.update(gram) == pytest.approx(expected["p_next"], rel=1e-10)


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 8), step_size=st.floats(0, 5))
def test_rnb_stays_within_its_bound_and_commutes(data, k, step_size):
    root = data.draw(vectors(k * k, -3, 3)).reshape(k, k)
    gram, evaluation = root @ root.T, data.draw(simplexes(k))
    weights = RnB(evaluation, step_size=step_size).update(gram)
    assert_on_simplex(weights, k)
    assert weights.max() / weights.min() <= np.exp(np.sqrt(2) * step_size) * (1 + 1e-9)
    order = np.array(data.draw(st.permutations(range(k))))
    if np.linalg.norm(gram @ evaluation) > 1e-6:
        permuted = RnB(evaluation[order], step_size=step_size).update(gram[order][:, order])
        assert permuted == pytest.approx(weights[order], rel=1e-6)


def test_absent_domains_have_no_gradient_and_no_gradients_are_uniform():
    gram = gradient_gram(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([2.0, 0.0]))
    assert gram.tolist() == [[1, 0], [0, 0]]
    assert RnB([0.9, 0.1], step_size=1.0).update(np.zeros((2, 2))).tolist() == [0.5, 0.5]
    method = RnB([0.9, 0.1], step_size=1.0)
    with pytest.raises(WeightsError, match="gram is nan at domain 0"):
        method.update([[np.nan, 0.0], [0.0, 1.0]])
    with pytest.raises(WeightsError, match=r"shape \(2,\) where \(2, 2\)"):
        method.update([1.0, 0.0])
    assert method.weights == pytest.approx([0.9, 0.1])


def test_pike_by_hand():
    logits = np.log([0.5, 0.5])
    zero = np.zeros(2)
    new = pike_update(logits, np.array([np.log(3), 0.0]), zero, zeta1=1.0, zeta2=9.0, batch_size=4)
    assert np.exp(new) == pytest.approx([0.75, 0.25], rel=1e-12)
    noise = np.array([0.0, 8 * np.log(3)])
    new = pike_update(logits, zero, noise, zeta1=9.0, zeta2=1.0, batch_size=4)
    assert np.exp(new) == pytest.approx([0.75, 0.25], rel=1e-12)


def test_pike_equals_the_derivations():
    case = oracle("pike")
    method = PiKE(case["w"], zeta1=case["zeta1"], zeta2=case["zeta2"], batch_size=case["batch"])
    weights = method.update(case["grad_norm_sq"], case["grad_var"])
    assert weights == pytest.approx(case["w_next"], rel=1e-10)


def test_pike_refuses_nan_in_either_signal_and_resumes_exactly():
    method = PiKE([0.2, 0.3, 0.5], zeta1=1.0, zeta2=1.0, batch_size=2)
    method.update([1.0, 2.0, 3.0], [4.0, 1.0, 0.0])
    before = method.weights
    with pytest.raises(WeightsError, match="squared_norms is nan"):
        method.update([1.0, np.nan, 3.0], [4.0, 1.0, 0.0])
    with pytest.raises(WeightsError, match="variances is inf"):
        method.update([1.0, 2.0, 3.0], [np.inf, 1.0, 0.0])
    assert np.array_equal(method.weights, before)
    kept = method.update([1.0, np.nan, 3.0], [4.0, 1.0, 0.0], present=[True, False, True])
    assert kept[1] == pytest.approx(before[1], rel=1e-12)
    twin = PiKE([1.0, 1.0, 1.0], zeta1=1.0, zeta2=1.0, batch_size=2)
    twin.load_state_dict(json.loads(json.dumps(method.state_dict())))
    assert np.array_equal(twin.update([1, 2, 3], [0, 0, 0]), method.update([1, 2, 3], [0, 0, 0]))


def test_aioli_by_hand():
    assert probe_mixtures(3, 0.5).tolist() == [
        [0.5, 0.25, 0.25],
        [0.25, 0.5, 0.25],
        [0.25, 0.25, 0.5],
    ]
    matrix = loss_matrix(np.array([[3.0, 2.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert matrix == pytest.approx(np.array([[3, 1], [1, 1]]))
    shifted = shifted_to_simplex(np.array([[1.0, -1.0], [0.0, 0.0]]))
    assert shifted == pytest.approx(np.array([[2, 0], [1, 1]]) / 4)
    assert shifted_to_simplex(np.zeros((2, 2))).tolist() == [[0.25, 0.25], [0.25, 0.25]]


def probe_falls(evaluations, order, k, sweeps):
    """Mean fall of each loss (row) in the probes of each domain (column)."""
    falls = np.zeros((k, k))
    for probe, domain in enumerate(order):
        falls[:, domain] += evaluations[probe] - evaluations[probe + 1]
    return falls / sweeps


def test_aioli_equals_the_reference_code():
    for run in oracle("aioli")["runs"]:
        k, sweeps = run["k"], run["lp_rounds"]
        method = Aioli(
            k,
            step_size=run["eta"],
            ema=run["ema"],
            one_hot_factor=run["one_hot_factor"],
            normalize=run["normalize_A"],
            diagonal=run["diagonal"],
        )
        losses = [np.array(e["loss"]) for e in run["evals"]]
        steps = [e["at_world_step"] for e in run["evals"]]
        for expected in run["rounds"]:
            start = expected["lp_start_world_steps"][0]
            first = steps.index(start)
            first += 1 if steps[first + 1] == start else 0  # the logging, then the probes' own
            evaluations = losses[first : first + k * sweeps + 1]
            falls = probe_falls(evaluations, expected["lp_order"], k, sweeps)
            if not run["diagonal"]:
                matrix = loss_matrix(falls, method.mixtures)
                estimated = np.array(expected["A_t_estimated"])
                assert matrix == pytest.approx(estimated, rel=1e-9, abs=1e-12)
            assert method.update(falls) == pytest.approx(expected["p"], rel=1e-10)


def test_the_realised_mixtures_decide_what_is_learned():
    truth, drawn = np.array([[3.0, 1.0], [0.5, 2.0]]), np.array([[0.8, 0.2], [0.4, 0.6]])
    falls = truth @ drawn.T
    asked, realised = Aioli(2, step_size=1.0), Aioli(2, step_size=1.0)
    exact = Aioli(2, step_size=1.0).update(truth)
    assert realised.update(falls, realised=drawn) == pytest.approx(exact, rel=1e-9)
    assert np.abs(asked.update(falls) - exact).max() > 1e-3


def test_the_diagonal_alone_may_be_learned():
    method = Aioli(2, step_size=1.0, one_hot_factor=0.5 + 0.25, diagonal=True, normalize=False)
    weights = method.update([[0.75 * np.log(3), 9.0], [9.0, 0.0]])
    assert weights == pytest.approx([0.75, 0.25], rel=1e-12)


def test_probes_that_determine_nothing_are_refused_and_nothing_changes():
    method = Aioli(2, step_size=1.0, ema=0.5)
    method.update([[1.0, 0.0], [0.0, 0.5]])
    before = method.state_dict()
    with pytest.raises(WeightsError, match="nearly the same"):
        method.update([[1.0, 1.0], [1.0, 1.0]], realised=[[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(WeightsError, match="loss_falls is nan"):
        method.update([[1.0, np.nan], [1.0, 1.0]])
    with pytest.raises(WeightsError, match=r"one_hot_factor is 0\.5"):
        Aioli(2, step_size=1.0, one_hot_factor=0.5)
    assert method.state_dict() == before


@pytest.mark.parametrize("ema", [None, 0.3])
@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 6))
def test_aioli_stays_on_the_simplex_commutes_and_resumes(ema, data, k):
    falls = [data.draw(vectors(k * k, -1, 1)).reshape(k, k) for _ in range(2)]
    order = np.array(data.draw(st.permutations(range(k))))
    factor = 1.0 if k == 1 else 0.5 + 0.5 / k
    method, permuted, resumed = (
        Aioli(k, step_size=0.5, ema=ema, one_hot_factor=factor) for _ in range(3)
    )
    first = method.update(falls[0])
    assert permuted.update(falls[0][order][:, order]) == pytest.approx(first[order], rel=1e-6)
    resumed.load_state_dict(json.loads(json.dumps(method.state_dict())))
    second = method.update(falls[1])
    assert_on_simplex(second, k)
    assert np.array_equal(resumed.update(falls[1]), second)
