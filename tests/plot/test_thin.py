"""Long series in few points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.plot.thin import thinned, thinned_changes

VALUES = st.lists(st.floats(-100, 100) | st.just(float("nan")), min_size=1, max_size=60)


@given(values=VALUES, max_points=st.integers(1, 30))
def test_a_thinned_series_is_short_and_hides_no_extreme(values, max_points):
    column = np.array(values)[:, None]
    found = thinned(np.arange(len(values)), column, max_points)
    assert len(found.steps) <= max_points
    assert len(found.mean) == len(found.low) == len(found.high) == len(found.steps)
    there = np.isfinite(found.mean)
    assert (found.low[there] <= found.mean[there] + 1e-9).all()
    assert (found.mean[there] <= found.high[there] + 1e-9).all()
    if np.isfinite(column).any():
        assert np.nanmin(found.low) == np.nanmin(column)
        assert np.nanmax(found.high) == np.nanmax(column)
    else:
        assert not there.any()


def test_a_short_series_is_left_as_it_is():
    found = thinned(np.array([3, 9]), np.array([[1.0], [2.0]]), 2)
    assert found.per_point == 1
    assert found.steps.tolist() == [3, 9]
    assert found.mean.tolist() == [[1.0], [2.0]]


def test_few_changes_are_exact_steps():
    edges, values, is_mean = thinned_changes(np.array([0, 4]), np.array([[1.0], [0.5]]), 10, 5)
    assert (edges.tolist(), values.tolist(), is_mean) == ([0, 4, 10], [[1.0], [0.5]], False)


@given(
    steps=st.lists(st.integers(0, 1000), min_size=1, max_size=40, unique=True).map(sorted),
    max_points=st.integers(1, 20),
    data=st.data(),
)
def test_thinning_changes_keeps_the_area(steps, max_points, data):
    ones = st.lists(st.floats(0, 1), min_size=len(steps), max_size=len(steps))
    weights = np.array(data.draw(ones))[:, None]
    edges, values, _ = thinned_changes(np.array(steps), weights, 1001, max_points)
    assert len(values) <= max_points
    whole = np.append(steps, 1001)
    area = (np.diff(whole) * weights[:, 0]).sum()
    assert (np.diff(edges) * values[:, 0]).sum() == pytest.approx(area, abs=1e-6)
