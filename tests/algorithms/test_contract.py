"""What every method promises, tried on each: see CASES."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms.autoscale import AutoScale
from mixstream.algorithms.base import Algorithm
from mixstream.algorithms.dga import DGA
from mixstream.algorithms.doge import DoGE
from mixstream.algorithms.doremi import DoReMi
from mixstream.algorithms.grape import GRAPE
from mixstream.algorithms.importance import ImportanceSampling
from mixstream.algorithms.odm import ODM
from mixstream.algorithms.skillit import SkillIt
from mixstream.algorithms.unimax import TemperatureSampling, UniMax
from mixstream.errors import StateError, WeightsError
from tests.algorithms.support import assert_on_simplex


@dataclass(frozen=True)
class Case:
    """How to make a method of K domains, and what one signal of it looks like."""

    make: Callable[[np.ndarray], Algorithm]
    """From (K,) positive numbers, which a permutation of the domains permutes."""
    least: float = 0.0
    """Signals are drawn in [least, 1] for each domain."""


CASES = {
    "doremi": Case(lambda w: DoReMi(w)),
    "skillit": Case(lambda w: SkillIt(w, step_size=0.5, window=2)),
    "dga": Case(lambda w: DGA(w, step_size=0.5, ema=0.3, update_every=1)),
    "doge": Case(lambda w: DoGE(w, mu=2.0, smoothing=0.01)),
    "grape": Case(lambda w: GRAPE(w, 1, mu=1.0, task_mu=1.0)),
    "odm": Case(lambda w: ODM(w, smoothing=0.5, iteration=100)),
    "odm_exp3": Case(lambda w: ODM(w, rule="exp3", iteration=100)),
    "odm_perplexity": Case(lambda w: ODM(w, rule="perplexity", iteration=100)),
    "unimax": Case(lambda w: UniMax(len(w), budget=1.0, max_epochs=2.0), least=0.1),
    "temperature": Case(lambda w: TemperatureSampling(len(w), temperature=2.0), least=0.1),
    "importance": Case(lambda w: ImportanceSampling(len(w), smoothing=0.5)),
}
each = pytest.mark.parametrize("name", sorted(CASES))
domain_counts = st.integers(1, 12)


def signals(k: int, case: Case) -> st.SearchStrategy[np.ndarray]:
    numbers = st.lists(st.floats(case.least, 1), min_size=k, max_size=k)
    return numbers.map(lambda xs: np.array(xs, np.float64))


def starts(k: int) -> st.SearchStrategy[np.ndarray]:
    numbers = st.lists(st.floats(0.1, 1), min_size=k, max_size=k)
    return numbers.map(lambda xs: np.array(xs, np.float64))


@each
@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=domain_counts)
def test_weights_stay_on_the_simplex(name, data, k):
    case = CASES[name]
    method = case.make(data.draw(starts(k)))
    assert_on_simplex(method.weights, k)
    for _ in range(3):
        weights = method.update(data.draw(signals(k, case)))
        assert_on_simplex(weights, k)
        assert np.array_equal(weights, method.weights)


@each
@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=domain_counts)
def test_a_permutation_of_the_domains_commutes(name, data, k):
    case = CASES[name]
    start = data.draw(starts(k))
    order = np.array(data.draw(st.permutations(range(k))))
    method, permuted = case.make(start), case.make(start[order])
    for _ in range(3):
        signal = data.draw(signals(k, case))
        expected = method.update(signal)[order]
        assert permuted.update(signal[order]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@each
@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=domain_counts, stop=st.integers(0, 4))
def test_a_state_round_trip_mid_run_equals_no_stop(name, data, k, stop):
    case = CASES[name]
    start = data.draw(starts(k))
    stream = [data.draw(signals(k, case)) for _ in range(5)]
    method, twin = case.make(start), case.make(start)
    for signal in stream[:stop]:
        method.update(signal)
        twin.update(signal)
    resumed = case.make(np.ones(k) if name != "skillit" else start)
    resumed.load_state_dict(json.loads(json.dumps(twin.state_dict(), allow_nan=False)))
    assert np.array_equal(resumed.weights, method.weights)
    for signal in stream[stop:]:
        assert np.array_equal(resumed.update(signal), method.update(signal))
    assert resumed.state_dict() == method.state_dict()


@each
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_number_is_refused_and_nothing_changes(name, value):
    method = CASES[name].make(np.array([0.2, 0.3, 0.5]))
    method.update(np.array([0.1, 0.2, 0.3]))
    before = method.state_dict()
    with pytest.raises(WeightsError, match=r"at domain 1"):
        method.update(np.array([0.1, value, 0.3]))
    assert method.state_dict() == before


@each
@pytest.mark.parametrize("signal", [[0.1, 0.2], [[[0.1, 0.2, 0.3]]], "abc", 0.5])
def test_a_signal_of_the_wrong_shape_is_refused_and_nothing_changes(name, signal):
    method = CASES[name].make(np.array([0.2, 0.3, 0.5]))
    before = method.state_dict()
    with pytest.raises(WeightsError, match=r"shape|no array of real numbers"):
        method.update(signal)
    assert method.state_dict() == before


@each
def test_one_domain_has_all_the_weight(name):
    method = CASES[name].make(np.array([3.0]))
    assert method.weights.tolist() == [1.0]
    assert method.update(np.array([0.7])) == pytest.approx([1.0], rel=1e-15)


@each
def test_returned_weights_are_copies(name):
    method = CASES[name].make(np.array([0.2, 0.3, 0.5]))
    method.update(np.array([0.1, 0.2, 0.3]))[0] = 7.0
    method.weights[0] = 7.0
    assert_on_simplex(method.weights, 3)


@each
def test_ten_thousand_domains_stay_on_the_simplex(name):
    """benchmarks/algorithms.py says how long an update takes."""
    rng = np.random.default_rng(3)
    method = CASES[name].make(rng.random(10_000) + 0.1)
    for _ in range(3):
        assert_on_simplex(method.update(rng.random(10_000)), 10_000)


@each
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(name):
    method = CASES[name].make(np.array([0.2, 0.3, 0.5]))
    state = method.state_dict()
    for change, message in (
        ({"version": 99}, "version is 99 where 1"),
        ({"algorithm": "other"}, "algorithm is 'other' where"),
        ({"num_domains": 4}, "num_domains is 4 where 3"),
    ):
        with pytest.raises(StateError, match=message):
            method.load_state_dict({**state, **change})
    for key in set(state) - {"version", "algorithm", "num_domains"}:
        with pytest.raises(StateError, match=f"the state has no '{key}'"):
            method.load_state_dict({k: v for k, v in state.items() if k != key})
        with pytest.raises(StateError, match=f"the state's {key}"):
            method.load_state_dict({**state, key: "nonsense"})
    assert method.state_dict() == state


def test_autoscale_keeps_the_contract_with_a_budget_for_a_signal():
    method, twin = AutoScale([1.0, 2.0], [3.0, 4.0]), AutoScale([1.0, 2.0], [3.0, 4.0])
    weights = method.update(50.0)
    twin.load_state_dict(json.loads(json.dumps(method.state_dict())))
    assert np.array_equal(twin.weights, weights)
    with pytest.raises(StateError, match="algorithm is 'dga'"):
        twin.load_state_dict({**method.state_dict(), "algorithm": "dga"})
    assert AutoScale([1.0], [2.0]).update(9.0).tolist() == [1.0]


def test_a_damaged_state_names_what_is_wrong():
    method = DoReMi([0.5, 0.5])
    state = method.state_dict()
    for change, message in (
        ({"weights": [0.5, 0.6]}, "sum to 1.1 where 1"),
        ({"weights": [1.5, -0.5]}, "is -0.5 at domain 1"),
        ({"weights": [0.5, None]}, "weights is not finite"),
        ({"weights": [1.0]}, r"shape \(1,\) where \(2,\)"),
        ({"num_averaged": -1}, "num_averaged is -1 where a count"),
        ({"num_averaged": 1.5}, "num_averaged is 1.5 where a count"),
    ):
        with pytest.raises(StateError, match=message):
            method.load_state_dict({**state, **change})
    dga = DGA([0.5, 0.5], step_size=1.0, ema=0.1, update_every=1)
    with pytest.raises(StateError, match="no log-weights"):
        dga.load_state_dict({**dga.state_dict(), "logits": [None, None]})
