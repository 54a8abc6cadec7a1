"""Chameleon: one embedding a domain -> weights by how much the domain has in common with others.

A domain's ridge leverage score says how far it is from being a mix of the others. Pre-training
draws the common ones, fine-tuning the unusual ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import as_float64, checked_number, checked_signal
from mixstream.algorithms.simplex import normalized, softmax, uniform_weights
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(K, D) float64, one row a domain."""


def leverage_scores(embeddings: Matrix, *, ridge: float) -> Vector:
    """Kernel ridge leverage scores of the centred embeddings, over their sum.

    diag(G (G + K ridge I)^-1) with G the Gram matrix of the embeddings less their mean.

    Args:
        embeddings: (K, D) float64, mean embedding of each domain by a small proxy model.
        ridge: lambda > 0; the larger, the closer the scores to the squared distances from the mean.

    Returns:
        (K,) float64; uniform where all embeddings are the same.

    Worked example: embeddings [[1], [-1]], ridge 1: eigenvalue 2 against 2, equal: [1/2, 1/2].

    Source: Xie, Tonin, Cevher 2025, arXiv:2505.24844; github.com/LIONS-EPFL/Chameleon, utils.py.
    The paper's text was not opened here.
    """
    centered = embeddings - embeddings.mean(axis=0)
    values, vectors = np.linalg.eigh(centered @ centered.T)
    shrunk = np.maximum(values, 0.0) / (np.maximum(values, 0.0) + len(embeddings) * ridge)
    scores = np.asarray((vectors**2) @ shrunk, dtype=np.float64)
    return normalized(scores) if scores.sum() > 0 else uniform_weights(len(embeddings))


class Chameleon:
    """Weights from the embeddings of the domains, asked anew whenever a domain is added.

    Signal: (K, D) mean embedding of each domain (any unit; centred here).
    Cost a step: none; asked once, K^3 for the scores. Before: embeddings of a few thousand rows a
    domain by a small model.
    Absent domain: every domain needs an embedding. Weight 0: none; neither absorbing nor floored.
    NaN: WeightsError, and the weights stay.
    K = 1: [1.0]. K = 10,000: minutes and 0.8 GB, once.

    Deviation: none known in the rule; scores of 0 (a domain exactly at the mean) count as 1e-12 of
    the whole, so that their inverse is finite.

    Source: Xie, Tonin, Cevher 2025, arXiv:2505.24844; github.com/LIONS-EPFL/Chameleon,
    compute_chameleon_weights.py.
    """

    def __init__(
        self,
        num_domains: int,
        *,
        ridge: float = 10.0,
        purpose: Literal["pretraining", "finetuning"] = "pretraining",
        temperature: float | None = None,
        domains: Sequence[str] = (),
    ):
        """Uniform weights until the first update.

        Args:
            num_domains: K.
            ridge: lambda, > 0.
            purpose: "pretraining" is softmax(1 / (score T)), "finetuning" softmax(score / T).
            temperature: T; None is the code's, 5 for pre-training and 0.2 for fine-tuning.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting is out of range.
        """
        if purpose not in ("pretraining", "finetuning"):
            raise WeightsError(f"purpose is {purpose!r}; say 'pretraining' or 'finetuning'.")
        self.purpose = purpose
        self.ridge = checked_number(ridge, "ridge", 0.0, open_low=True)
        default = 5.0 if purpose == "pretraining" else 0.2
        chosen = default if temperature is None else temperature
        self.temperature = checked_number(chosen, "temperature", 0.0, open_low=True)
        self._domains = tuple(domains)
        self._weights = uniform_weights(num_domains)

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of the last embeddings."""
        return self._weights.copy()

    def update(self, embeddings: ArrayLike, /) -> Vector:
        """(K,) float64, the weights for (K, D) embeddings.

        Raises:
            WeightsError: NaN, infinite, or the wrong shape; the weights stay then.
        """
        table = as_float64(embeddings, "embeddings")
        shape = (len(self._weights), table.shape[1] if table.ndim == 2 else 1)
        table = checked_signal(table, shape, source="embeddings", domains=self._domains)
        scores = leverage_scores(table, ridge=self.ridge)
        if self.purpose == "pretraining":
            self._weights = softmax(1 / (np.maximum(scores, 1e-12) * self.temperature))
        else:
            self._weights = softmax(scores / self.temperature)
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("chameleon", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "chameleon", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
