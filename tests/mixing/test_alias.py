"""Weights -> integer tables -> domains: exact masses, fair draws, strata within one row."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mixstream.mixing.alias import (
    AliasTable,
    alias_table,
    domain_table,
    drawn_domains,
    stratified_domains,
    stratum_bounds,
    table_domains,
)
from mixstream.rng import row_words
from tests.strategies import seeds, simplexes

UNIT = 2**40
weight_vectors = st.integers(1, 40).flatmap(simplexes)


def masses(table: AliasTable) -> list[int]:
    """Units of each domain, summed column by column as the draw would spend them."""
    mass = [0] * len(table.alias)
    for column, (threshold, alias) in enumerate(
        zip(table.threshold.tolist(), table.alias.tolist(), strict=True)
    ):
        assert 0 <= threshold <= UNIT
        mass[column] += threshold
        mass[alias] += UNIT - threshold
    return mass


def assert_exact(weights: np.ndarray) -> None:
    """The table's masses are the weights, to one unit; the largest takes the rounding."""
    k = len(weights)
    mass = masses(alias_table(weights))
    assert sum(mass) == k * UNIT
    total = sum(map(Fraction, weights.tolist()))
    wanted = [Fraction(w) / total * k * UNIT for w in weights.tolist()]
    error = [abs(m - w) for m, w in zip(mass, wanted, strict=True)]
    largest = int(np.argmax(weights))
    # float64 products are right to 2^-53 of their value, which is below a unit for w K < 2^13
    slack = [1 + w * Fraction(2) ** -50 for w in wanted]
    assert all(e <= s for i, (e, s) in enumerate(zip(error, slack, strict=True)) if i != largest)
    assert error[largest] <= sum(slack)
    assert all(m == 0 for m, w in zip(mass, weights.tolist(), strict=True) if w == 0)


def test_alias_table_by_hand():
    # masses 1.5, 1.75, 0.25, 0.5 of a column: 2 is filled by 0, which falls to 0.75 and is filled
    # by 1; 3 is filled by 1, which ends at exactly one column
    table = alias_table(np.array([0.375, 0.4375, 0.0625, 0.125]))
    assert (table.threshold / UNIT).tolist() == [0.75, 1.0, 0.25, 0.5]
    assert table.alias.tolist() == [1, 1, 0, 1]


def test_alias_table_where_an_excess_ends_just_where_a_deficit_starts():
    table = alias_table(np.array([0.375, 0.125, 0.375, 0.125]))
    assert masses(table) == [3 * UNIT // 2, UNIT // 2, 3 * UNIT // 2, UNIT // 2]


def test_one_domain_has_all_the_mass():
    table = alias_table(np.array([1.0]))
    assert masses(table) == [UNIT]
    assert (drawn_domains(table, row_words(0, 0, 0, 100)) == 0).all()


@settings(deadline=None, max_examples=300)
@given(weights=weight_vectors)
def test_masses_are_the_weights_to_a_unit_and_sum_to_exactly_k_units(weights):
    assert_exact(weights)


@pytest.mark.parametrize("k", [1, 2, 3, 22, 1000, 4096])
@pytest.mark.parametrize(
    "kind",
    [
        "equal",
        "one_hot",
        "one_hot_last",
        "tiny_next_to_one",
        "denormal",
        "dirichlet",
        "sparse",
        "geometric",
        "zipf",
        "half_zero",
        "nearly_equal",
    ],
)
def test_masses_are_exact_for_adversarial_weights(k, kind):
    rng = np.random.default_rng(k)
    weights = {
        "equal": lambda: np.full(k, 1.0),
        "one_hot": lambda: np.eye(1, k)[0],
        "one_hot_last": lambda: np.eye(1, k, k - 1)[0],
        "tiny_next_to_one": lambda: np.where(np.arange(k) == k // 2, 1.0, 1e-300),
        "denormal": lambda: np.where(np.arange(k) == 0, 1.0, 5e-324),
        "dirichlet": lambda: rng.dirichlet(np.full(k, 0.05)) + 1e-12,
        "sparse": lambda: rng.random(k) * (rng.random(k) < 0.1) + np.eye(1, k)[0],
        "geometric": lambda: 0.5 ** np.minimum(np.arange(k), 1000),
        "zipf": lambda: 1 / np.arange(1, k + 1),
        "half_zero": lambda: (np.arange(k) % 2 == 0).astype(float),
        "nearly_equal": lambda: 1 + rng.integers(-1, 2, k) * 2.0**-52,
    }[kind]()
    assert_exact(weights / math.fsum(weights.tolist()))


def test_a_hundred_thousand_domains_build_exactly():
    weights = np.random.default_rng(0).pareto(1.0, 10**5)
    assert_exact(weights / math.fsum(weights.tolist()))


def test_the_most_domains_that_int64_masses_allow():
    k = 2**22
    weights = np.full(k, 1 / k)
    weights[:2] = [1.5 / k, 0.5 / k]
    table = alias_table(weights)
    assert table.threshold[1] == UNIT // 2
    assert table.alias[1] == 0
    one_hot = alias_table(np.eye(1, k)[0])
    assert (one_hot.threshold[1:] == 0).all()
    assert (one_hot.alias == 0).all()
    with pytest.raises(AssertionError, match="overflow int64"):
        alias_table(np.full(k + 1, 1 / (k + 1)))


def test_drawn_domains_by_hand():
    # column = word * 4 >> 64; own domain where the top 40 bits of the second word < threshold
    table = alias_table(np.array([0.375, 0.4375, 0.0625, 0.125]))
    quarter, last = 2**62, 2**64 - 1
    below, at = 2**62 - 2**24, 2**62  # column 2 keeps a quarter: 2^38 units, 2^62 of a word
    words = [(0, 0), (quarter - 1, last), (quarter, last), (2 * quarter, below), (2 * quarter, at)]
    words += [(3 * quarter - 1, at), (3 * quarter, 2**63 - 1), (last, 2**63), (last, last)]
    expected = [0, 1, 1, 2, 0, 0, 3, 1, 1]
    assert drawn_domains(table, np.array(words, dtype=np.uint64)).tolist() == expected


@pytest.mark.parametrize("k", [3, 7, 1000, 2**22 - 1])
def test_the_column_is_the_exact_product_of_the_word_and_k(k):
    rng = np.random.default_rng(k)
    edges = [(2**64 * c) // k + d for c in rng.integers(1, k, 200).tolist() for d in (-1, 0, 1)]
    words = np.zeros((len(edges) + 2, 2), dtype=np.uint64)
    words[:, 0] = [*edges, 0, 2**64 - 1]
    identity = AliasTable(np.full(k, UNIT, dtype=np.uint64), np.arange(k))
    exact = [int(word) * k >> 64 for word in words[:, 0].tolist()]
    assert drawn_domains(identity, words).tolist() == exact


@settings(deadline=None)
@given(weights=weight_vectors, seed=seeds(), start=st.integers(0, 2**60))
def test_a_domain_of_weight_0_is_never_drawn(weights, seed, start):
    rows = np.arange(start, start + 500)
    for stratum in (None, 1, 7, 500):
        drawn = table_domains(domain_table(weights, stratum), rows, seed=seed, stratum=stratum)
        assert drawn.dtype == np.int64
        assert (weights[drawn] > 0).all()


@pytest.mark.parametrize("k", [2, 22, 1000])
@pytest.mark.parametrize("seed", [0, 17, 2**64 - 1])
def test_drawn_counts_pass_a_chi_square(k, seed):
    weights = np.random.default_rng(k).dirichlet(np.ones(k)) + 1e-4
    weights /= weights.sum()
    rows = np.arange(1_000_000)
    drawn = table_domains(alias_table(weights), rows, seed=seed, stratum=None)
    assert chisquare(np.bincount(drawn, minlength=k), weights * rows.size).pvalue > 1e-4


def test_neighbouring_rows_are_drawn_independently():
    weights = np.array([0.5, 0.3, 0.2])
    drawn = table_domains(alias_table(weights), np.arange(900_000), seed=3, stratum=None)
    for lag in (1, 2, 8, 64):
        pairs = np.bincount(drawn[:-lag] * 3 + drawn[lag:], minlength=9)
        expected = np.outer(weights, weights).ravel() * pairs.sum()
        assert chisquare(pairs, expected).pvalue > 1e-4, lag


@settings(deadline=None)
@given(
    weights=weight_vectors,
    seed=seeds(),
    stratum=st.sampled_from([None, 1, 2, 5, 33]),
    start=st.integers(0, 2**50),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
)
def test_the_domain_of_a_row_does_not_depend_on_the_rows_asked_with_it(
    weights, seed, stratum, start, sizes
):
    table = domain_table(weights, stratum)
    ends = start + np.cumsum([0, *sizes])
    parts = [
        table_domains(table, np.arange(a, b), seed=seed, stratum=stratum)
        for a, b in itertools.pairwise(ends)
    ]
    whole = table_domains(table, np.arange(start, ends[-1]), seed=seed, stratum=stratum)
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_stratum_bounds_by_hand():
    one_row = 1 << (62 - 3)  # a stratum of 4 has 3 bits
    bounds = stratum_bounds(np.array([0.5, 0.0, 0.25, 0.25, 0.0]), 4)
    assert bounds.tolist() == [2 * one_row, 2 * one_row, 3 * one_row, 4 * one_row, 4 * one_row]


@settings(deadline=None, max_examples=200)
@given(weights=weight_vectors, stratum=st.sampled_from([1, 2, 3, 64, 4095, 2**31 - 1]))
def test_stratum_bounds_rise_to_the_whole_stratum_and_give_0_to_weight_0(weights, stratum):
    bounds = stratum_bounds(weights, stratum)
    parts = np.diff(bounds, prepend=0)
    whole = stratum << (62 - stratum.bit_length())
    assert bounds[-1] == whole
    assert (parts >= 0).all()
    assert (parts[weights == 0] == 0).all()
    assert np.abs(parts / whole - weights).max() < 1e-14 * len(weights)


def test_stratified_domains_by_hand():
    bounds = stratum_bounds(np.array([0.25, 0.75]), 2)  # domain 0 owns the first half row of two
    words = np.array([[0, 5], [2**63 - 1, 5], [2**63, 5], [2**64 - 1, 5]], dtype=np.uint64)
    drawn = [
        sorted(stratified_domains(bounds, 2, np.array([0, 1]), np.stack([word, word])).tolist())
        for word in words
    ]
    assert drawn == [[0, 1], [0, 1], [1, 1], [1, 1]]


@settings(deadline=None, max_examples=200)
@given(
    weights=weight_vectors,
    seed=seeds(),
    stratum=st.integers(1, 100) | st.sampled_from([1000, 4096]),
    first=st.integers(0, 10**9),
)
def test_every_stratum_holds_each_share_to_within_a_row(weights, seed, stratum, first):
    rows = np.arange(first * stratum, (first + 3) * stratum)
    drawn = table_domains(stratum_bounds(weights, stratum), rows, seed=seed, stratum=stratum)
    for part in drawn.reshape(3, stratum):
        counts = np.bincount(part, minlength=len(weights))
        share = weights * stratum
        assert (counts >= np.floor(share - 1e-9)).all()
        assert (counts <= np.ceil(share + 1e-9)).all()
        assert counts.sum() == stratum


@pytest.mark.parametrize("stratum", [1, 7, 64, 500])
@pytest.mark.parametrize("seed", [0, 5])
def test_strata_are_unbiased(stratum, seed):
    weights = np.array([0.45, 0.3, 0.13, 0.1, 0.015, 0.005])
    num_strata = 40_000 if stratum < 500 else 4_000
    rows = np.arange(num_strata * stratum)
    drawn = table_domains(stratum_bounds(weights, stratum), rows, seed=seed, stratum=stratum)
    share = weights * stratum
    rest = share - np.floor(share)  # how often a stratum holds one row more than the rounded share
    counts = np.bincount(drawn, minlength=6)
    sigma = np.sqrt(num_strata * rest * (1 - rest)) + 1e-6
    assert (np.abs(counts - share * num_strata) / sigma).max() < 4.5


@pytest.mark.parametrize("stratum", [4, 40])
def test_the_order_inside_a_stratum_is_random(stratum):
    weights = np.array([0.25, 0.75])
    rows = np.arange(60_000 * stratum)
    drawn = table_domains(stratum_bounds(weights, stratum), rows, seed=1, stratum=stratum)
    strata = drawn.reshape(-1, stratum)
    assert (strata.sum(axis=1) == stratum * 3 // 4).all()
    per_place = (strata == 0).sum(axis=0)
    assert chisquare(per_place).pvalue > 1e-4
    pairs = (strata[:, 0] == 0) & (strata[:, 1] == 0)
    quarter = stratum // 4
    chance = quarter * (quarter - 1) / (stratum * (stratum - 1))
    sigma = math.sqrt(max(1, len(strata) * chance * (1 - chance)))
    assert abs(pairs.sum() - len(strata) * chance) < 5 * sigma
    assert np.unique(strata[:50], axis=0).shape[0] > (3 if stratum == 4 else 45)


def test_two_seeds_and_two_strata_draw_different_rows():
    weights = np.full(4, 0.25)
    rows = np.arange(4000)
    for stratum in (None, 1000):
        table = domain_table(weights, stratum)
        first, second = (table_domains(table, rows, seed=s, stratum=stratum) for s in (1, 2))
        assert 0.7 < (first != second).mean() < 0.8  # 3/4 by chance
    drawn = table_domains(stratum_bounds(weights, 1000), rows, seed=1, stratum=1000)
    assert (drawn[:1000] != drawn[1000:2000]).mean() > 0.7
