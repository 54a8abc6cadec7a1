"""What a training run of `train_tiny` shows to a method, and what a method gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from tiny_rows import TargetRows, losses_of
from tiny_settings import Settings

import mixstream
from mixstream import feedback


class ShortRun(Protocol):
    """A proxy run: trains the model from its first state on, measures, and puts that state back."""

    def __call__(
        self, weights: np.ndarray, steps: int, measure: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """(K,) what to sample by, how long, and what to return of the model after it."""
        ...


@dataclass
class Bench:
    """What a method may measure with."""

    settings: Settings
    loader: mixstream.Loader
    model: torch.nn.Module
    learning_rate: Callable[[int], float]
    num_rows: np.ndarray
    """(K,) rows of each domain that training may draw."""
    budget: int
    """Rows that the run will draw."""
    target: TargetRows | None
    """Rows to be good at, where the user gave any."""
    earlier: dict[str, Any]
    """What was found before: weights of a phase, a reference model, a graph, a swarm's mixture.
    It goes into the checkpoint."""
    short_run: ShortRun
    """For proxies and graphs, before the first step."""

    @property
    def num_domains(self) -> int:
        """K."""
        return len(self.loader.domains)

    @property
    def natural(self) -> np.ndarray:
        """(K,) each domain's share of the rows."""
        return self.num_rows / self.num_rows.sum()

    @property
    def uniform(self) -> np.ndarray:
        """(K,) all alike."""
        return np.full(self.num_domains, 1 / self.num_domains)

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch where the model is."""
        device = next(self.model.parameters()).device
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def probes(self, draw: int) -> list[dict[str, torch.Tensor]]:
        """This rank's part of `probe_rows` random training rows of each domain."""
        num_rows = self.settings.probe_rows // self.loader.batches.world_size
        names = self.loader.domains
        return [self.to_device(self.loader.probe(name, num_rows, draw=draw)) for name in names]

    @property
    def gradients(self) -> feedback.GradientProbe:
        """How gradients of the model are measured."""
        return feedback.GradientProbe(self.model, losses_of)

    def alignment(self) -> feedback.DomainSignal:
        """Each domain's gradient times the target's, or times the mean of the domains'."""
        probe, batches = self.gradients, self.probes(0)
        if self.target is None:
            direction = probe.gradient(*self.probes(1))
        else:
            direction = probe.gradient(self.to_device(self.target.batch(self.loader.step)))
        if not self.settings.forward:
            return feedback.gradient_alignment(probe, batches, direction)
        mixed = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        return feedback.forward_alignment(probe, mixed, direction, self.num_domains)

    def probe_losses(self) -> np.ndarray:
        """(M,) loss of each of the target's domains; (K,) of random training rows without one."""
        if self.target is not None:
            return self.target.losses(self.model)
        return self.domain_losses(self.probes(0))

    def domain_losses(self, batches: Iterable[dict[str, torch.Tensor]]) -> np.ndarray:
        """(K,) loss of training rows by domain, nats per token."""
        meter = feedback.LossMeter(self.num_domains)
        with feedback.undisturbed(self.model), torch.no_grad():
            for batch in batches:
                meter.add(losses_of(self.model, batch), batch["labels"], batch["domain_ids"])
        return meter.total().per_token


@dataclass(frozen=True)
class Seen:
    """What a training step shows to a method."""

    step: int
    """Of the phase, from 0 on."""
    batch: dict[str, torch.Tensor]
    """This rank's, on the device."""
    losses: torch.Tensor
    """(B, S) its token losses."""
    measured: feedback.DomainLosses
    """Losses and tokens of each domain in the global batch."""


@dataclass
class Method:
    """One phase of a method, as the training loop sees it."""

    weights: np.ndarray
    """(K,) what the phase starts to sample by."""
    algorithm: Any = None
    """Its state goes into the checkpoint."""
    steer: Callable[[Seen], np.ndarray | None] | None = None
    """After a step: new SAMPLING weights for loader.set_weights, or None to keep them."""
    weigh: Callable[[Seen], np.ndarray] | None = None
    """Before the backward pass: (K,) LOSS weights, what one token of each domain counts."""
    result: Callable[[], np.ndarray] | None = None
    """(K,) what the next phase samples by; the sampling weights if None."""
