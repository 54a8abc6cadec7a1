"""A loader -> the mixture at a step as a flat dict of numbers, as W&B and MLflow take it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from mixstream.arrays import Counts
from mixstream.loader import Loader

__all__ = ["MixtureLog"]

_FOREIGN = re.compile(r"[^\w. /-]", flags=re.ASCII)  # what MLflow refuses in a name


class MixtureLog:
    """The mixture of a run as numbers by name, of the rows of all ranks that were delivered.

    `wandb.log(mixture.log(step), step=step)`, `mlflow.log_metrics(mixture.log(step), step=step)`.

    Args:
        loader: of the run. If it resumes, make the MixtureLog after `load_state_dict`: the first
            share is of the rows since then.
        prefix: the first part of every name.
    """

    def __init__(self, loader: Loader, *, prefix: str = "mix") -> None:
        self._loader, self._prefix = loader, prefix
        self._names = metric_names(loader.domains)
        self._num_rows = np.maximum(loader.corpus.num_rows, 1)
        self._counts, _ = self._delivered()
        self._step: int | None = None
        self._latest: dict[str, float] = {}

    @property
    def kinds(self) -> dict[str, list[str]]:
        """weight, drawn and epochs -> the names of their numbers, in the order of the domains."""
        return {
            kind: [f"{self._prefix}/{kind}/{name}" for name in self._names]
            for kind in ("weight", "drawn", "epochs")
        }

    def log(self, step: int) -> dict[str, float]:
        """The numbers at a step; asking again at the same step gives the same ones.

        Args:
            step: the trainer's own count, which tells one moment from another.

        Returns:
            `mix/weight/web`, the weight that is asked for; `mix/drawn/web`, the share of the rows
            since the last step that was logged (left out where there are none); `mix/epochs/web`,
            rows delivered over rows there are; `mix/rows`, rows delivered. In names, characters
            that MLflow refuses are `_`.
        """
        if step == self._step:
            return dict(self._latest)
        counts, weights = self._delivered()
        drawn = counts - self._counts
        numbers = {"weight": weights, "epochs": counts / self._num_rows}
        if drawn.min() >= 0 and drawn.sum() > 0:  # negative after an older state was loaded
            numbers["drawn"] = drawn / drawn.sum()
        found = {f"{self._prefix}/rows": float(counts.sum())}
        for kind, names in self.kinds.items():
            if kind in numbers:
                found.update(zip(names, numbers[kind].tolist(), strict=True))
        self._counts, self._step, self._latest = counts, step, found
        return dict(found)

    def _delivered(self) -> tuple[Counts, Counts]:
        """(K,) int64 rows of each domain, and (K,) float64 weights, after the last batch."""
        state = self._loader.state_dict()["batches"]["sampler"]
        weights: Mapping[str, float] = state["weights"]
        asked = np.array([weights[name] for name in self._loader.domains])
        return np.asarray(state["counts"], dtype=np.int64).sum(axis=0), asked


def metric_names(domains: Sequence[str]) -> list[str]:
    """Domain names as parts of metric names, all different: ["a:b", "a?b"] -> ["a_b", "a_b_"]."""
    names: dict[str, None] = {}
    for domain in domains:
        name = _FOREIGN.sub("_", domain)
        while name in names:
            name += "_"
        names[name] = None
    return list(names)
