import numpy as np
import pytest

from mixstream.algorithms.odm import ODM, exploration_rate, explored
from mixstream.errors import WeightsError
from tests.algorithms.support import oracle


def test_odm_by_hand():
    assert exploration_rate(4, 1) == 0.25
    assert exploration_rate(4, 100) == pytest.approx(0.058870501, rel=1e-8)
    assert explored(np.array([1.0, 0.0]), 0.1) == pytest.approx([0.9, 0.1])
    odm = ODM([0.5, 0.5], smoothing=0.0, iteration=10**9)
    # R = [2, 0] / 0.5 with eps_0 = 1/2: p ~ [e^2, 1].
    assert odm.update([2.0, 0.0]) == pytest.approx(
        np.array([np.exp(2), 1]) / (np.exp(2) + 1), rel=1e-3
    )


def feed(odm, names, losses):
    """(K,) losses and mask from a case's losses by name."""
    present = np.array([name in losses for name in names])
    return odm.update([losses.get(name, np.nan) for name in names], present=present)


def test_the_perplexity_rule_equals_the_reference_code():
    cases = oracle("odm")
    names = cases["domains"]
    for run in cases["runs"]:
        assert run["cls"] == "SmoothedMeanWeightUpdater"
        odm = ODM(
            run["init_weights"],
            rule="perplexity",
            smoothing=run["params"]["smoothing_factor"],
            iteration=run["steps"][0]["iteration"],
        )
        for step, expected in zip(run["steps"], run["outputs"], strict=True):
            weights = feed(odm, names, step["losses"])
            wanted = [expected["probabilities"][name] for name in names]
            assert weights == pytest.approx(wanted, rel=1e-10)
            state = odm.state_dict()
            assert state["rate"] == pytest.approx(expected["eps"], rel=1e-12)
            rewards = [expected["state"][name] for name in names]
            assert state["rewards"] == pytest.approx(rewards, rel=1e-10)


def test_the_exp3_rule_equals_the_reference_code():
    cases = oracle("odm")
    names = cases["domains"]
    for run in cases["single"]:
        odm = ODM(run["init_weights"], rule="exp3", iteration=run["outputs"][0]["iteration"])
        for expected in run["outputs"]:
            weights = feed(odm, names, {expected["dataset"]: expected["loss"]})
            wanted = [expected["probabilities"][name] for name in names]
            assert weights == pytest.approx(wanted, rel=1e-10)


def test_the_papers_rule_equals_its_recomputation():
    cases = oracle("odm")
    names, recomputed = cases["domains"], cases["paper_rule_recomputed_not_reference_code"]
    runs = [cases["runs"][0], cases["runs"][2]]
    for run, expected in zip(runs, (recomputed["after_warmup"], recomputed["from_1"]), strict=True):
        odm = ODM(run["init_weights"], iteration=expected[0]["iteration"])
        for step, wanted in zip(run["steps"], expected, strict=True):
            weights = feed(odm, names, step["losses"])
            assert weights == pytest.approx(wanted["probabilities"], rel=1e-10)
            assert odm.state_dict()["rewards"] == pytest.approx(wanted["Rhat"], rel=1e-10)


def test_every_domain_keeps_the_exploration_rate():
    odm = ODM([0.5, 0.5], rule="perplexity", iteration=500)
    for t in range(500, 520):
        assert odm.update([30.0, 0.0]).min() >= exploration_rate(2, t) - 1e-15


@pytest.mark.parametrize("rule", ["paper", "exp3"])
def test_a_reward_that_leaves_float64_is_refused_and_nothing_changes(rule):
    odm = ODM([1.0, 0.0], rule=rule)
    before = odm.state_dict()
    with pytest.raises(WeightsError, match=r"domain 1 leaves float64 .*weight 0\)"):
        odm.update([1.0, 1.0])
    assert odm.state_dict() == before


def test_a_perplexity_that_leaves_float64_is_refused():
    with pytest.raises(WeightsError, match="domain 0 leaves float64"):
        ODM([1.0, 1.0], rule="perplexity").update([1000.0, 1.0])


def test_settings_out_of_range_are_refused():
    with pytest.raises(WeightsError, match="rule is 'ucb'; it must be one of paper"):
        ODM([1.0], rule="ucb")
    with pytest.raises(WeightsError, match="iteration is 0"):
        ODM([1.0], iteration=0)
