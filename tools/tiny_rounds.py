"""Aioli in rounds: probes of each mixture as part of the training, then the weights they tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tiny_bench import Bench, Method, Seen

from mixstream import algorithms as methods


class AioliRounds:
    """Where a run stands in its rounds; what the probes of this round have found.

    A round is `steps // rounds` steps: `sweeps` times K probes of `probe_steps` steps in random
    order, then training by the weights that they give. Losses are those of the same rows always.
    """

    def __init__(self, bench: Bench):
        settings = bench.settings
        self.bench, self.settings = bench, settings
        num_domains = bench.num_domains
        self.num_probes = num_domains * settings.sweeps
        self.probing = self.num_probes * settings.probe_steps
        self.length = settings.steps // settings.rounds
        if self.probing > self.length:
            raise SystemExit(
                f"a round of aioli has {self.length} steps, and its {self.num_probes} probes of "
                f"{settings.probe_steps} take {self.probing}; give more --steps or fewer --rounds."
            )
        step_size = 1.0 if settings.step_size is None else settings.step_size
        self.algorithm = methods.Aioli(
            num_domains, step_size=step_size, one_hot_factor=settings.one_hot_factor
        )
        self.rows = bench.probes(0)  # before the first step: the same rows after a resume
        self.begin(0)

    def begin(self, number: int) -> None:
        """Starts a round."""
        self.before = self.losses()
        self.falls = np.zeros((len(self.before), len(self.before)))
        self.drawn = np.zeros_like(self.falls)
        self.weights = self.mixture(number, 0)

    def losses(self) -> np.ndarray:
        """(K,) of the rows that are measured."""
        return self.bench.domain_losses(self.rows)

    def probed(self, number: int, probe: int) -> int:
        """The domain of a probe of a round."""
        order = np.random.default_rng((self.settings.seed, number)).permutation(self.num_probes)
        return int(order[probe]) % self.bench.num_domains

    def mixture(self, number: int, probe: int) -> np.ndarray:
        """(K,) what a probe samples by."""
        return self.algorithm.mixtures[self.probed(number, probe)]

    def steer(self, seen: Seen) -> np.ndarray | None:
        """What to sample by from here on, where that changes."""
        number, place = divmod(seen.step, self.length)
        done = place + 1
        if number >= self.settings.rounds:
            return None  # the steps that the rounds leave over
        if done <= self.probing:
            domain = self.probed(number, place // self.settings.probe_steps)
            self.drawn[domain] += seen.measured.num_rows
            if done % self.settings.probe_steps:
                return None
            after = self.losses()
            self.falls[:, domain] += self.before - after
            self.before = after
            if done == self.probing:
                self.weights = self.algorithm.update(
                    self.falls / self.settings.sweeps,
                    realised=self.drawn / self.drawn.sum(axis=1, keepdims=True),
                )
            else:
                self.weights = self.mixture(number, done // self.settings.probe_steps)
        if done == self.length and number + 1 < self.settings.rounds:
            self.begin(number + 1)
        elif done > self.probing:
            return None
        return self.weights

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        arrays = ("before", "falls", "drawn", "weights")
        found = {name: getattr(self, name).tolist() for name in arrays}
        return found | {"algorithm": self.algorithm.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a state up."""
        for name in ("before", "falls", "drawn", "weights"):
            setattr(self, name, np.array(state[name]))
        self.algorithm.load_state_dict(state["algorithm"])


def aioli(bench: Bench) -> Method:
    """Sampling weights from how far each domain's loss falls in probe runs on each."""
    rounds = AioliRounds(bench)
    return Method(rounds.weights, rounds, steer=rounds.steer)
