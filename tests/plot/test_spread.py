"""Labels that do not cover each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.plot.spread import spread

PLACES = st.lists(st.floats(0, 1), max_size=12)


@given(wanted=PLACES, gap=st.floats(0.001, 0.3))
def test_labels_are_a_gap_apart_in_order_and_inside(wanted, gap):
    found = spread(wanted, gap)
    fits = min(gap, 1 / max(len(wanted) - 1, 1))
    in_order = found[np.argsort(wanted, kind="stable")]
    assert (np.diff(in_order) >= fits - 1e-9).all()
    assert ((found >= -1e-9) & (found <= 1 + 1e-9)).all()


def test_labels_that_are_apart_stay_where_they_are():
    assert spread([0.9, 0.1, 0.5], 0.2).tolist() == pytest.approx([0.9, 0.1, 0.5])


def test_labels_at_an_edge_are_pushed_inwards():
    assert spread([1.0, 1.0, 1.0], 0.1).tolist() == pytest.approx([0.8, 0.9, 1.0])


def test_no_label_is_no_place():
    assert spread([], 0.1).size == 0
