"""DoReMi: excess loss of a proxy over a reference model, by domain -> weights (group DRO).

Three phases. (1) Train a small reference model on reference weights. (2) Train a proxy of the same
size whose *loss* is weighted by the domain weights alpha_t, which grow where the proxy is worse
than the reference; its batches are drawn by fixed weights p. (3) Train the main model, sampling by
the average of alpha_t.

So alpha_t are *loss* weights: do not hand them to `loader.set_weights`. What one samples by is
`average_weights`, at the end of phase 2. Under DDP every rank needs the same alpha_t in the same
step: reduce the excess loss first, update on every rank (the reference code updates rank 0 only,
so that the other ranks weigh their loss by the alpha of the step before).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    checked_number,
    checked_present,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.simplex import exponentiated_gradient, log_weights, smoothed
from mixstream.arrays import Counts, Vector
from mixstream.errors import WeightsError


def doremi_update(
    weights: Vector, excess_loss: Vector, *, step_size: float = 1.0, smoothing: float = 1e-3
) -> Vector:
    """One exponentiated-gradient step towards the domains with the most excess loss.

    alpha' = alpha exp(eta lambda) / Z, then (1 - c) alpha' + c / K.

    Args:
        weights: (K,) float64, domain weights alpha; they sum to 1.
        excess_loss: (K,) float64, lambda: proxy loss minus reference loss, nats per token, clipped
            at 0 per token before the mean.
        step_size: eta in the paper, per nat.
        smoothing: c in the paper, share of the uniform weights mixed in, in [0, 1).

    Returns:
        (K,) float64, new weights; each is at least smoothing / K.

    Worked example: weights [1/2, 1/2], excess [log 3, 0], no smoothing: [3/4, 1/4].

    Source: Xie et al. 2023, arXiv:2305.10429, Algorithm 1.
    """
    logits = exponentiated_gradient(log_weights(weights), excess_loss, step_size=step_size)
    return smoothed(np.exp(logits), smoothing)


def clipped_excess_loss(
    proxy_loss: Vector,
    reference_loss: Vector,
    domain_ids: Counts,
    num_domains: int,
    *,
    token_mask: ArrayLike | None = None,
) -> tuple[Vector, Counts]:
    """Mean over a domain's tokens of max(proxy loss - reference loss, 0).

    Args:
        proxy_loss: (B, S) float, nats, the proxy's loss of each token.
        reference_loss: (B, S) float, nats, the reference model's.
        domain_ids: (B,) int, domain of each row.
        num_domains: K.
        token_mask: (B, S), true or 1 where a token counts; None counts all.

    Returns:
        (K,) float64, the mean, 0 for a domain without a token; and (K,) int64, its tokens.

    Worked example: one row, proxy [3, 2], reference [2, 4]: clipped [1, 0], mean 0.5.

    Source: Xie et al. 2023, arXiv:2305.10429, Algorithm 1 (lambda_t).
    """
    proxy = np.asarray(proxy_loss, dtype=np.float64)
    mask = np.ones(proxy.shape, bool) if token_mask is None else np.asarray(token_mask).astype(bool)
    excess = np.where(mask, np.maximum(proxy - np.asarray(reference_loss, np.float64), 0.0), 0.0)
    total = np.bincount(domain_ids, weights=excess.sum(axis=1), minlength=num_domains)
    tokens = np.bincount(domain_ids, weights=mask.sum(axis=1), minlength=num_domains)
    return total / np.maximum(tokens, 1.0), tokens.astype(np.int64)


def doremi_token_weights(
    weights: Vector,
    sampling_weights: Vector,
    num_tokens: Counts,
    *,
    rule: Literal["importance", "paper"] = "importance",
) -> Vector:
    """What one token of each domain counts in the proxy's loss: sum over tokens of weight * loss.

    Args:
        weights: (K,) float64, alpha_t.
        sampling_weights: (K,) float64, p, the fixed weights that the proxy's batches are drawn by.
        num_tokens: (K,) int64, counted tokens of each domain in the global batch (all ranks).
        rule: "importance" is the reference code's: in proportion to alpha_i / p_i. "paper" is
            Algorithm 1's: alpha_i over the domain's tokens in this very batch, so that a domain's
            share of the loss is alpha_i however often it was drawn. Equal in expectation; with few
            rows a batch "paper" has the larger variance.

    Returns:
        (K,) float64; sum(num_tokens * result) is 1, and 0 in a batch without tokens.

    A domain with p_i = 0 is never drawn: its weight is 0. For an absent domain "paper" shares its
    alpha among the others.

    Worked example: alpha [3/4, 1/4], p [1/2, 1/2], 2 and 2 tokens: [3/8, 1/8] by both rules.

    Source: "importance": github.com/sangmichaelxie/doremi at 7cde52d, training_step; "paper":
    arXiv:2305.10429, Algorithm 1.
    """
    tokens = np.asarray(num_tokens, dtype=np.float64)
    divisor = tokens if rule == "paper" else sampling_weights
    ratio = np.divide(weights, divisor, out=np.zeros_like(weights), where=divisor > 0)
    total = float((tokens * ratio).sum())
    return ratio / total if total > 0 else np.zeros_like(weights)


class DoReMi:
    """Domain weights alpha_t of the proxy run, and their average, which the main run samples by.

    Signal: (K,) clipped excess loss, nats per token (`clipped_excess_loss`).
    Cost a step: O(K) here; the loop pays one forward pass of the frozen reference model, about a
    third of a training step of a model of that size.
    Absent domain: its last measured excess loss is used again (as in the reference code); before
    its first measurement that is `initial_score`.
    Weight 0: lifted to at least smoothing / K by the first update; absorbing if smoothing is 0.
    NaN or infinity: WeightsError, and weights, average and scores stay.
    K = 1: weights [1.0] always. K = 10,000: under 0.1 ms.

    Deviations. From the paper: absent domains (Algorithm 1 divides by zero there). From the
    reference code: carried scores start at 0, not at ln|V|, which lets a domain absent from the
    first batches take all weight (`initial_score=math.log(vocab_size)` restores it); the average
    leaves out alpha_0, as the paper's does (`average="reference"` restores it). Weights start where
    the caller says; the paper starts uniform, the code at the reference weights.

    The paper's alpha_t is iterate 1 to T of Algorithm 1, read in the reference code and from
    memory of the paper; its PDF could not be opened here.

    Source: Xie et al. 2023, arXiv:2305.10429; github.com/sangmichaelxie/doremi.
    """

    def __init__(
        self,
        weights: ArrayLike,
        *,
        step_size: float = 1.0,
        smoothing: float = 1e-3,
        average: Literal["paper", "reference"] = "paper",
        initial_score: float = 0.0,
        domains: Sequence[str] = (),
    ):
        """Start from given weights.

        Args:
            weights: (K,) alpha_0, any non-negative numbers with a positive sum.
            step_size: eta, per nat.
            smoothing: c, in [0, 1).
            average: "paper" averages alpha_1 to alpha_T; "reference" counts alpha_0 in.
            initial_score: excess loss of a domain that no batch has held yet.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting or weight is out of range.
        """
        self.step_size = checked_number(step_size, "step_size", 0.0)
        self.smoothing = checked_number(smoothing, "smoothing", 0.0, 1.0, open_high=True)
        if average not in ("paper", "reference"):
            raise WeightsError(f"average is {average!r}; it must be 'paper' or 'reference'.")
        self._domains = tuple(domains)
        self._weights = checked_weights(weights, domains=self._domains)
        score = checked_number(initial_score, "initial_score", -np.inf)
        self._scores = np.full(len(self._weights), score)
        self._average = self._weights.copy()
        self._num_averaged = 1 if average == "reference" else 0

    @property
    def weights(self) -> Vector:
        """(K,) float64, alpha_t: weights of the proxy's loss."""
        return self._weights.copy()

    @property
    def average_weights(self) -> Vector:
        """(K,) float64, the result: mean of alpha over the updates; alpha_0 before the first."""
        return self._average.copy()

    def update(self, excess_loss: ArrayLike, /, *, present: ArrayLike | None = None) -> Vector:
        """Alpha_t from the excess loss of one batch.

        Args:
            excess_loss: (K,) nats per token, clipped at 0 per token before the mean.
            present: (K,) bool, the domains that had a token in the batch; None means all.

        Returns:
            (K,) float64, the new weights of the loss; this batch's loss takes them, too.

        Raises:
            WeightsError: NaN, infinite, or the wrong shape; nothing has changed then.
        """
        num_domains = len(self._weights)
        seen = checked_present(present, num_domains)
        signal = checked_signal(
            excess_loss,
            (num_domains,),
            source="excess_loss",
            domains=self._domains,
            present=seen,
        )
        scores = signal if seen is None else np.where(seen, signal, self._scores)
        weights = doremi_update(
            self._weights, scores, step_size=self.step_size, smoothing=self.smoothing
        )
        self._scores, self._weights = scores, weights
        self._num_averaged += 1
        self._average = self._average + (weights - self._average) / self._num_averaged
        return weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: weights, their average and how many it holds, carried scores."""
        fields: dict[str, ArrayLike | None] = {
            "weights": self._weights,
            "average": self._average,
            "num_averaged": self._num_averaged,
            "scores": self._scores,
        }
        return packed_state("doremi", len(self._weights), fields)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        num_domains = len(self._weights)
        reader = StateReader(state, "doremi", num_domains)
        weights = reader.weights("weights", num_domains)
        average = reader.weights("average", num_domains)
        num_averaged = reader.count("num_averaged")
        scores = reader.array("scores", num_domains)
        self._weights, self._average, self._scores = weights, average, scores
        self._num_averaged = num_averaged
