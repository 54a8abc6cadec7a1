"""Hypothesis strategies that several tests share: seeds, names, weights, layouts, samplers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Layout: TypeAlias = dict[str, NDArray[np.int64]]

ODD_NAMES = (
    "",
    " ",
    "Ünïcode",
    "中文/网页",
    "a\0b",
    "e\u0301",
    "\u00e9",
    "🧪",
    "\u202eevil",
    "a.b\n",
)
"""Legal names that meet the edges of encodings: empty, spaces, NUL, two ways to write one glyph."""


def seeds() -> st.SearchStrategy[int]:
    """A seed of a run, the edges often."""
    return st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


def domain_names(min_size: int = 1, max_size: int = 6) -> st.SearchStrategy[list[str]]:
    """Distinct names; any text that UTF-8 can hold."""
    text = st.text(st.characters(codec="utf-8"), max_size=8)
    return st.lists(
        st.sampled_from(ODD_NAMES) | text, min_size=min_size, max_size=max_size, unique=True
    )


def shard_rows(max_shards: int = 6, max_rows: int = 40) -> st.SearchStrategy[NDArray[np.int64]]:
    """Rows of each shard of one domain: no shard, empty shards and shards of one row included."""
    sizes = st.sampled_from([0, 1]) | st.integers(0, max_rows)
    return st.lists(sizes, max_size=max_shards).map(lambda x: np.array(x, dtype=np.int64))


@st.composite
def layouts(
    draw: st.DrawFn, min_domains: int = 1, max_domains: int = 5, max_shards: int = 6
) -> Layout:
    """Names and rows of shards; at least one row in all."""
    names = draw(domain_names(min_domains, max_domains))
    layout = {name: draw(shard_rows(max_shards)) for name in names}
    if sum(int(rows.sum()) for rows in layout.values()) == 0:
        layout[names[0]] = np.array([draw(st.integers(1, 40))], dtype=np.int64)
    return layout


def simplexes(k: int) -> st.SearchStrategy[NDArray[np.float64]]:
    """(k,) float64 weights that sum to 1; zeros, ones and very small weights included."""
    small = st.sampled_from([0.0, 1.0, 1e-300, 5e-324, 2.0**-40])
    numbers = st.lists(small | st.floats(0, 1), min_size=k, max_size=k)
    return numbers.filter(lambda x: sum(x) > 1e-200).map(_normalised)


@st.composite
def layout_weights(draw: st.DrawFn, layout: Layout) -> NDArray[np.float64]:
    """(K,) float64 weights, sum 1, that a layout accepts: 0 for every domain without rows."""
    filled = np.array([rows.sum() > 0 for rows in layout.values()])
    weights = np.zeros(len(layout))
    weights[filled] = draw(simplexes(int(filled.sum())))
    return weights


@st.composite
def sampler_settings(draw: st.DrawFn, layout: Layout, *, limits: bool = True) -> dict[str, Any]:
    """Keyword arguments of a MixSampler over a layout."""
    settings: dict[str, Any] = {
        "seed": draw(seeds()),
        "num_canonical_nodes": draw(st.sampled_from([1, 1, 2, 3, 7])),
        "shuffle": draw(st.sampled_from([True, True, False])),
        "shuffle_block_rows": draw(st.sampled_from([1, 3, 10, 1 << 18])),
    }
    if draw(st.booleans()):
        settings["sampling"] = draw(st.sampled_from(["stratified", "micro_batch"]))
        settings["stratum"] = draw(st.sampled_from([1, 2, 5, 8, 33]))
    if limits and draw(st.booleans()):
        caps = st.integers(1, 3)
        by_name = st.dictionaries(st.sampled_from(list(layout)), caps, min_size=1)
        settings["max_epochs"] = draw(caps | by_name)
        settings["on_exhausted"] = draw(st.sampled_from(["redistribute", "stop", "raise"]))
    return settings


def _normalised(numbers: list[float]) -> NDArray[np.float64]:
    weights = np.array(numbers, dtype=np.float64)
    return np.asarray(weights / weights.sum())
