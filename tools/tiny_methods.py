"""A method by name -> what it does before, in and after a training step of `train_tiny`.

To add one: a function Bench -> Method in METHODS, and its phases in PHASES if it has several.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tiny_rows import TargetRows, losses_of
from tiny_settings import Settings

import mixstream
from mixstream import algorithms as methods
from mixstream import feedback


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
    """By phase, what it ended in: the weights, and a reference model."""

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

    def alignment(self) -> feedback.DomainSignal:
        """Each domain's gradient times the target's, or times the mean of the domains'."""
        probe = feedback.GradientProbe(self.model, losses_of)
        batches = self.probes(0)
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
        meter = feedback.LossMeter(self.num_domains)
        with feedback.undisturbed(self.model), torch.no_grad():
            for batch in self.probes(0):
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


def uniform(bench: Bench) -> Method:
    """All domains alike."""
    return Method(bench.uniform)


def natural(bench: Bench) -> Method:
    """Each domain by its share of the rows."""
    return Method(bench.natural)


def fixed(bench: Bench) -> Method:
    """As the user says."""
    if bench.settings.weights is None:
        raise SystemExit(f"fixed needs --weights: a JSON list of {bench.num_domains} numbers.")
    try:
        weights = np.array(json.loads(bench.settings.weights), dtype=np.float64)
    except ValueError as error:
        said = f"--weights {bench.settings.weights!r} is no JSON list of numbers"
        raise SystemExit(f"{said}: {error}") from error
    return Method(weights)


def temperature(bench: Bench) -> Method:
    """Shares of the rows, flattened."""
    settings = bench.settings
    algorithm = methods.TemperatureSampling(bench.num_domains, temperature=settings.temperature)
    return Method(algorithm.update(bench.num_rows))


def unimax(bench: Bench) -> Method:
    """As even as `max_epochs` allows."""
    algorithm = methods.UniMax(
        bench.num_domains, budget=bench.budget, max_epochs=bench.settings.max_epochs
    )
    return Method(algorithm.update(bench.num_rows))


def importance(bench: Bench) -> Method:
    """The target's histogram over the domains."""
    if bench.target is None:
        raise SystemExit("importance needs --target: a corpus with domains of the same names.")
    algorithm = methods.ImportanceSampling(
        bench.num_domains, smoothing=bench.settings.smoothing, generic=bench.num_rows
    )
    return Method(algorithm.update(bench.target.histogram(bench.loader.domains)))


def odm(bench: Bench) -> Method:
    """Sampling weights from the training losses of each step."""
    algorithm = methods.ODM(bench.uniform, rule=bench.settings.rule)

    def steer(seen: Seen) -> np.ndarray:
        return algorithm.update(seen.measured.per_token, present=seen.measured.present)

    return Method(bench.uniform, algorithm, steer=steer)


def ado(bench: Bench) -> Method:
    """Sampling weights from the scaling laws of the training losses."""
    steps = bench.budget // (bench.loader.batches.batch_size * bench.loader.batches.world_size)
    algorithm = methods.ADO(
        bench.natural,
        fit_from=steps // 10,
        fit_every=max(1, steps // 10),
        block_steps=max(1, steps // 100),
        min_fit_blocks=10,
    )

    def steer(seen: Seen) -> np.ndarray:
        return algorithm.update(seen.measured.per_token, seen.measured.num_rows)

    return Method(bench.natural, algorithm, steer=steer)


def dga(bench: Bench) -> Method:
    """Sampling weights from the alignment with a target's gradient."""
    settings = bench.settings
    algorithm = methods.DGA(
        bench.uniform,
        step_size=1.0 if settings.step_size is None else settings.step_size,
        ema=settings.ema,
        update_every=settings.update_every,
    )

    def steer(seen: Seen) -> np.ndarray | None:
        if not algorithm.due(seen.step):
            return None
        found = bench.alignment()
        return algorithm.update(found.values, present=found.present)

    return Method(bench.uniform, algorithm, steer=steer)


def skillit(bench: Bench) -> Method:
    """Sampling weights from the losses of a round and the graph of who trains whom."""
    eta = 0.5 if bench.settings.step_size is None else bench.settings.step_size
    algorithm = methods.SkillIt(bench.earlier["graph"], step_size=eta, window=bench.settings.window)

    def steer(seen: Seen) -> np.ndarray | None:
        if (seen.step + 1) % bench.settings.update_every:
            return None
        return algorithm.update(bench.probe_losses())

    return Method(algorithm.weights, algorithm, steer=steer)


def doremi_reference(bench: Bench) -> Method:
    """Phase 1: a model on the reference weights."""
    return natural(bench) if bench.settings.reference == "natural" else uniform(bench)


def doremi_proxy(bench: Bench) -> Method:
    """Phase 2: the loss is weighted by alpha_t, the batches are drawn by the reference weights."""
    settings, reference = bench.settings, bench.earlier["reference model"]
    drawn_by = doremi_reference(bench).weights
    algorithm = methods.DoReMi(
        bench.uniform,
        step_size=1.0 if settings.step_size is None else settings.step_size,
        smoothing=settings.smoothing,
    )

    def weigh(seen: Seen) -> np.ndarray:
        with torch.no_grad():
            known = losses_of(reference, seen.batch)
        places = (seen.batch["labels"], seen.batch["domain_ids"])
        excess = feedback.excess_losses(seen.losses, known, *places, bench.num_domains)
        alpha = algorithm.update(excess.per_token, present=excess.present)
        return methods.doremi_token_weights(alpha, drawn_by, excess.num_tokens)

    return Method(drawn_by, algorithm, weigh=weigh, result=lambda: algorithm.average_weights)


def doge_proxy(bench: Bench) -> Method:
    """Phase 1: each domain's share of the loss is alpha_t, the batches are drawn uniformly."""
    settings = bench.settings
    algorithm = methods.DoGE(bench.uniform, mu=settings.mu, smoothing=settings.smoothing)

    def weigh(seen: Seen) -> np.ndarray:
        if seen.step % settings.update_every == 0:
            found = bench.alignment()
            # the paper aligns to the sum over the targets; without a target all domains are one
            num_targets = bench.num_domains if bench.target is None else 1
            algorithm.update(
                found.values * num_targets,
                learning_rate=bench.learning_rate(seen.step),
                present=found.present,
            )
        return methods.doremi_token_weights(
            algorithm.weights, bench.uniform, seen.measured.num_tokens, rule="paper"
        )

    return Method(bench.uniform, algorithm, weigh=weigh, result=lambda: algorithm.average_weights)


METHODS: dict[str, Callable[[Bench], Method]] = {
    "uniform": uniform,
    "natural": natural,
    "fixed": fixed,
    "temperature": temperature,
    "unimax": unimax,
    "importance": importance,
    "odm": odm,
    "ado": ado,
    "dga": dga,
    "skillit": skillit,
    "doremi": doremi_proxy,
    "doge": doge_proxy,
}

PHASES: dict[str, dict[str, Callable[[Bench], Method]]] = {
    "doremi": {"reference": doremi_reference, "proxy": doremi_proxy},
    "doge": {"proxy": doge_proxy},
}
"""What is trained before the main model, whose weights are then the last phase's result."""
