import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.skillit import (
    SkillIt,
    approximate_graph,
    brute_force_graph,
    graph_from_edges,
    skillit_weights,
)
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle, vectors


def test_skillit_by_hand():
    graph = np.array([[1.0, 0.0], [0.5, 1.0]])
    assert skillit_weights(graph, np.array([np.log(4), 0.0]), step_size=1.0) == pytest.approx(
        [2 / 3, 1 / 3], rel=1e-12
    )
    prior = np.array([0.2, 0.8])
    assert skillit_weights(
        graph, np.array([np.log(4), 0.0]), step_size=1.0, prior=prior
    ) == pytest.approx([1 / 3, 2 / 3], rel=1e-12)


def test_graphs_by_hand():
    assert graph_from_edges([[1, 0], [1, 1]]).tolist() == [[1, 0], [0.5, 1]]
    assert graph_from_edges([[1, 0.3], [1, 1], [1, 0]]).tolist() == [[1, 0.3], [0.5, 1], [0.5, 0]]
    together = np.array([[np.nan, 1.5], [2.4, np.nan]])
    graph = brute_force_graph(np.array([3.0, 3.0]), np.array([2.0, 2.0]), np.nan_to_num(together))
    assert graph.tolist() == [[1.0, 0.5], [0.0, 1.0]]
    after = np.array([[2.0, 2.5], [1.5, 1.0]])
    assert approximate_graph(np.array([3.0, 2.0]), after).tolist() == [[1, 0], [1.5, 1]]
    relative = approximate_graph(np.array([3.0, 2.0]), after, relative=True)
    assert relative == pytest.approx(np.array([[1 / 3, 0], [0.5, 0.5]]))


def test_a_skill_that_its_own_run_does_not_improve_gets_no_edges():
    graph = brute_force_graph(np.array([3.0, 3.0]), np.array([2.0, 3.0]), np.ones((2, 2)))
    assert graph.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_skillit_equals_the_reference_code():
    """The code evaluates each `eval_every` steps and updates after `update_steps` steps."""
    for run in oracle("skillit")["runs"]:
        k = run["k"]
        graph = run["graph_matrix"]
        if graph is None:
            graph = np.reshape(run["graph_flat_row_i_trains_col_j"], (k, k))
        graph, targets = graph_from_edges(graph), np.arange(k)
        if run["target_mask"] is not None:
            targets = np.flatnonzero(np.array(run["target_mask"], dtype=int))
        skillit = SkillIt(
            graph[:, targets],
            step_size=run["eta"],
            window=run["window_checkpoints"],
            aggregate="sum" if run["target_mask"] is None else "mean",
        )
        assert skillit.weights == pytest.approx(run["rounds"][0]["p"], rel=1e-10)
        evaluations = {e["step"]: np.array(e["loss"])[targets] for e in run["eval_losses"]}
        for number, expected in enumerate(run["rounds"][1:], start=1):
            begin, end = (number - 1) * run["update_steps"], number * run["update_steps"]
            losses = [evaluations[step] for step in range(begin, end, run["eval_every"])]
            for loss in losses[:-1]:
                skillit.observe(loss)
            assert skillit.update(losses[-1]) == pytest.approx(expected["p"], rel=1e-10)


def test_static_weights_from_the_graph_alone():
    cases = oracle("skillit")
    flat = cases["runs"][0]["graph_flat_row_i_trains_col_j"]
    skillit = SkillIt(graph_from_edges(np.reshape(flat, (5, 5))), step_size=0.5)
    assert skillit.weights == pytest.approx(cases["static"][0]["p"], rel=1e-10)


def test_the_window_counts_rounds_and_sums():
    skillit = SkillIt(np.eye(2), step_size=0.5, window=2)
    skillit.update([9.0, 9.0])
    skillit.update([1.0, 0.0])
    weights = skillit.update([0.5, 0.25])
    assert np.log(weights[0] / weights[1]) == pytest.approx(0.5 * (1.5 - 0.25))


def test_observe_leaves_the_weights_until_update():
    skillit = SkillIt(np.eye(2), step_size=0.5)
    skillit.observe([3.0, 1.0])
    assert skillit.weights.tolist() == [0.5, 0.5]
    assert skillit.update([3.0, 1.0])[0] > 0.5


def test_a_diagonal_graph_may_be_given_as_its_diagonal():
    dense, diagonal = SkillIt(np.diag([1.0, 0.5]), step_size=1), SkillIt([1.0, 0.5], step_size=1)
    assert diagonal.weights == pytest.approx(dense.weights)
    assert diagonal.update([2.0, 3.0]) == pytest.approx(dense.update([2.0, 3.0]))


def test_out_of_domain_targets_are_columns_without_rows():
    skillit = SkillIt([[0.9], [0.1], [0.0]], step_size=1.0)
    weights = skillit.update([2.0])
    assert_on_simplex(weights, 3)
    assert weights[0] > weights[1] > weights[2]


def test_a_skill_that_was_not_evaluated_counts_with_its_last_loss():
    skillit, twin = SkillIt(np.eye(2), step_size=1.0), SkillIt(np.eye(2), step_size=1.0)
    with pytest.raises(WeightsError, match="skill 1 has never been evaluated"):
        skillit.update([1.0, 0.0], present=[True, False])
    skillit.update([1.0, 2.0])
    twin.update([1.0, 2.0])
    absent = skillit.update([0.5, np.nan], present=[True, False])
    assert absent == pytest.approx(twin.update([0.5, 2.0]))


def test_losses_may_be_scaled_and_skills_weighed_beforehand():
    skillit = SkillIt(np.eye(2), step_size=1.0, loss_scale=[2.0, 4.0], prior=[3.0, 1.0])
    weights = skillit.update([2.0, 4.0])
    assert weights == pytest.approx([0.75, 0.25])


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 12), m=st.integers(1, 12))
def test_skillit_stays_on_the_simplex_and_commutes_with_a_permutation(data, k, m):
    graph = data.draw(vectors(k * m, 0, 2)).reshape(k, m)
    losses = data.draw(vectors(m, 0, 10))
    rows = np.array(data.draw(st.permutations(range(k))))
    columns = np.array(data.draw(st.permutations(range(m))))
    weights = SkillIt(graph, step_size=0.7).update(losses)
    assert_on_simplex(weights, k)
    permuted = SkillIt(graph[rows][:, columns], step_size=0.7).update(losses[columns])
    assert permuted == pytest.approx(weights[rows], rel=1e-9)


@pytest.mark.parametrize(
    ("graph", "settings", "message"),
    [
        (np.zeros((2, 2, 2)), {}, r"graph has shape \(2, 2, 2\)"),
        ([[1.0, -1.0]], {}, "negative, NaN or infinite strength"),
        (np.eye(2), {"window": 0}, "window is 0"),
        (np.eye(2), {"aggregate": "max"}, "aggregate is 'max'"),
        (np.eye(2), {"prior": [1.0]}, "prior holds 1 numbers for 2 skills"),
        (np.eye(2), {"loss_scale": [1.0, 0.0]}, "loss_scale holds 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(graph, settings, message):
    with pytest.raises(WeightsError, match=message):
        SkillIt(graph, step_size=1.0, **settings)
