"""Counts of running units -> how far a conversion is, domain by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixstream.arrays import Counts
from mixstream.corpus.plan import Unit
from mixstream.corpus.unit import UnitReport

__all__ = ["DomainWork", "Progress", "Work", "WorkLog"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A unit that has just ended, and how much of the work that makes."""

    unit: Unit
    report: UnitReport
    done_bytes: int
    """Of the input files, those of earlier runs included."""
    total_bytes: int
    """Of all input files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainWork:
    """How far a domain is, units that still run included."""

    done_bytes: int
    """Of its files as they lie on disk."""
    total_bytes: int
    documents: int
    """That went into rows so far."""
    tokens: int
    """Of those documents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """How far a conversion is."""

    domains: Mapping[str, DomainWork]
    earlier_bytes: int
    """Of done_bytes, those that an earlier run had finished before this one began."""
    earlier_tokens: int

    @property
    def all(self) -> DomainWork:
        """The sum of the domains."""
        parts = self.domains.values()
        return DomainWork(
            done_bytes=sum(each.done_bytes for each in parts),
            total_bytes=sum(each.total_bytes for each in parts),
            documents=sum(each.documents for each in parts),
            tokens=sum(each.tokens for each in parts),
        )


class WorkLog:
    """Remembers what is known of each unit; gives the sums.

    Args:
        units: all of them.
        reports: by digest, of those that earlier runs finished.
    """

    def __init__(self, units: Sequence[Unit], reports: Mapping[str, UnitReport]) -> None:
        self._names = list(dict.fromkeys(unit.domain for unit in units))
        domain = {name: number for number, name in enumerate(self._names)}
        self._domain = np.array([domain[unit.domain] for unit in units], np.int64)
        self._bytes = np.array([unit.num_bytes for unit in units], np.int64)
        self._place = {unit.digest: number for number, unit in enumerate(units)}
        self._counts = np.zeros((len(units), 3), np.int64)
        self._left = np.array([unit.digest not in reports for unit in units], np.bool_)
        for unit in units:
            if unit.digest in reports:
                self.finish(unit, reports[unit.digest])
        self._earlier = self._counts.sum(axis=0).tolist()

    def update(self, counts: Counts) -> None:
        """Takes (u, 3) bytes, documents and tokens of the units that were left at the start."""
        places = np.flatnonzero(self._left)
        self._counts[places] = np.maximum(self._counts[places], counts)
        self._counts[:, 0] = np.minimum(self._counts[:, 0], self._bytes)

    def finish(self, unit: Unit, report: UnitReport) -> None:
        """A unit is at its end."""
        counts = (unit.num_bytes, report.documents, report.tokens)
        self._counts[self._place[unit.digest]] = counts

    def work(self) -> Work:
        """How far all is."""
        done = np.zeros((len(self._names), 3), np.int64)
        np.add.at(done, self._domain, self._counts)
        total = np.zeros(len(self._names), np.int64)
        np.add.at(total, self._domain, self._bytes)
        domains = {
            name: DomainWork(
                done_bytes=num_bytes, total_bytes=size, documents=documents, tokens=tokens
            )
            for name, size, (num_bytes, documents, tokens) in zip(
                self._names, total.tolist(), done.tolist(), strict=True
            )
        }
        earlier_bytes, _, earlier_tokens = self._earlier
        return Work(domains=domains, earlier_bytes=earlier_bytes, earlier_tokens=earlier_tokens)
