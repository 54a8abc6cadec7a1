import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.unimax import (
    TemperatureSampling,
    UniMax,
    temperature_weights,
    unimax_counts,
    unimax_weights,
)
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex, oracle, vectors


def test_unimax_by_hand():
    sizes = np.array([1000.0, 50.0, 8.0, 300.0, 1.0])
    assert unimax_counts(sizes, 400, 1) == pytest.approx([170.5, 50, 8, 170.5, 1])
    assert temperature_weights(np.array([16.0, 1.0]), 2.0) == pytest.approx([0.8, 0.2])


def test_unimax_equals_the_derivations():
    for case in oracle("unimax_temperature")["unimax"]:
        sizes = np.array(case["sizes"], float)
        counts = unimax_counts(sizes, case["budget"], case["N"])
        assert counts == pytest.approx(case["allocation"], rel=1e-10)
        assert counts.sum() == pytest.approx(case["budget_used"], rel=1e-10)
        assert (np.isclose(counts, case["N"] * sizes, rtol=1e-12)).tolist() == case["capped"]
        method = UniMax(len(sizes), budget=case["budget"], max_epochs=case["N"])
        assert method.update(sizes) == pytest.approx(case["prob"], rel=1e-10)


def test_temperature_equals_the_derivations():
    cases = oracle("unimax_temperature")["temperature"]
    for case in cases["cases"]:
        method = TemperatureSampling(5, temperature=case["tau"])
        assert method.update(cases["sizes"]) == pytest.approx(case["prob"], rel=1e-10)


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 20), epochs=st.floats(0.5, 8))
def test_realised_epochs_never_exceed_the_cap(data, k, epochs):
    sizes = np.floor(data.draw(vectors(k, 0, 1000)))
    sizes[0] += 1
    budget = data.draw(st.floats(1, 5000))
    counts = unimax_counts(sizes, budget, epochs)
    assert (counts <= epochs * sizes * (1 + 1e-12)).all()
    assert counts.sum() == pytest.approx(min(budget, epochs * sizes.sum()))
    assert_on_simplex(unimax_weights(sizes, budget, epochs), k)
    uncapped = counts < epochs * sizes * (1 - 1e-9)
    assert np.ptp(counts[uncapped]) < 1e-9 * budget if uncapped.any() else True


@pytest.mark.parametrize(
    "method", [UniMax(2, budget=10.0), TemperatureSampling(2, temperature=2.0)]
)
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([-1.0, 2.0], "sizes is -1.0 at domain 0"),
        ([0.0, 0.0], "all domains are empty"),
        ([np.nan, 2.0], "sizes is nan at domain 0"),
    ],
)
def test_sizes_out_of_range_are_refused_and_the_weights_stay(method, sizes, message):
    with pytest.raises(WeightsError, match=message):
        method.update(sizes)
    assert method.weights.tolist() == [0.5, 0.5]


def test_infinite_temperature_is_refused_and_a_high_one_is_uniform_over_what_there_is():
    with pytest.raises(WeightsError, match="temperature is inf"):
        TemperatureSampling(2, temperature=np.inf)
    weights = TemperatureSampling(3, temperature=1e9).update([1e6, 0.0, 1.0])
    assert weights == pytest.approx([0.5, 0.0, 0.5], abs=1e-6)
