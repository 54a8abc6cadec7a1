"""What rows tell of themselves is the same for every dtype, and however many are looked at."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.corpus import segments
from mixstream.corpus.segments import num_padding, padding_mask, segment_starts

END = 7


def test_worked_examples_in_the_docstrings_hold():
    assert doctest.testmod(segments).failed == 0


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_masks_take_rows_of_any_dtype_and_of_none(dtype):
    rows = np.array([[1, END, END], [END, 1, 2]], dtype)
    assert padding_mask(rows, END).tolist() == [[False, False, True], [False, False, False]]
    assert segment_starts(rows, END).tolist() == [[True, False, True], [True, True, False]]
    assert padding_mask(rows[:0], END).shape == segment_starts(rows[:0], END).shape == (0, 3)
    assert num_padding(rows, END) == 1
    assert num_padding(rows[:0], END) == num_padding(rows[:, :0], END) == 0


@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(0, 12), st.integers(1, 9)),
    block_ids=st.integers(1, 40),
)
def test_padding_is_counted_in_every_row_however_many_are_looked_at_together(
    seed, shape, block_ids
):
    rows = np.random.default_rng(seed).integers(END - 1, END + 1, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_BLOCK_IDS", block_ids)
        assert num_padding(rows, END) == padding_mask(rows, END).sum()
