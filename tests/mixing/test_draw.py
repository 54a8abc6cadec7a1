"""How often a row's group came before, for all rows at once."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.mixing.draw import ordinals


def test_ordinals_by_hand():
    ordinal, groups, sizes = ordinals(np.array([5, 2, 5, 5]), np.array([0, 0, 7, 0, 0, 1]))
    assert ordinal.tolist() == [1, 7, 2, 3]
    assert groups.tolist() == [2, 5]
    assert sizes.tolist() == [1, 3]


@pytest.mark.parametrize("num_groups", [300, 1 << 16, (1 << 16) + 1, 100_000])
@given(data=st.data())
def test_ordinals_count_one_by_one(num_groups, data):
    edges = st.sampled_from([0, 1, 255, 256, num_groups - 1])
    group = data.draw(st.lists(edges | st.integers(0, num_groups - 1), min_size=1, max_size=60))
    counts = np.zeros(num_groups, dtype=np.int64)
    counts[group[0]] = 10**15
    before = counts.copy()
    ordinal, groups, sizes = ordinals(np.array(group), counts)
    seen: Counter[int] = Counter({group[0]: 10**15})
    for one, got in zip(group, ordinal.tolist(), strict=True):
        assert got == seen[one]
        seen[one] += 1
    assert dict(zip(groups.tolist(), sizes.tolist(), strict=True)) == Counter(group)
    assert (counts == before).all()
