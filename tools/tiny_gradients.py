"""Methods that follow gradients: sampling weights from probe rows of each domain, as training goes.

Each measures every `update_every` steps, and costs what the gradients of its probe rows cost.
"""

from __future__ import annotations

import numpy as np
import torch
from tiny_bench import Bench, Method, Seen

from mixstream import algorithms as methods
from mixstream import feedback

MICRO_BATCHES = 4
"""Of a domain's probe rows, for the variance of its gradient."""


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


def pike(bench: Bench) -> Method:
    """Sampling weights from size and variance of each domain's gradient.

    The squared norm is the one without what the noise of few rows adds to it.
    """
    settings = bench.settings
    if settings.probe_rows < 2:
        raise SystemExit("pike needs --probe-rows of 2 or more: one row has no variance.")
    algorithm = methods.PiKE(
        bench.uniform,
        zeta1=0.05 if settings.step_size is None else settings.step_size,
        zeta2=settings.noise_step_size,
        batch_size=settings.batch_size,
    )

    def steer(seen: Seen) -> np.ndarray | None:
        if seen.step % settings.update_every:
            return None
        batches = bench.probes(0)
        size = max(1, settings.probe_rows // MICRO_BATCHES)  # the same on any number of ranks
        if len(batches[0]["domain_ids"]) % size:
            size = 1
        pieces = [_split(batch, size) for batch in batches]
        noise = feedback.gradient_noise(bench.gradients, pieces, rows_per_batch=size)
        return algorithm.update(
            noise.unbiased_squared_norms, noise.variances, present=noise.present
        )

    return Method(bench.uniform, algorithm, steer=steer)


def _split(batch: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    """The batch in pieces of this many rows."""
    pieces = {name: value.split(size) for name, value in batch.items()}
    return [dict(zip(pieces, parts, strict=True)) for parts in zip(*pieces.values(), strict=True)]


def grape(bench: Bench) -> Method:
    """Sampling weights for several tasks, of which the one that improves least counts most.

    The tasks are the target's domains, or without a target the corpus's own. The gradient of
    training is taken as that of the domains' probes by their weights.
    """
    settings, target = bench.settings, bench.target
    num_tasks = bench.num_domains if target is None else len(target.corpus.domains)
    algorithm = methods.GRAPE(
        bench.uniform,
        num_tasks,
        mu=1.0 if settings.step_size is None else settings.step_size,
        task_mu=settings.task_step_size,
    )

    def steer(seen: Seen) -> np.ndarray | None:
        if seen.step % settings.update_every:
            return None
        found = feedback.gradient_products(bench.gradients, bench.probes(0), directions())
        algorithm.update_tasks(algorithm.weights @ found.values)
        return algorithm.update(found.values, present=found.present)

    def directions() -> list[feedback.Gradient]:
        """Gradient of the logarithm of each task's loss."""
        if target is None:
            tasks = bench.probes(1)
        else:
            drawn = target.domain_batches(bench.loader.step, settings.probe_rows)
            tasks = [bench.to_device(batch) for batch in drawn]
        found = []
        for batch in tasks:
            one = batch | {"domain_ids": torch.zeros_like(batch["domain_ids"])}  # a task of its own
            loss = bench.domain_losses([one])[0]
            found.append(tuple(part / loss for part in bench.gradients.gradient(batch)))
        return found

    return Method(bench.uniform, algorithm, steer=steer)


def rnb(bench: Bench) -> Method:
    """Sampling weights from the inner products between the domains' gradients.

    One wants to be good at the target's histogram over the domains, or at all of them alike.
    """
    settings = bench.settings
    wanted = bench.uniform
    if bench.target is not None:
        wanted = np.array(bench.target.histogram(bench.loader.domains), dtype=np.float64)
    step_size = 1.0 if settings.step_size is None else settings.step_size
    algorithm = methods.RnB(wanted, step_size=step_size)

    def steer(seen: Seen) -> np.ndarray | None:
        if seen.step % settings.update_every:
            return None
        return algorithm.update(feedback.gradient_gram(bench.gradients, bench.probes(0)).values)

    return Method(algorithm.weights, algorithm, steer=steer)
