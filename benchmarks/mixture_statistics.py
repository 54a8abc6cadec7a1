"""Marks of delivered rows -> how true the mix is, how well it is shuffled, what a resume repeats.

Marks are int64 arrays (..., 2) of domain and row, as `marked_rows.marks_of` reads them off batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.int64]
Vector = NDArray[np.float64]


def share_error(domains: NDArray[np.int64], weights: Vector) -> float:
    """(n,) domains, (K,) weights -> the largest difference of drawn and asked share."""
    drawn = np.bincount(domains, minlength=len(weights)) / domains.size
    return float(np.abs(drawn - weights).max())


def chi_square(domains: NDArray[np.int64], weights: Vector) -> float:
    """Chi-square per degree of freedom of the counts of groups of rows.

    About 1 where rows are drawn independently; 0 where each group has the very shares; more where
    rows of a domain come in clumps, up to about the size of a group (or the number of equal draws).

    Args:
        domains: (groups, n), the domain of each row of each group.
        weights: (K,), K at least 2, all positive.
    """
    num_groups, size = domains.shape
    num_domains = len(weights)
    places = np.arange(num_groups)[:, None] * num_domains + domains
    counts = np.bincount(places.ravel(), minlength=num_groups * num_domains)
    expected = size * weights
    excess = (counts.reshape(num_groups, num_domains) - expected) ** 2 / expected
    return float(excess.sum() / (num_groups * (num_domains - 1)))


def rounds(marks: list[Marks], num_workers: int) -> NDArray[np.int64]:
    """A (steps, B, 2) a rank -> (rounds, n) domains of what all workers make at once."""
    num_steps = min(len(each) for each in marks)
    size = max(num_workers, 1)
    num_rounds = num_steps // size
    domains = np.stack([each[: num_rounds * size, :, 0] for each in marks], axis=1)
    return domains.reshape(num_rounds, -1)


def equal_batches(marks: list[Marks]) -> float | None:
    """The share of steps at which ranks 0 and 1 have the same domains in the same order."""
    if len(marks) < 2:
        return None
    num_steps = min(len(each) for each in marks)
    same = marks[0][:num_steps, :, 0] == marks[1][:num_steps, :, 0]
    return float(same.all(axis=1).mean())


def keys(marks: Marks) -> NDArray[np.int64]:
    """(..., 2) -> (n,), one number a row of the corpus."""
    flat = marks.reshape(-1, 2)
    return np.asarray((flat[:, 0] << 32) | flat[:, 1])


def repeated(before: Marks, after: Marks) -> float:
    """The share of `after` that was delivered before, or twice after."""
    late = keys(after)
    fresh = np.setdiff1d(late, keys(before)).size
    return 1 - fresh / late.size


def in_order(order: Marks, before: Marks, after: Marks) -> float:
    """The share of `after` that goes on in the order of its domain.

    Args:
        order: what the run delivers with no change, long enough.
        before: rows until the change, which `order` begins with.
        after: rows since the change; only as many of a domain as `order` still has count.
    """
    num_right, num_known = 0, 0
    for domain in np.unique(after.reshape(-1, 2)[:, 0]):
        old, early, late = (_rows_of(domain, marks) for marks in (order, before, after))
        coming = old[early.size :]
        size = min(coming.size, late.size)
        num_right += int((coming[:size] == late[:size]).sum())
        num_known += size
    return num_right / num_known if num_known else 0.0


def neighbour_distance(marks: Marks, num_rows: NDArray[np.int64]) -> float:
    """How far neighbours of a domain in the stream lie apart in its source; 1 is a random order.

    The mean distance over the third of the domain's rows that random pairs are apart on average.
    """
    distances, weights = [], []
    for domain, total in enumerate(num_rows):
        rows = _rows_of(domain, marks)
        if rows.size > 1:
            distances.append(np.abs(np.diff(rows)).mean() * 3 / total)
            weights.append(rows.size)
    return float(np.average(distances, weights=weights))


def adjacent_share(marks: Marks) -> float:
    """The share of neighbours of a domain that are neighbours in its source too."""
    found = [
        np.abs(np.diff(_rows_of(d, marks))) == 1 for d in np.unique(marks.reshape(-1, 2)[:, 0])
    ]
    return float(np.concatenate(found).mean())


def most_shards_open(marks: Marks, rows_per_shard: int) -> int:
    """Shards that lie between their first and last row of an epoch at once, all domains together.

    So many must be near at the same time, if no shard is to be fetched twice in an epoch. Rows that
    come again count for the first time only.
    """
    flat = marks.reshape(-1, 2)
    _, first = np.unique(keys(flat), return_index=True)
    first.sort()
    shards = (flat[first, 0] << 32) | (flat[first, 1] // rows_per_shard)
    names, starts = np.unique(shards, return_index=True)
    ends = shards.size - 1 - np.unique(shards[::-1], return_index=True)[1]
    change = np.zeros(shards.size + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, ends + 1, -1)
    assert names.size == ends.size, "each shard begins and ends"
    return int(change.cumsum().max())


def _rows_of(domain: int, marks: Marks) -> NDArray[np.int64]:
    flat = marks.reshape(-1, 2)
    return np.asarray(flat[flat[:, 0] == domain, 1])
