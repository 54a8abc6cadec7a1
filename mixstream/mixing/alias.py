"""Weights -> a table of integers -> the domain of every row, from that row's random words.

Thresholds are integers and the draw compares integers, so two machines agree to the bit.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from mixstream.arrays import Counts, Vector, Words
from mixstream.rng import permuted, row_words

__all__ = [
    "AliasTable",
    "DomainTable",
    "alias_table",
    "domain_table",
    "drawn_domains",
    "micro_batch_domains",
    "stratified_domains",
    "stratum_bounds",
    "table_domains",
]

_UNIT_BITS = 40
"""A column of the alias table holds 2^40 units: a weight is met to 2^-40 / K, and K columns of
units fit int64 up to K = 2^22."""
_MAX_DOMAINS = 2**22
_DOMAIN_STREAM = 0x446F6D
"""The words that choose domains, apart from every other use of the seed."""
_LOW_32 = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)


class AliasTable(NamedTuple):
    """K columns of equal mass: the column's own domain below its threshold, its alias above."""

    threshold: Words
    """(K,) uint64 in [0, 2^40]."""
    alias: Counts
    """(K,) int64, a domain."""


DomainTable: TypeAlias = AliasTable | Counts
"""What one vector of weights is drawn by: an alias table, or the bounds of a stratum."""


def domain_table(weights: Vector, stratum: int | None) -> DomainTable:
    """The table for independent rows (stratum None) or for strata."""
    return alias_table(weights) if stratum is None else stratum_bounds(weights, stratum)


def table_domains(table: DomainTable, rows: Counts, *, seed: int, stratum: int | None) -> Counts:
    """The domains of some rows of the run.

    Args:
        table: from `domain_table` with the same stratum.
        rows: (n,) int64, n > 0, consecutive global rows.
        seed: of the run.
        stratum: rows of a stratum, or None.

    Returns:
        (n,) int64, indices into the domains.
    """
    if isinstance(table, AliasTable):
        return drawn_domains(table, row_words(seed, _DOMAIN_STREAM, int(rows[0]), rows.size))
    assert stratum is not None, "bounds of a stratum without its size"
    first, last = int(rows[0]) // stratum, int(rows[-1]) // stratum
    words = row_words(seed, _DOMAIN_STREAM, first, last - first + 1)
    return stratified_domains(table, stratum, rows, words[rows // stratum - first])


def micro_batch_domains(
    table: DomainTable, rows: Counts, *, seed: int, micro_batch: int, num_nodes: int
) -> Counts:
    """The domains of some rows of the run, those of a micro-batch drawn as if they were one row.

    For 2 canonical nodes and micro-batches of 3 rows, rows 0, 2, 4 are drawn as row 0, rows 1, 3, 5
    as row 1, rows 6, 8, 10 as row 2.

    Args:
        table: from `domain_table` with stratum None.
        rows: (n,) int64, n > 0, consecutive global rows.
        seed: of the run.
        micro_batch: rows of a micro-batch, all of one canonical node.
        num_nodes: C.

    Returns:
        (n,) int64, indices into the domains.
    """
    number = rows // (num_nodes * micro_batch) * num_nodes + rows % num_nodes
    first = int(number.min())
    numbers = np.arange(first, int(number.max()) + 1)
    drawn = table_domains(table, numbers, seed=seed, stratum=None)
    return np.asarray(drawn[number - first])


def alias_table(weights: Vector) -> AliasTable:
    """A table that draws domain k with probability weights[k], to 2^-40 / K.

    Walker's alias method, built without a loop: the small columns (less than a unit of mass) stand
    in one line, the large ones in another, and each small one is filled by the large one whose
    excess is being spent when its turn comes. A large column that is spent below a unit is filled
    by the next one in turn. Both lines are cumulative sums, so their meeting points are binary
    searches. A weight of 0 has threshold 0 and is nobody's alias: it is never drawn.

    >>> table = alias_table(np.array([0.5, 0.25, 0.25, 0.0]))
    >>> (table.threshold / 2**40).tolist(), table.alias.tolist()
    ([1.0, 1.0, 1.0, 0.0], [0, 1, 2, 0])

    Args:
        weights: (K,) float64, sum 1, K at most 2^22.

    Source: Walker 1977, doi:10.1145/355744.355749; the construction by prefix sums follows
    Huebschle-Schneider and Sanders 2019, arXiv:1903.00227, section 4.
    """
    unit = 1 << _UNIT_BITS
    mass = _column_masses(weights, unit)
    small = np.flatnonzero(mass < unit)
    large = np.flatnonzero(mass >= unit)
    deficit_end = np.cumsum(unit - mass[small])
    excess_end = np.cumsum(mass[large] - unit)
    threshold = np.full(len(mass), unit, dtype=np.int64)
    alias = np.arange(len(mass), dtype=np.int64)
    threshold[small] = mass[small]
    alias[small] = large[np.searchsorted(excess_end, deficit_end - (unit - mass[small]))]
    # a large column is spent by the first small one whose deficit ends past its excess
    spender = np.searchsorted(deficit_end, excess_end[:-1], side="right")
    spent = np.flatnonzero(spender < len(small))
    threshold[large[spent]] = unit + excess_end[spent] - deficit_end[spender[spent]]
    alias[large[spent]] = large[spent + 1]
    return AliasTable(threshold.astype(np.uint64), alias)


def drawn_domains(table: AliasTable, words: Words) -> Counts:
    """The domain of each row.

    Args:
        table: of K domains.
        words: (n, 2 or more) uint64, each row's random words.

    Returns:
        (n,) int64, indices into the domains.
    """
    column = _scaled(words[:, 0], len(table.alias))
    keeps = (words[:, 1] >> np.uint64(64 - _UNIT_BITS)) < table.threshold.take(column)
    return np.asarray(np.where(keeps, column, table.alias.take(column)))


def stratum_bounds(weights: Vector, stratum: int) -> Counts:
    """Where each domain's part of a stratum ends, in units of 2^-r rows, r = 62 - bits(stratum).

    Args:
        weights: (K,) float64, sum 1.
        stratum: rows of a stratum.

    Returns:
        (K,) int64, rising; the last one of a positive weight, and those after it, are stratum << r.
    """
    scale = float(stratum << _stratum_shift(stratum))
    bounds: Counts = np.rint(np.minimum(np.cumsum(weights), 1.0) * scale).astype(np.int64)
    bounds[np.flatnonzero(weights)[-1] :] = int(scale)
    return bounds


def stratified_domains(bounds: Counts, stratum: int, rows: Counts, words: Words) -> Counts:
    """The domain of each row when every stratum of rows holds each domain's share to within one.

    Systematic sampling: the rows of a stratum are dealt, in a random order, to points one row apart
    with one random offset; a domain takes the points that fall into its part. The number of rows of
    a domain is its share rounded down or up, and right on average.

    Args:
        bounds: from `stratum_bounds`.
        stratum: rows of a stratum.
        rows: (n,) int64, global row numbers.
        words: (n, 2 or more) uint64, the words of each row's stratum.

    Returns:
        (n,) int64, indices into the domains.
    """
    shift = _stratum_shift(stratum)
    place = permuted(rows % stratum, np.array(stratum), words[:, 1])
    point = (place << shift) + (words[:, 0] >> np.uint64(64 - shift)).astype(np.int64)
    return np.asarray(np.searchsorted(bounds, point, side="right"), dtype=np.int64)


def _stratum_shift(stratum: int) -> int:
    return 62 - stratum.bit_length()


def _column_masses(weights: Vector, unit: int) -> Counts:
    """(K,) int64 masses that sum to exactly K units; the largest weight takes the rounding."""
    assert 0 < len(weights) <= _MAX_DOMAINS, f"{len(weights)} domains overflow int64 masses"
    mass = np.rint(weights * float(len(weights) * unit)).astype(np.int64)
    mass[np.argmax(weights)] += len(weights) * unit - mass.sum()
    return np.asarray(mass)


def _scaled(word: Words, num_columns: int) -> Counts:
    """floor(word * num_columns / 2^64), exactly: (n,) uint64 -> (n,) int64 below num_columns."""
    columns = np.uint64(num_columns)
    low = ((word & _LOW_32) * columns) >> _S32
    return (((word >> _S32) * columns + low) >> _S32).astype(np.int64)
