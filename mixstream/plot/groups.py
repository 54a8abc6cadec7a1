"""Many domains -> the few that are named, and one group of all the others."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixstream.arrays import Vector
from mixstream.plot.palette import OTHERS, OTHERS_AREA, STYLES, Style

__all__ = ["Groups", "domain_groups", "printable"]

_MAX_NAME = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Which domains have a name and a colour of their own in a picture."""

    named: tuple[str, ...]
    """In the order in which they are stacked."""
    others: tuple[str, ...]
    """The domains that are one grey group; perhaps none."""

    @property
    def labels(self) -> tuple[str, ...]:
        """A printable label for each group, the others last."""
        labels = tuple(map(printable, self.named))
        if len(self.others) == 1:
            return (*labels, printable(self.others[0]))
        return (*labels, f"{len(self.others)} others") if self.others else labels

    @property
    def styles(self) -> tuple[Style, ...]:
        """A style for each group, as for lines."""
        return STYLES[: len(self.named)] + (OTHERS,) * bool(self.others)

    @property
    def areas(self) -> tuple[str, ...]:
        """A colour for each group, as for surfaces."""
        return tuple(s.colour for s in STYLES[: len(self.named)]) + (OTHERS_AREA,) * bool(
            self.others
        )

    def summed(self, domains: Sequence[str], values: Vector) -> Vector:
        """Shares of domains as shares of groups.

        Args:
            domains: K names; those of another run, too, and a group without any is 0.
            values: (n, K).

        Returns:
            (n, number of groups) float64; every column of `values` is in one of them.
        """
        place = {name: index for index, name in enumerate(self.named)}
        group = [place.get(name, len(self.named)) for name in domains]
        sums = np.zeros((len(values), len(self.labels)))
        for column, index in enumerate(group):
            sums[:, index] += values[:, column]
        return sums

    def columns(self, domains: Sequence[str]) -> tuple[list[int | None], list[int]]:
        """The place of each named domain in `domains` (None if it is not there), and the others."""
        places = {name: index for index, name in enumerate(domains)}
        named = set(self.named)
        rest = [index for index, name in enumerate(domains) if name not in named]
        return [places.get(name) for name in self.named], rest


def domain_groups(shares: Sequence[dict[str, float]]) -> Groups:
    """The groups of one or several runs, so that a domain has one colour in all of them.

    Args:
        shares: for each run the mean share of each of its domains.

    Returns:
        All domains by name where there are colours for them; else the largest of them by name, in
        the order of the runs' manifests.
    """
    size: dict[str, float] = {}
    for run in shares:
        for name, share in run.items():
            size[name] = max(size.get(name, 0.0), share)
    chosen = sorted(size, key=lambda name: -size[name])[: len(STYLES)]
    named = tuple(name for name in size if name in set(chosen))
    return Groups(named=named, others=tuple(name for name in size if name not in set(chosen)))


def printable(name: str, max_length: int = _MAX_NAME) -> str:
    r"""A name as a label: one short line without what would steer a terminal or a text's way.

    >>> printable("web\n\u202eevil")
    'web··evil'
    """
    categories = map(unicodedata.category, name)
    steers = [kind[0] == "C" or kind in ("Zl", "Zp") for kind in categories]
    plain = "".join("·" if is_bad else c for c, is_bad in zip(name, steers, strict=True))
    plain = plain.strip() or repr(name)
    return plain if len(plain) <= max_length else f"{plain[: max_length - 1]}…"
