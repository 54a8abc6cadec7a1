import numpy as np
import pytest

from mixstream.algorithms.doge import DoGE, clipped_gradients, doge_scores, doge_update
from mixstream.algorithms.doremi import doremi_update
from mixstream.algorithms.grape import GRAPE, grape_task_update
from mixstream.errors import WeightsError
from tests.algorithms.support import oracle


def test_doge_by_hand():
    scores = doge_scores(
        np.array([2.0, -1.0]),
        learning_rate=0.1,
        gradient_norms=np.array([3.0, 1.0]),
        clip=(0.0, 5.0),
    )
    assert scores == pytest.approx([0.1, 0.0], rel=1e-6)
    new = doge_update(np.array([0.5, 0.5]), np.array([np.log(3), 0.0]), mu=1.0)
    assert new == pytest.approx([0.75, 0.25], rel=1e-12)
    clipped = clipped_gradients(np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    assert clipped == pytest.approx(np.array([[0.6, 0.8], [0.3, 0.4]]), rel=1e-6)


def test_doge_equals_the_reference_code():
    """An absent domain's stored gradient of an earlier step is used again, as the code does."""
    for run in oracle("doge")["runs"]:
        train, targets = run["train_ids"], run["tgt_ids"]
        doge = DoGE(
            np.ones(len(train)),
            mu=run["mu"],
            smoothing=run["reweight_eps"],
            clip=(run["dw_min"], run["dw_max"]),
        )
        stored = np.zeros((len(run["grads"][0]), len(run["grads"][0][0])))
        for step, rate, expected in zip(run["grads"], run["lr"], run["outputs"], strict=True):
            for domain, gradient in enumerate(step):
                if gradient is not None:
                    row = np.array([gradient])
                    stored[domain] = clipped_gradients(row, run["max_grad_norm"])[0]
            gradients, target = stored[train], stored[targets].sum(axis=0)
            weights = doge.update(
                gradients @ target,
                learning_rate=rate,
                gradient_norms=np.linalg.norm(gradients, axis=1),
            )
            assert weights == pytest.approx(expected["train_dw"][: len(train)], rel=1e-6)
            average = expected["avg_dw"][: len(train)]
            assert doge.average_weights == pytest.approx(average, rel=1e-6)
            here = [step[domain] is not None for domain in train]  # stale ones train nothing
            model_gradient = weights[here] @ gradients[here]
            assert model_gradient == pytest.approx(expected["model_grad"], rel=1e-5, abs=1e-6)


def test_the_doremi_of_the_doge_repository_is_the_same_step():
    variant = oracle("doge")["doremi_variant_in_doge_repo"]
    weights = np.full(3, 1 / 3)
    for step in variant["steps"]:
        scores = np.array(step["scores"])
        weights = doremi_update(weights, scores, step_size=0.1, smoothing=1e-3)
        assert weights == pytest.approx(step["train_dw"], rel=1e-6)


def test_an_absent_domain_keeps_its_weight():
    doge = DoGE([0.2, 0.3, 0.5], mu=1.0)
    weights = doge.update([3.0, np.nan, 1.0], present=[True, False, True])
    assert weights[1] == pytest.approx(0.3)
    assert weights.sum() == pytest.approx(1.0)


def test_the_result_is_the_average():
    doge = DoGE([0.5, 0.5], mu=1.0)
    first, second = doge.update([1.0, 0.0]), doge.update([0.0, 3.0])
    assert doge.average_weights == pytest.approx((first + second) / 2)


def test_grape_by_hand():
    new = grape_task_update(np.array([0.5, 0.5]), np.array([0.0, np.log(3)]), mu=1.0, smoothing=0.0)
    assert new == pytest.approx([0.75, 0.25], rel=1e-12)


def test_grape_equals_the_reference_code():
    case = oracle("grape_doge_step")
    train, target = case["train"], case["target"]
    grape = GRAPE(train["w"], 1, mu=train["mu_train"], task_mu=0.0)
    alignment = np.array(train["domain_grads"]) @ np.array(train["target_grad"])
    assert grape.update(alignment) == pytest.approx(train["w_next"], rel=1e-10)
    tasks = GRAPE(
        [1.0, 1.0], 2, mu=1.0, task_mu=target["mu_tgt"], task_smoothing=target["smoothing"]
    )
    alignment = np.array(target["task_grads"]) @ np.array(target["train_grad"])
    assert tasks.task_weights.tolist() == target["z"]
    assert tasks.update_tasks(alignment) == pytest.approx(target["z_next"], rel=1e-10)


def test_the_norm_of_an_absent_domain_is_not_read():
    doge, all_there = DoGE([0.4, 0.3, 0.3], mu=1.0), DoGE([0.4, 0.3], mu=1.0)
    norms, present = [2.0, 4.0, np.nan], [True, True, False]
    found = doge.update([1.0, 2.0, np.nan], gradient_norms=norms, present=present)
    pair = all_there.update([1.0, 2.0], gradient_norms=[2.0, 4.0])
    assert found == pytest.approx([*0.7 * pair, 0.3])
    with pytest.raises(WeightsError, match="gradient_norms is nan at domain 2"):
        doge.update([1.0, 2.0, 0.0], gradient_norms=norms)


def test_grape_follows_the_task_that_improves_least():
    grape = GRAPE([1.0, 1.0], 2, mu=1.0, task_mu=1.0)
    grape.update_tasks([0.0, 2.0])
    assert grape.task_weights[0] > 0.8
    weights = grape.update([[1.0, 0.0], [0.0, 1.0]])
    assert weights[0] > weights[1]
    twin = GRAPE([1.0, 1.0], 2, mu=1.0, task_mu=1.0)
    twin.load_state_dict(grape.state_dict())
    assert np.array_equal(twin.update([[0.3, 0.1]] * 2), grape.update([[0.3, 0.1]] * 2))
    assert np.array_equal(twin.task_weights, grape.task_weights)
    with pytest.raises(WeightsError, match="task_alignment is nan"):
        grape.update_tasks([np.nan, 0.0])
    with pytest.raises(WeightsError, match=r"alignment has shape \(2,\) where \(2, 2\)"):
        grape.update([1.0, 2.0])
    assert np.array_equal(twin.weights, grape.weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mu": 0.0}, "mu is 0"),
        ({"mu": 1.0, "smoothing": 1.0}, "smoothing is 1"),
        ({"mu": 1.0, "clip": (1.0, 0.0)}, r"clip is \(1.0, 0.0\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(WeightsError, match=message):
        DoGE([0.5, 0.5], **settings)
