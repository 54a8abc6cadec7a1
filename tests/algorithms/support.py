"""Oracle cases, and hypothesis strategies for signals and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

ORACLES = Path(__file__).resolve().parents[2].parent / "shared" / "oracles"

Vector = NDArray[np.float64]


def oracle(name: str) -> Any:
    """The cases of ../shared/oracles/<name>.json; skips the test where there are none."""
    path = ORACLES / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no oracle cases at {path}")
    return json.loads(path.read_text())


def vectors(k: int, low: float = -20.0, high: float = 20.0) -> st.SearchStrategy[Vector]:
    """(k,) float64 in [low, high]."""
    numbers = st.floats(low, high, allow_nan=False, allow_infinity=False)
    return st.lists(numbers, min_size=k, max_size=k).map(lambda xs: np.array(xs, np.float64))


def simplexes(k: int, floor: float = 1e-6) -> st.SearchStrategy[Vector]:
    """(k,) float64 on the simplex, no weight 0."""
    return vectors(k, floor, 1.0).map(lambda x: x / x.sum())


def sparse_simplexes(k: int) -> st.SearchStrategy[Vector]:
    """(k,) float64 on the simplex, some weights 0."""
    numbers = st.one_of(st.just(0.0), st.floats(1e-6, 1.0))
    lists = st.lists(numbers, min_size=k, max_size=k).filter(lambda xs: sum(xs) > 0)
    return lists.map(lambda xs: np.array(xs) / np.sum(xs))


def assert_on_simplex(weights: Vector, k: int) -> None:
    """(k,) float64, finite, nowhere negative, sum 1."""
    assert weights.shape == (k,)
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
