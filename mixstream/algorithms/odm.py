"""ODM: training loss of each domain -> sampling weights, as a bandit that seeks high loss.

Each micro-batch is of one domain (draw mode: one domain a micro-batch), its loss is the reward of
that arm. `update` returns what to sample by: hand it to `loader.set_weights`.
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
    domain_label,
)
from mixstream.algorithms.simplex import normalized, softmax
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

RULES = ("paper", "perplexity", "exp3")


def exploration_rate(num_domains: int, iteration: int) -> float:
    """eps_t = min(1 / K, sqrt(ln K / (K t))), the weight that every domain is sure of.

    Worked example: K = 4, t = 1: sqrt(ln 4 / 4) is 0.59, so 1/4. At t = 100: 0.0589.

    Source: Albalak et al. 2023, arXiv:2312.02406, Algorithm 1.
    """
    return float(min(1 / num_domains, np.sqrt(np.log(num_domains) / (num_domains * iteration))))


def explored(shares: Vector, rate: float) -> Vector:
    """(1 - K eps) shares + eps: every domain gets at least eps.

    Worked example: [1, 0] at eps 0.1: [0.9, 0.1].
    """
    mixed: Vector = (1 - len(shares) * rate) * shares + rate
    return mixed


class ODM:
    """Online data mixing: weights that follow a moving estimate of each domain's loss.

    Signal: (K,) mean training loss of the domains in the last batch, nats per token.
    Cost a step: O(K); the loss is there anyway.
    Absent domain: its estimate stays.
    Weight 0: none; floored at eps_t, which falls as t^-1/2. An initial weight of 0 must not be
    drawn: its reward would be divided by 0.
    NaN or infinity: WeightsError, and weights and estimates stay.
    K = 1: [1.0]. K = 10,000: 0.1 ms (eps_t is then 1 / K until t = 92,000: uniform weights).

    Rules (paper and code differ, both are here):
    - "paper" (default): R_i <- s R_i + (1 - s) loss_i / p_i for each drawn domain, and
      p ~ exp(eps_{t-1} R), Algorithm 1. The division by p makes the estimate unbiased for one arm
      a step; where each batch holds all domains it lifts rare ones, so feed it one domain a batch.
    - "perplexity": what the code's published configuration runs: R_i <- s R_i + (1 - s) e^loss_i,
      and p ~ R: no importance weights, no softmax.
    - "exp3": the code's other class: R_i <- R_i + loss_i / (10 p_i), p ~ exp(eps_{t-1} R).

    ODM seeks high loss: a domain of noise gains weight. No gain over uniform is promised.

    Deviations: the paper's rule as told by secondary sources; its text was not opened here. The
    code runs a warm-up (2,000 steps) on the initial weights first: start `iteration` after it.

    Source: Albalak et al. 2023, arXiv:2312.02406; github.com/alon-albalak/online-data-mixing at
    edbfdad, megatron/data/data_sampling_utils.py.
    """

    def __init__(
        self,
        weights: ArrayLike,
        *,
        rule: Literal["paper", "perplexity", "exp3"] = "paper",
        smoothing: float = 0.9,
        iteration: int = 1,
        domains: Sequence[str] = (),
    ):
        """Start from given weights.

        Args:
            weights: (K,) what the first batch was drawn by.
            rule: see above.
            smoothing: s, share of the old estimate kept, in [0, 1); 0.9 is the class's default, 0.5
                the published configuration's. "exp3" has none.
            iteration: t of the first update; 2001 after a warm-up of 2,000 steps.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting or weight is out of range.
        """
        if rule not in RULES:
            raise WeightsError(f"rule is {rule!r}; it must be one of {', '.join(RULES)}.")
        self.rule = rule
        self.smoothing = checked_number(smoothing, "smoothing", 0.0, 1.0, open_high=True)
        self._iteration = int(checked_number(iteration, "iteration", 1))
        self._domains = tuple(domains)
        self._weights = checked_weights(weights, domains=self._domains)
        self._rewards = np.zeros(len(self._weights))
        self._rate = 1.0 / len(self._weights)

    @property
    def weights(self) -> Vector:
        """(K,) float64, what to sample by."""
        return self._weights.copy()

    def update(self, losses: ArrayLike, /, *, present: ArrayLike | None = None) -> Vector:
        """Weights for the next batch.

        Args:
            losses: (K,) mean loss of each domain in the batch, nats per token.
            present: (K,) bool, the domains that were in it; None means all.

        Returns:
            (K,) float64.

        Raises:
            WeightsError: NaN, infinite, the wrong shape, or a loss of a domain whose weight is 0;
                nothing has changed then.
        """
        num_domains = len(self._weights)
        seen = checked_present(present, num_domains)
        signal = checked_signal(
            losses, (num_domains,), source="losses", domains=self._domains, present=seen
        )
        drawn = np.ones(num_domains, dtype=bool) if seen is None else seen
        rewards = np.where(drawn, self._new_rewards(signal), self._rewards)
        if not np.isfinite(rewards).all():
            index = int(np.argmin(np.isfinite(rewards)))
            raise WeightsError(
                f"the reward of {domain_label(index, self._domains)} leaves float64 (loss "
                f"{signal[index]:.6g}, weight {self._weights[index]:.6g}); a domain of weight 0 "
                f"must not be drawn, and exp(loss) ends at a loss of 709."
            )
        rate = exploration_rate(num_domains, self._iteration)
        gibbs = self.rule != "perplexity"
        shares = softmax(self._rate * rewards) if gibbs else normalized(rewards / rewards.max())
        self._weights = explored(shares, rate)
        self._rewards, self._rate = rewards, rate
        self._iteration += 1
        return self._weights.copy()

    def _new_rewards(self, losses: Vector) -> Vector:
        """(K,) float64, the estimates as if all domains were drawn."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            if self.rule == "perplexity":
                reward = np.exp(losses)
            elif self.rule == "paper":
                reward = losses / self._weights
            else:
                return np.asarray(self._rewards + losses / 10 / self._weights, dtype=np.float64)
            kept = self.smoothing * self._rewards
            return np.asarray(kept + (1 - self.smoothing) * reward, dtype=np.float64)

    def state_dict(self) -> State:
        """JSON-able state: weights, estimates, the last eps and the next t."""
        fields: dict[str, ArrayLike | None] = {
            "weights": self._weights,
            "rewards": self._rewards,
            "rate": self._rate,
            "iteration": self._iteration,
        }
        return packed_state("odm", len(self._weights), fields)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        num_domains = len(self._weights)
        reader = StateReader(state, "odm", num_domains)
        weights = reader.weights("weights", num_domains)
        rewards = reader.array("rewards", num_domains)
        rate = reader.number("rate")
        self._iteration = reader.count("iteration")
        self._weights, self._rewards, self._rate = weights, rewards, rate
