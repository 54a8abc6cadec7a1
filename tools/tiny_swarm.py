"""Methods that ask short runs before the main one: mixtures to try -> losses -> the mixture found.

What is found goes into `earlier`, so that a run which goes on from a checkpoint does not ask again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from tiny_bench import Bench, Method

from mixstream import algorithms as methods
from mixstream import feedback
from mixstream.errors import WeightsError
from mixstream.feedback.ranks import sum_over_ranks

UP = 3.0
"""autoscale: rows of a domain in its up run over those in the base run; the down run has 1 / UP."""
SECOND_BUDGET = 4
"""autoscale: rows of the larger base run over those of the smaller."""

LossOfCounts: TypeAlias = Callable[[np.ndarray], float]
"""(K,) rows of each domain -> the loss of a run on them."""


def random_mixtures(prior: np.ndarray, num_runs: int, *, seed: int) -> np.ndarray:
    """(P, K) mixtures to run: RegMix's draws around a prior, each on the simplex."""
    drawn = methods.regmix_mixtures(prior, num_runs, seed=seed)
    return drawn / drawn.sum(axis=1, keepdims=True)


def best_counts(
    num_rows: float, domains: tuple[str, ...], loss: LossOfCounts, *, up: float
) -> np.ndarray:
    """(K,) best rows of each domain at one budget, by DDO: the base run, down and up runs.

    Args:
        num_rows: of the base run, the budget.
        domains: (K,) names.
        loss: asked 2 K + 1 times.
        up: multiple of a domain's rows in its up run; the down run has one over it.
    """
    base = np.full(len(domains), num_rows / len(domains))
    base_loss = loss(base)
    multiples = [1 / up, 1.0, up]
    losses = np.ones((len(domains), 3))
    for domain in range(len(domains)):
        for column in (0, 2):
            counts = base.copy()
            counts[domain] *= multiples[column]
            losses[domain, column] = loss(counts) / base_loss
    weights = methods.ddo_weights(
        multiples, losses, base, min_multiple=1 / up, max_multiple=up, domains=domains
    )
    return weights * num_rows


def relative_utilities(losses: np.ndarray) -> np.ndarray:
    """(K, T) in [0, 1]: for each task the best run has 1, the worst 0, the others lie between.

    Our choice; UtiliMax takes any utilities.

    Args:
        losses: (K, T) of each task after a run on each domain alone.
    """
    worst, best = losses.max(axis=0), losses.min(axis=0)
    return (worst - losses) / np.maximum(worst - best, 1e-12)


def asked_once(bench: Bench, name: str, ask: Callable[[], np.ndarray]) -> np.ndarray:
    """An array out of `earlier`, or asked for and kept there."""
    if name not in bench.earlier:
        bench.earlier[name] = ask().tolist()
    return np.array(bench.earlier[name])


def learned_graph(bench: Bench) -> np.ndarray:
    """The graph of skillit: from a file, or from one short run on each domain alone."""

    def ask() -> np.ndarray:
        if bench.settings.graph != "learned":
            return np.array(json.loads(Path(bench.settings.graph).read_text()))
        first = bench.probe_losses()
        after = alone(bench, bench.settings.graph_steps)
        return methods.approximate_graph(first, after, relative=True)

    return asked_once(bench, "graph", ask)


def alone(bench: Bench, steps: int) -> np.ndarray:
    """(K, M) losses after a short run on each domain alone."""
    eye = np.eye(bench.num_domains)
    return np.stack([bench.short_run(row, steps, bench.probe_losses) for row in eye])


def swarm(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """(P, K) random mixtures around the natural one, and (P, M) losses of a short run on each."""
    settings = bench.settings
    if settings.proxy_runs <= bench.num_domains:
        raise SystemExit(
            f"--proxy-runs is {settings.proxy_runs}; a law of {bench.num_domains} domains needs "
            f"{bench.num_domains + 1} or more."
        )
    mixtures = random_mixtures(bench.natural, settings.proxy_runs, seed=settings.seed)
    losses = [bench.short_run(row, settings.proxy_steps, bench.probe_losses) for row in mixtures]
    return mixtures, np.stack(losses)


def warn_of_degenerate(bench: Bench, laws: methods.MixingLaws) -> None:
    """Says on stderr if the laws explain too little of what the swarm measured."""
    num_bad = int(laws.degenerate.sum())
    if num_bad and bench.loader.batches.rank == 0:
        print(
            f"train_tiny: {num_bad} of {len(laws.degenerate)} laws leave more than a tenth of the "
            f"variance of the short runs' losses; give more --proxy-runs or --proxy-steps.",
            file=sys.stderr,
        )


def caps(bench: Bench) -> np.ndarray:
    """(K,) weights that repeat no domain more than `max_epochs` times in the main run."""
    return methods.epoch_caps(bench.num_rows, bench.budget, bench.settings.max_epochs)


def offline(bench: Bench, find: Callable[[], np.ndarray]) -> Method:
    """A method that samples by one mixture, found before the first step."""
    return Method(asked_once(bench, "mixture", find))


def regmix(bench: Bench) -> Method:
    """The least mean loss by a regression on a swarm's."""

    def find() -> np.ndarray:
        mixtures, losses = swarm(bench)
        algorithm = methods.RegMix(
            bench.natural,
            mixtures,
            regressor=bench.settings.regressor,
            caps=caps(bench),
            num_simulated=20_000,
            seed=bench.settings.seed,
        )
        return algorithm.update(losses.mean(axis=1))

    return offline(bench, find)


def mixing_laws(bench: Bench) -> Method:
    """The least mean loss by a law for each measured domain, fitted to a swarm's."""

    def find() -> np.ndarray:
        mixtures, losses = swarm(bench)
        algorithm = methods.DataMixingLaws(mixtures, caps=caps(bench))
        weights = algorithm.update(losses)
        assert algorithm.laws is not None, "update has fitted them"
        warn_of_degenerate(bench, algorithm.laws)
        return weights

    return offline(bench, find)


def olmix(bench: Bench) -> Method:
    """The same laws, and a mixture that stays near the natural one."""

    def find() -> np.ndarray:
        laws = methods.fit_mixing_laws(*swarm(bench))
        warn_of_degenerate(bench, laws)
        kl_weight = bench.settings.kl_weight
        algorithm = methods.Olmix(bench.natural, kl_weight=kl_weight, caps=caps(bench))
        return algorithm.update(laws.slope)

    return offline(bench, find)


def utilimax(bench: Bench) -> Method:
    """As even as goes, towards domains whose short runs lower the measured losses most."""

    def find() -> np.ndarray:
        settings = bench.settings
        utilities = relative_utilities(alone(bench, settings.proxy_steps))
        algorithm = methods.UtiliMax(
            bench.num_rows,
            budget=bench.budget,
            max_epochs=settings.max_epochs,
            risk=settings.risk,
            domains=bench.loader.domains,
        )
        return algorithm.update(utilities)

    return offline(bench, find)


def autoscale(bench: Bench) -> Method:
    """The best mixtures at two small budgets, carried on to the main run's."""

    def find() -> np.ndarray:
        settings = bench.settings

        def loss(counts: np.ndarray) -> float:
            steps = max(1, round(float(counts.sum()) / settings.batch_size))
            return float(bench.short_run(counts, steps, bench.probe_losses).mean())

        first = settings.proxy_steps * settings.batch_size
        found = []
        for budget in (first, SECOND_BUDGET * first):
            try:
                found.append(best_counts(budget, bench.loader.domains, loss, up=UP))
            except WeightsError as error:
                raise WeightsError(f"at a budget of {budget} rows: {error}") from error
        return methods.AutoScale(*found, domains=bench.loader.domains).update(bench.budget)

    return offline(bench, find)


def mixmin(bench: Bench) -> Method:
    """The mixture of small models, one a domain, that finds the target's rows most likely."""
    target = bench.target
    if target is None:
        raise SystemExit("mixmin needs --target: a corpus of what should be likely.")

    def find() -> np.ndarray:
        table = [
            bench.short_run(
                row, bench.settings.proxy_steps, lambda: target.log_probabilities(bench.model)
            )
            for row in np.eye(bench.num_domains)
        ]
        return methods.MixMin(bench.num_domains, caps=caps(bench)).update(np.stack(table))

    return offline(bench, find)


def chameleon(bench: Bench) -> Method:
    """What the domains have in common in the last layer of a short run on all of them."""

    def find() -> np.ndarray:
        embeddings = bench.short_run(
            bench.natural, bench.settings.proxy_steps, lambda: mean_embeddings(bench)
        )
        return methods.Chameleon(bench.num_domains).update(embeddings)

    return offline(bench, find)


def mean_embeddings(bench: Bench) -> np.ndarray:
    """(K, width) mean over probe rows of the vectors that the model's head sees."""
    caught: list[torch.Tensor] = []
    hook = bench.model.norm.register_forward_hook(
        lambda _, __, found: caught.append(found.double().mean(dim=(0, 1)))
    )
    with feedback.undisturbed(bench.model), torch.no_grad():
        for batch in bench.probes(0):
            bench.model(batch["input_ids"])
    hook.remove()
    total = sum_over_ranks(torch.stack(caught))
    return total.cpu().numpy() / bench.loader.batches.world_size
