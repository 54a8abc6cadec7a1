"""Weights from users: every legal form is the same point, every illegal one is refused by name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixstream import MixstreamError, WeightsError
from mixstream.mixing.weights import WeightChange, natural_weights, simplex_point

NAMES = ("web", "code", "books")
ROWS = np.array([100, 50, 0])


def point(weights: object, names=NAMES, rows=ROWS) -> np.ndarray:
    return simplex_point(weights, names, rows, source="set_weights")


def test_weights_by_hand():
    assert point([1, 3, 0]).tolist() == [0.25, 0.75, 0.0]
    assert natural_weights(np.array([100, 300, 0])).tolist() == [0.25, 0.75, 0.0]


@pytest.mark.parametrize(
    "weights",
    [
        {"books": 0, "code": 3, "web": 1},
        [1, 3, 0],
        (1.0, 3.0, 0.0),
        np.array([1, 3, 0]),
        np.array([1, 3, 0], dtype=np.float16),
        np.array([2, 6, 0], dtype=np.uint8),
        np.array([1.0, 9.0, 3.0, 9.0, 0.0, 9.0])[::2],
        torch.tensor([1, 3, 0]),
        torch.tensor([0.25, 0.75, 0.0]),
        torch.tensor([1.0, 3.0, 0.0], dtype=torch.bfloat16, requires_grad=True),
        {"web": np.float32(1), "code": torch.tensor(3.0), "books": 0.0},
    ],
    ids=lambda weights: type(weights).__name__,
)
def test_every_form_of_the_same_weights_is_the_same_point(weights):
    result = point(weights)
    assert result.dtype == np.float64
    assert result.tolist() == [0.25, 0.75, 0.0]


def test_the_point_is_a_copy():
    given_weights = np.array([0.25, 0.75, 0.0])
    result = point(given_weights)
    given_weights[:] = 0
    assert result.tolist() == [0.25, 0.75, 0.0]


positive = st.floats(1e-200, 1e200) | st.sampled_from([0.0, 1e308, 1.7e308, 1e-300])


@given(values=st.lists(positive, min_size=1, max_size=50).filter(any))
def test_points_sum_to_1_and_keep_ratios_whatever_the_scale(values):
    names = [str(i) for i in range(len(values))]
    result = point(values, names, np.ones(len(values), dtype=np.int64))
    assert math.fsum(result.tolist()) == pytest.approx(1, abs=1e-14)
    assert (result >= 0).all()
    largest = max(values)
    wanted = np.array(values) / largest
    assert result / result.max() == pytest.approx(wanted, rel=1e-12, abs=1e-300)


@given(values=st.lists(st.floats(1e-3, 1), min_size=2, max_size=30), power=st.integers(-900, 900))
def test_a_power_of_two_changes_no_bit(values, power):
    names = [str(i) for i in range(len(values))]
    rows = np.ones(len(values), dtype=np.int64)
    scaled = np.array(values) * 2.0**power
    assert point(values, names, rows).tobytes() == point(scaled, names, rows).tobytes()


@pytest.mark.parametrize("values", [[5e-324, 5e-324], [1e-320, 0.0], [2.0**-1030, 2.0**-1030]])
def test_denormal_weights_are_weights(values):
    """DESIGN 6: any non-negative finite numbers with a positive sum, normalised."""
    result = point(values, ("a", "b"), np.array([1, 1]))
    assert result.sum() == 1
    assert result[0] >= 0.5


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"web": 1, "code": 1, "books": 0, "wiki": 1}, r"unknown domain 'wiki' in set_weights; "),
        ({"web": 1, "code": 1, "books": 0, "wiki": 1}, r"the corpus holds web, code, books\. "),
        ({"web": 1, "books": 0}, r"domain 'code' is missing in set_weights; .*web, code, books"),
        ({}, r"domain 'web' is missing"),
        ([1, math.nan, 0], r"weight of domain 'code' in set_weights is nan; give a finite"),
        ([math.inf, 1, 0], r"weight of domain 'web' in set_weights is inf; give a finite"),
        ([-math.inf, 1, 0], r"weight of domain 'web' in set_weights is -inf"),
        ([1, -0.25, 0], r"weight of domain 'code' in set_weights is -0\.25; .* at least 0"),
        ([0, 0, 0], r"all weights in set_weights are 0; .*web, code, books"),
        ([-0.0, 0, 0], r"all weights in set_weights are 0"),
        ([1, 1, 1], r"weight of domain 'books' in set_weights is 1\.0, but the domain holds no"),
        ([1, 1], r"set_weights has shape \(2,\); the corpus holds 3 domains: .*shape \(3,\)"),
        ([1, 1, 0, 0], r"set_weights has shape \(4,\)"),
        ([[1, 1, 0]], r"not one number a domain: float\(\) argument"),
        (np.array([[1, 1, 0]]), r"set_weights has shape \(1, 3\)"),
        (1.0, r"set_weights has shape \(\); the corpus holds 3 domains"),
        ([], r"set_weights has shape \(0,\)"),
        (
            ["much", "little", "none"],
            r"is \['much', .*, which is not one number a domain: 'much' is text",
        ),
        (np.array(["0.5", "0.25", "0.25"]), r"not one number a domain: its values have dtype <U4"),
        (torch.ones(3, device="meta"), r"not one number a domain"),
        (np.array([1, 1j, 0]), r"not one number a domain: its values have dtype complex128"),
        ([1, [1, 2], 0], r"not one number a domain"),
        ("web", r"set_weights is 'web', which is not one number a domain"),
        ({1.0, 2.0, 3.0}, r"not one number a domain"),
        ({"web": 1, "code": None, "books": 0}, r"'code'|not one number"),
        (torch.ones(2), r"set_weights has shape \(2,\)"),
        (torch.tensor([1.0, math.nan, 0.0]), r"weight of domain 'code' in set_weights is nan"),
    ],
)
def test_what_is_no_point_on_the_simplex_is_refused_by_name(weights, message):
    with pytest.raises(WeightsError, match=message) as caught:
        point(weights)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, MixstreamError)


def test_a_long_list_of_domains_is_cut_in_the_message():
    names = [f"d{i}" for i in range(12)]
    with pytest.raises(WeightsError, match=r"d9 and 2 more") as caught:
        point([0.0] * 12, names, np.ones(12, dtype=np.int64))
    assert "d10" not in str(caught.value)


def test_weights_by_name_cost_time_in_proportion_to_the_domains(seconds):
    names = tuple(f"domain {i}" for i in range(15_000))
    weights = dict.fromkeys(names, 1.0)
    with seconds(at_most=1):  # 0.02 s where names are looked up once; 5 s at K^2
        point(weights, names, np.ones(len(names), dtype=np.int64))


def test_a_change_is_frozen():
    change = WeightChange(at_row=3, weights=np.array([1.0]))
    with pytest.raises(AttributeError):
        change.at_row = 4
    assert (change.reason, change.at_step, change.num_batches_in_flight) == ("", None, 0)


@pytest.mark.parametrize(
    "weights",
    [
        {name: torch.tensor(2.0, requires_grad=True) for name in NAMES},
        {name: torch.tensor(2.0, dtype=torch.bfloat16) for name in NAMES},
        [torch.tensor(2.0, requires_grad=True)] * 3,
        (np.float32(2), 2, True + 1.0),
    ],
)
def test_numbers_of_any_library_are_numbers(weights):
    assert point(weights, rows=np.array([1, 1, 1])).tolist() == [1 / 3] * 3
