import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.cluster.kmeans import Centres, fit_centres, fit_tree, nearest, prices_for_balance
from mixstream.errors import RecipeError


def points_of(numbers) -> np.ndarray:
    return np.array(numbers, dtype=np.float32).reshape(len(numbers), -1)


@pytest.fixture(scope="module")
def lopsided():
    """2,000 points: nine of ten in one broad heap, the others in a second one."""
    random = np.random.default_rng(0)
    near = random.normal(0, 1, (1800, 2))
    far = random.normal(8, 0.5, (200, 2))
    return np.concatenate((near, far)).astype(np.float32)


def shares(points, centres):
    return np.bincount(nearest(points, centres), minlength=len(centres.points)) / len(points)


def test_nearest_by_hand():
    centres = Centres(points_of([0, 4]), np.array([0, 8], np.float32))
    assert nearest(points_of([3, 3.5, -1, 9]), centres).tolist() == [0, 1, 0, 1]
    free = Centres(points_of([0, 4]), np.zeros(2, np.float32))
    assert nearest(points_of([2, 2.1]), free).tolist() == [0, 1], "a tie goes to the first"


@settings(max_examples=50, deadline=None)
@given(data=st.data(), n=st.integers(1, 30), k=st.integers(1, 6))
def test_a_points_cluster_is_the_cheapest_whatever_the_other_points(data, n, k):
    numbers = st.floats(-5, 5, width=32)
    points = points_of(data.draw(st.lists(st.tuples(numbers, numbers), min_size=n, max_size=n)))
    middle = points_of(data.draw(st.lists(st.tuples(numbers, numbers), min_size=k, max_size=k)))
    prices = np.array(data.draw(st.lists(st.floats(0, 9, width=32), min_size=k, max_size=k)))
    centres = Centres(middle, prices.astype(np.float32))
    found = nearest(points, centres)
    cost = ((points[:, None] - middle) ** 2).sum(axis=2) + prices
    assert cost[np.arange(n), found] == pytest.approx(cost.min(axis=1), abs=1e-3)
    assert [nearest(point[None], centres)[0] for point in points] == found.tolist()


def test_balance_evens_the_shares_out(lopsided):
    plain = fit_centres(lopsided, 8, balanced=False, seed=0)
    even = fit_centres(lopsided, 8, balanced=True, seed=0)
    assert not plain.prices.any()
    assert shares(lopsided, even).max() < 1.25 / 8
    assert shares(lopsided, even).min() > 0.75 / 8
    assert shares(lopsided, plain).max() > 1.25 / 8


def test_balance_holds_for_points_that_were_not_in_the_sample(lopsided):
    even = fit_centres(lopsided[::2], 5, balanced=True, seed=0)
    assert shares(lopsided[1::2], even).max() < 1.35 / 5


def test_equal_points_stay_together_at_any_price():
    points = points_of([0.0] * 90 + [1.0] * 10)
    centres = fit_centres(points, 5, balanced=True, seed=0)
    assert len(centres.points) == 2, "there are no more different points"
    assert len(set(nearest(points[:90], centres).tolist())) == 1
    assert prices_for_balance(points[:90], points[:1]).tolist() == [0]


def test_one_cluster_takes_all(lopsided):
    centres = fit_centres(lopsided, 1, balanced=True, seed=0)
    assert centres.prices.tolist() == [0]
    assert not nearest(lopsided, centres).any()


def test_a_fit_is_a_function_of_its_seed(lopsided):
    first, again, other = (fit_centres(lopsided, 6, balanced=True, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first.points, again.points)
    assert np.array_equal(first.prices, again.prices)
    assert not np.array_equal(first.points, other.points)


def test_a_tree_has_fine_clusters_inside_coarse_ones():
    points = points_of([*np.linspace(0, 1, 60), *np.linspace(9, 10, 60), 99.0, 99.0])
    coarse, inside = fit_tree(points, 3, 4, balanced=False, seed=0)
    sizes = sorted(len(fine.points) for fine in inside)
    assert sizes == [1, 4, 4], "the last heap holds one point twice"
    for centre, fine in zip(coarse.points, inside, strict=True):
        assert np.abs(fine.points - centre).max() < 1


def test_without_scikit_learn_the_error_says_how_to_install_it(lopsided, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(RecipeError, match=r"clusters need scikit-learn: pip install"):
        fit_centres(lopsided, 3, balanced=True, seed=0)
