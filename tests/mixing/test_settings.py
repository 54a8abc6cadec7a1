"""Settings and layouts that cannot be met are refused, naming the value."""

import numpy as np
import pytest

from mixstream import MixSampler, WeightsError
from tests.mixing.support import LAYOUT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, r"seed is -1; give an integer from 0 to 2\*\*64 - 1"),
        ({"seed": 2**64}, r"seed is 18446744073709551616; give an integer"),
        ({"num_canonical_nodes": 0}, "num_canonical_nodes is 0; give at least 1"),
        ({"shuffle_block_rows": 0}, "shuffle_block_rows is 0; give at least 1"),
        ({"sampling": "random"}, r"sampling is 'random'; give one of \('independent', 'strat"),
        ({"sampling": "stratified"}, "sampling='stratified' with stratum=None; stratified"),
        ({"stratum": 8}, "sampling='independent' with stratum=8; .* independent takes none"),
        ({"sampling": "stratified", "stratum": 0}, "stratum is 0; give 1 to"),
        ({"sampling": "stratified", "stratum": 2**31}, "stratum is 2147483648; give 1 to"),
        ({"max_epochs": 1, "on_exhausted": "wrap"}, r"on_exhausted is 'wrap'; give one of"),
        ({"on_exhausted": "stop"}, "on_exhausted='stop' has no effect without max_epochs"),
        ({"max_epochs": 0}, "max_epochs of domain 'web' is 0; give at least 1"),
        ({"max_epochs": {"code": -2}}, "max_epochs of domain 'code' is -2"),
        ({"max_epochs": {"wiki": 2}}, "unknown domain 'wiki' in max_epochs; .* web, code, books"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MixSampler(LAYOUT, **options)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({}, "the layout holds 0 domains and no rows"),
        ({"a": np.array([], dtype=int)}, "the layout holds 1 domains and no rows"),
        ({"a": np.array([0, 0]), "b": np.array([0])}, "the layout holds 2 domains and no rows"),
        ({"a": np.array([3, -1])}, "layout of domain 'a' holds a shard of -1 rows"),
        ({"a": np.array([[1, 2]])}, r"layout of domain 'a' has shape \(1, 2\) and dtype int64"),
        ({"a": np.array(5)}, r"layout of domain 'a' has shape \(\)"),
        ({"a": np.array([1.5])}, "dtype float64; give the rows of each shard"),
    ],
)
def test_layouts_that_hold_nothing_or_no_counts_are_refused(layout, message):
    with pytest.raises(WeightsError, match=message):
        MixSampler(layout)
