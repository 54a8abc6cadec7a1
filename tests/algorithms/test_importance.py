import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.importance import (
    ImportanceSampling,
    coarsened,
    expected_epochs,
    hierarchical_histogram,
    importance_ratios,
    target_histogram,
)
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle


def test_histograms_by_hand():
    assert target_histogram(np.array([3.0, 1.0]), smoothing=1.0) == pytest.approx([4 / 6, 2 / 6])
    two_tasks = np.array([[3.0, 1.0], [0.0, 20.0]])
    assert target_histogram(two_tasks) == pytest.approx([0.375, 0.625])
    ratios = importance_ratios(np.array([0.3, 0.7]), np.array([10.0, 90.0]))
    assert ratios == pytest.approx([3, 7 / 9])
    epochs = expected_epochs(np.array([0.3, 0.7]), np.array([1000.0, 4000.0]), 20000)
    assert epochs == pytest.approx([6, 3.5])
    assert coarsened(np.array([1.0, 2.0, 4.0]), np.array([0, 1, 0])).tolist() == [5, 2]


def test_crisp_equals_the_derivations():
    case = oracle("crisp")
    spec, generic = np.array(case["spec_counts"], float), np.array(case["gen_counts"], float)
    weights = ImportanceSampling(6).update(spec)
    assert weights == pytest.approx(case["sampling_P_c_given_Ds"], rel=1e-10)
    assert importance_ratios(weights, generic) == pytest.approx(case["importance_w"], rel=1e-10)
    epochs = expected_epochs(weights, generic, case["budget"])
    assert epochs == pytest.approx(case["expected_epochs"], rel=1e-10)
    for smoothing, key in ((1.0, "laplace_1"), (0.5, "laplace_0_5")):
        smooth = ImportanceSampling(6, smoothing=smoothing).update(spec)
        assert smooth == pytest.approx(case[key], rel=1e-10)
    tasks = ImportanceSampling(6).update(case["multitask_counts"])
    assert tasks == pytest.approx(case["multitask_mean"], rel=1e-10)


def test_what_the_corpus_lacks_is_inf_epochs_and_ratios():
    empty, some = np.array([0.0, 5.0]), np.array([0.5, 0.5])
    assert importance_ratios(some, empty).tolist() == [np.inf, 0.5]
    assert expected_epochs(some, empty, 10).tolist() == [np.inf, 1.0]
    assert expected_epochs(np.array([0.0, 1.0]), empty, 10).tolist() == [0.0, 2.0]


def test_a_cluster_that_the_corpus_lacks_gives_its_mass_away():
    crisp = ImportanceSampling(3, generic=[0, 5, 5])
    assert crisp.weights.tolist() == [0, 0.5, 0.5]
    assert crisp.update([8, 1, 1]).tolist() == [0, 0.5, 0.5]
    with pytest.raises(WeightsError, match="wholly in clusters that the corpus lacks"):
        crisp.update([8, 0, 0])


def test_a_hierarchy_needs_a_target_with_documents():
    with pytest.raises(WeightsError, match="target set has no document in any cluster; give it"):
        hierarchical_histogram(np.zeros(2), np.ones(2), np.array([0, 0]), concentration=2.0)


def test_hierarchy_by_hand():
    parents = np.array([0, 0])
    counts, generic = np.array([2.0, 0.0]), np.array([1.0, 3.0])
    blend = hierarchical_histogram(counts, generic, parents, concentration=2.0)
    assert blend == pytest.approx([2.5 / 4, 1.5 / 4])


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 20), concentration=st.floats(0.0, 100))
def test_hierarchy_keeps_the_coarse_histogram(data, k, concentration):
    counts = np.array(data.draw(st.lists(st.integers(0, 9), min_size=k, max_size=k)), float)
    counts[0] += 1
    generic = np.array(data.draw(st.lists(st.integers(0, 9), min_size=k, max_size=k)), float)
    parents = np.array(data.draw(st.lists(st.integers(0, 3), min_size=k, max_size=k)))
    weights = hierarchical_histogram(counts, generic, parents, concentration=concentration)
    assert_on_simplex(weights, k)
    coarse = coarsened(counts, parents) / counts.sum()
    assert coarsened(weights, parents) == pytest.approx(coarse, abs=1e-12)
    fine = hierarchical_histogram(counts, generic, parents, concentration=0.0)
    assert fine == pytest.approx(target_histogram(counts))


def test_infinite_concentration_follows_the_corpus_inside_a_coarse_cluster():
    weights = hierarchical_histogram(
        np.array([2.0, 0.0, 6.0]),
        np.array([1.0, 3.0, 5.0]),
        np.array([0, 0, 1]),
        concentration=np.inf,
    )
    assert weights == pytest.approx([0.25 * 0.25, 0.25 * 0.75, 0.75])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1.0, np.nan], r"counts hold nan at domain 1 \('code'\)"),
        ([1.0, -1.0], "counts hold -1"),
        ([0.0, 0.0], "target set 0 has no document"),
        ([[1.0, 0.0], [0.0, 0.0]], "target set 1 has no document"),
        ([1.0], r"counts have shape \(1,\)"),
    ],
)
def test_counts_without_a_histogram_are_refused_and_the_weights_stay(counts, message):
    crisp = ImportanceSampling(2, domains=("web", "code"))
    crisp.update([3.0, 1.0])
    with pytest.raises(WeightsError, match=message):
        crisp.update(counts)
    assert crisp.weights.tolist() == [0.75, 0.25]
