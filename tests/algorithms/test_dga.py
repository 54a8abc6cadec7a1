import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.dga import DGA, dga_update, gradient_alignment
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle, simplexes, vectors


def test_dga_by_hand():
    logits = np.log([0.5, 0.5])
    new = np.exp(dga_update(logits, np.array([np.log(3), 0.0]), step_size=1.0))
    assert new == pytest.approx([0.75, 0.25], rel=1e-12)
    gradients, target = np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([3.0, -1.0])
    assert gradient_alignment(gradients, target).tolist() == [3.0, 1.0]


def test_dga_equals_the_derivations():
    cases = oracle("dga")
    gradients = zip(cases["domain_grads_per_step"], cases["spe_grad_per_step"], strict=True)
    alignments = [gradient_alignment(np.array(g), np.array(s)) for g, s in gradients]
    for case in cases["cases"]:
        dga = DGA(case["alpha0"], step_size=case["eta"], ema=case["beta"], update_every=1)
        for alignment, expected in zip(alignments, case["steps"], strict=True):
            assert alignment == pytest.approx(expected["align"], rel=1e-10)
            assert dga.update(alignment) == pytest.approx(expected["alpha_ema"], rel=1e-10)
            assert dga.mirror_weights == pytest.approx(expected["alpha"], rel=1e-10)


def test_a_tiny_weight_comes_back_and_a_zero_does_not():
    dga = DGA([0.5, 0.5, 0.0], step_size=1.0, ema=1.0, update_every=1)
    for _ in range(20):
        dga.update([100.0, 0.0, 0.0])
    assert dga.weights.tolist() == [1.0, 0.0, 0.0]  # e^-2000 is 0 in float64
    for _ in range(20):
        dga.update([-100.0, 0.0, 1e4])
    assert dga.weights == pytest.approx([0.5, 0.5, 0.0])


def test_updates_are_due_every_few_steps():
    dga = DGA([1.0], step_size=1.0, ema=0.1, update_every=30)
    assert [step for step in range(100) if dga.due(step)] == [0, 30, 60, 90]


def test_a_basis_mixes_histograms_over_the_domains():
    basis = np.array([[8.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    dga = DGA([0.5, 0.5], step_size=1.0, ema=1.0, update_every=1, basis=basis)
    assert dga.weights == pytest.approx([0.4, 0.225, 0.375])
    weights = dga.update([np.log(3), 0.0])
    assert weights == pytest.approx(0.75 * basis[0] / 10 + 0.25 * basis[1] / 4)
    assert dga.mirror_weights == pytest.approx([0.75, 0.25])


@settings(deadline=None)
@given(data=st.data(), k=st.integers(2, 12))
def test_a_domain_without_a_gradient_keeps_its_weight(data, k):
    start = data.draw(simplexes(k))
    present = np.array([True] + [False] * (k - 2) + [True])
    dga = DGA(start, step_size=0.1, ema=1.0, update_every=1)
    signal = np.where(present, data.draw(vectors(k)), np.nan)
    new = dga.update(signal, present=present)
    assert_on_simplex(new, k)
    assert new[~present] == pytest.approx(start[~present], rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 0.0}, r"ema is 0.0; it must be in \(0.0, 1.0\]"),
        ({"update_every": 0}, "update_every is 0"),
        ({"step_size": np.nan}, "step_size is nan"),
        ({"basis": [[1.0, 1.0]]}, r"basis has shape \(1, 2\)"),
        ({"basis": [[1.0, 1.0], [0.0, 0.0]]}, "histogram 1 of the basis is 0 in every domain"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(WeightsError, match=message):
        DGA([0.5, 0.5], **{"step_size": 1.0, "ema": 0.1, "update_every": 1, **settings})
