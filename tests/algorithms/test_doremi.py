import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.doremi import (
    DoReMi,
    clipped_excess_loss,
    doremi_token_weights,
    doremi_update,
)
from mixstream.errors import WeightsError
from tests.algorithms.support import oracle, simplexes, vectors


def test_doremi_by_hand():
    new = doremi_update(np.array([0.5, 0.5]), np.array([np.log(3), 0.0]), smoothing=0.0)
    assert new == pytest.approx([0.75, 0.25], rel=1e-12)
    new = doremi_update(np.array([0.5, 0.5]), np.array([np.log(3), 0.0]), smoothing=0.1)
    assert new == pytest.approx([0.725, 0.275], rel=1e-12)


def test_excess_loss_by_hand():
    excess, tokens = clipped_excess_loss(
        np.array([[3.0, 2.0], [9.0, 1.0], [5.0, 5.0]]),
        np.array([[2.0, 4.0], [1.0, 1.0], [4.0, 2.0]]),
        np.array([0, 2, 0]),
        3,
        token_mask=[[1, 1], [0, 1], [1, 1]],
    )
    assert excess.tolist() == [(1 + 0 + 1 + 3) / 4, 0.0, 0.0]
    assert tokens.tolist() == [4, 0, 1]


def test_token_weights_by_hand():
    alpha, p = np.array([0.75, 0.25]), np.array([0.5, 0.5])
    for rule in ("importance", "paper"):
        weights = doremi_token_weights(alpha, p, np.array([2, 2]), rule=rule)
        assert weights == pytest.approx([3 / 8, 1 / 8])
    paper = doremi_token_weights(alpha, p, np.array([4, 2]), rule="paper")
    assert paper * [4, 2] == pytest.approx(alpha)  # a domain's share of the loss is alpha
    assert doremi_token_weights(alpha, p, np.array([0, 2]), rule="paper").tolist() == [0, 0.5]
    assert doremi_token_weights(alpha, np.array([1.0, 0.0]), np.array([4, 0])).tolist() == [0.25, 0]
    assert doremi_token_weights(alpha, p, np.array([0, 0])).tolist() == [0, 0]


def test_doremi_equals_the_reference_code():
    cases = oracle("doremi")
    for run in cases["runs"]:
        doremi = DoReMi(
            run["init_weights"],
            step_size=run["eta"],
            smoothing=run["smoothing_c"],
            average="reference",
            initial_score=math.log(cases["tokenizer_len"]),
        )
        sampling = np.array(run["sampling_weights"])
        for step, expected in zip(cases["steps"], run["outputs"], strict=True):
            proxy = np.array(step["proxy_pertoken_loss"])
            mask, ids = np.array(step["token_mask"]), np.array(step["domain_ids"])
            excess, tokens = clipped_excess_loss(
                proxy, np.array(step["ref_pertoken_loss"]), ids, len(sampling), token_mask=mask
            )
            weights = doremi.update(excess, present=tokens > 0)
            assert weights == pytest.approx(expected["alpha"], rel=1e-6)
            assert doremi.average_weights == pytest.approx(expected["alpha_avg"], rel=1e-6)
            state = doremi.state_dict()
            assert state["scores"] == pytest.approx(expected["lambda_scores"], rel=1e-6)
            assert state["num_averaged"] == expected["update_counter"]
            per_token = doremi_token_weights(weights, sampling, tokens)[ids]
            loss = (proxy * mask * per_token[:, np.newaxis]).sum()
            assert loss == pytest.approx(expected["reweighted_loss"], rel=1e-6)


def measured(step, num_domains):
    """The clipped excess loss of an oracle's batch, and which domains were in it."""
    proxy, known = np.array(step["proxy_pertoken_loss"]), np.array(step["ref_pertoken_loss"])
    mask, ids = np.array(step["token_mask"]), np.array(step["domain_ids"])
    excess, tokens = clipped_excess_loss(proxy, known, ids, num_domains, token_mask=mask)
    return excess, tokens > 0


def test_the_edges_of_the_reference_code_are_its_own_where_it_is_right_and_mended_where_not():
    cases = oracle("doremi")
    missing = cases["edge_first_batch_missing_domain"]
    excess, present = measured(missing["step"], 4)
    start = math.log(cases["tokenizer_len"])
    collapsed = DoReMi(np.ones(4), initial_score=start).update(excess, present=present)
    assert collapsed == pytest.approx(missing["alpha"], rel=1e-6)
    assert DoReMi(np.ones(4)).update(excess, present=present).max() < 0.6  # ours starts at 0

    zero = cases["edge_zero_weight"]
    excess, present = measured(cases["steps"][zero["step_index"]], 4)
    found = DoReMi(zero["init"], initial_score=start).update(excess, present=present)
    assert found == pytest.approx(zero["alpha"], rel=1e-6)

    assert cases["edge_nan"]["alpha"] == ["nan"] * 4  # theirs; ours refuses the batch
    doremi = DoReMi(np.ones(4))
    with pytest.raises(WeightsError, match="excess_loss is nan at domain 0"):
        doremi.update([np.nan, 0.1, 0.1, 0.1])
    assert doremi.weights.tolist() == [0.25] * 4

    assert cases["edge_all_masked"]["alpha"] == ["nan"] * 4  # theirs; ours counts it as absent
    step = cases["steps"][0] | {"token_mask": np.array(cases["steps"][0]["token_mask"])}
    step["token_mask"][np.array(step["domain_ids"]) == step["domain_ids"][0]] = 0
    excess, present = measured(step, 4)
    assert not present[step["domain_ids"][0]]
    assert np.isfinite(doremi.update(excess, present=present)).all()


def test_published_weights_are_close_to_a_simplex():
    """The published Pile weights sum to 1.0001; the constructor divides."""
    published = oracle("published_numbers")["doremi"]["pile_doremi_280M_256k"]
    doremi = DoReMi(list(published.values()), domains=list(published))
    assert doremi.weights.sum() == pytest.approx(1.0, abs=1e-15)


def test_the_papers_average_leaves_out_the_initial_weights():
    paper, reference = DoReMi([0.5, 0.5]), DoReMi([0.5, 0.5], average="reference")
    first = paper.update([1.0, 0.0])
    reference.update([1.0, 0.0])
    second = paper.update([0.0, 2.0])
    reference.update([0.0, 2.0])
    assert paper.average_weights == pytest.approx((first + second) / 2)
    assert reference.average_weights == pytest.approx((0.5 + first + second) / 3)


def test_an_absent_domain_keeps_its_last_excess_loss():
    carried, measured = DoReMi([0.5, 0.5]), DoReMi([0.5, 0.5])
    for doremi in (carried, measured):
        doremi.update([0.3, 0.7])
    absent = carried.update([0.1, np.nan], present=[True, False])
    assert absent == pytest.approx(measured.update([0.1, 0.7]), rel=1e-15)


def test_a_domain_absent_from_the_first_batch_does_not_take_all_weight():
    """The reference code starts carried scores at ln|V| = 10.8, which gives it e^10.8 times."""
    right, reference = DoReMi([0.5, 0.5]), DoReMi([0.5, 0.5], initial_score=math.log(50277))
    assert right.update([0.5, 0.0], present=[True, False])[1] < 0.5
    assert reference.update([0.5, 0.0], present=[True, False])[1] > 0.99


def test_a_weight_of_zero_is_lifted_to_the_floor():
    assert DoReMi([1.0, 0.0], smoothing=0.1).update([0.0, 5.0])[1] == pytest.approx(0.05)
    assert DoReMi([1.0, 0.0], smoothing=0.0).update([0.0, 5.0])[1] == 0.0


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 40), smoothing=st.floats(0, 0.5))
def test_doremi_stays_on_the_simplex_and_above_its_floor(data, k, smoothing):
    excess = data.draw(vectors(k, 0, 20))
    new = doremi_update(data.draw(simplexes(k)), excess, smoothing=smoothing)
    assert new.sum() == pytest.approx(1.0)
    assert (new >= smoothing / k - 1e-12).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": -1}, r"step_size is -1; it must be in \[0"),
        ({"smoothing": 1.0}, r"smoothing is 1.0; it must be in \[0.0, 1.0\)"),
        ({"average": "mean"}, "average is 'mean'"),
        ({"initial_score": np.inf}, "initial_score is inf"),
        ({"domains": ("web",)}, "2 numbers for 1 domains"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(WeightsError, match=message):
        DoReMi([0.5, 0.5], **settings)
