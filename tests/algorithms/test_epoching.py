import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.algorithms import simulated_rows
from mixstream.errors import WeightsError
from tests.algorithms.support import oracle


def test_simulated_rows_by_hand():
    assert simulated_rows([3000, 501, 0], 2, 1000).tolist() == [6, 1, 0]
    assert simulated_rows([7], 5, 5).tolist() == [7]


def test_slices_equal_the_reference_and_a_slice_of_nothing_is_refused():
    case = oracle("simulated_epoching")
    budgets = case["experiment_budget"], case["target_budget"]
    held = [n for n, left in zip(case["true_length"], case["slice"], strict=True) if left]
    assert simulated_rows(held, *budgets).tolist() == [left for left in case["slice"] if left]
    names = ("web", "code", "books", "wiki")
    with pytest.raises(WeightsError, match=r"of the 90 rows of domain 3 \('wiki'\) none is left"):
        simulated_rows(case["true_length"], *budgets, domains=names)


@given(size=st.integers(1, 2**52), target=st.integers(1, 2**60), data=st.data())
def test_whole_numbers_are_divided_without_rounding(size, target, data):
    budget = data.draw(st.integers(1, target))
    if size * budget < target:
        with pytest.raises(WeightsError, match="none is left"):
            simulated_rows([size], budget, target)
    else:
        assert simulated_rows(np.array([size]), budget, target).tolist() == [
            size * budget // target
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.5], 1, 2), "sizes hold 1.5; give a whole number"),
        (([-1], 1, 2), "sizes hold -1.0"),
        (([np.nan], 1, 2), "sizes hold nan"),
        (([[1]], 1, 2), r"sizes have shape \(1, 1\)"),
        (([9], 3, 2), "budget is 3 and target_budget 2; give what the small run draws"),
        (([9], 0, 2), "budget is 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(WeightsError, match=message):
        simulated_rows(*arguments)
