"""A method by name -> what it does before, in and after a training step of `train_tiny`.

Those that follow gradients are in `tiny_gradients.py`, those that ask short runs before in
`tiny_swarm.py`, Aioli in `tiny_rounds.py`. To add one: a function Bench -> Method in METHODS, and
its phases in PHASES if it has several.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch
from tiny_bench import Bench, Method, Seen
from tiny_gradients import dga, grape, pike, rnb
from tiny_rounds import aioli
from tiny_rows import losses_of
from tiny_swarm import (
    autoscale,
    chameleon,
    learned_graph,
    mixing_laws,
    mixmin,
    olmix,
    regmix,
    utilimax,
)

from mixstream import algorithms as methods
from mixstream import feedback


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


def skillit(bench: Bench) -> Method:
    """Sampling weights from the losses of a round and the graph of who trains whom."""
    eta = 0.5 if bench.settings.step_size is None else bench.settings.step_size
    algorithm = methods.SkillIt(learned_graph(bench), step_size=eta, window=bench.settings.window)

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
    "pike": pike,
    "grape": grape,
    "rnb": rnb,
    "aioli": aioli,
    "regmix": regmix,
    "mixing_laws": mixing_laws,
    "olmix": olmix,
    "utilimax": utilimax,
    "autoscale": autoscale,
    "mixmin": mixmin,
    "chameleon": chameleon,
    "doremi": doremi_proxy,
    "doge": doge_proxy,
}

PHASES: dict[str, dict[str, Callable[[Bench], Method]]] = {
    "doremi": {"reference": doremi_reference, "proxy": doremi_proxy},
    "doge": {"proxy": doge_proxy},
}
"""What is trained before the main model, whose weights are then the last phase's result."""
