"""Run logs as a Loader writes them, of any length in no time: no corpus and no loop behind them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from mixstream.mixing.sampler import MixSampler
from mixstream.runlog.events import runs_of_layout, versions
from mixstream.runlog.writer import RunLog

NAMES = (
    "web", "code", "books", "maths", "wiki", "papers", "forums", "news", "patents", "law",
    "subtitles", "recipes",
)  # fmt: skip


def names(k):
    return [*NAMES[:k], *(f"crawl-{index:02d}" for index in range(len(NAMES), k))][:k]


def write_log(
    path,
    *,
    domains,
    num_steps,
    batch_size=32,
    rows=None,
    weights=None,
    changes=(),
    planned=(),
    signals=(),
    seed=3,
    steerable=False,
    **settings,
):
    """A log up to `num_steps`.

    changes: (step, weights, reason, source); planned: the same, after num_steps, decided at 0;
    signals: (name, unit, steps, values).
    """
    rows = [100_000 * (1 + index % 7) for index in range(len(domains))] if rows is None else rows
    layout = {name: np.array([n]) for name, n in zip(domains, rows, strict=True)}
    sampler = MixSampler(layout, weights, seed=seed, **settings)
    shape = {"batch_size": batch_size, "world_size": 1}
    start = {
        "versions": versions(),
        "corpus": "f" * 16,
        "path": None,
        "domains": list(domains),
        "rows": rows,
        "seq_len": 2048,
        "shards": runs_of_layout(layout),
        "settings": asdict(sampler.settings) | shape,
        "weights": sampler.weights.tolist(),
        "steerable": steerable,
    }
    log = RunLog(path, start)
    log.append("start", step=0, row=0, **start)
    events = [(0, "weights", change) for change in planned]
    events += [(change[0], "weights", change) for change in changes]
    for name, unit, steps, values in signals:
        events += [(s, "signal", (name, unit, v)) for s, v in zip(steps, values, strict=True)]
    for decided, kind, what in sorted(events, key=lambda event: event[0]):
        if kind == "weights":
            step, vector, reason, source = what
            vector = np.asarray(vector) / np.sum(vector)
            about = {"decided_step": decided, "weights": vector, "reason": reason, "source": source}
            log.append("weights", step=step, row=step * batch_size, **about)
        else:
            name, unit, values = what
            about = {"name": name, "values": values} | ({"unit": unit} if unit else {})
            log.append("signal", step=int(decided), row=int(decided) * batch_size, **about)
    log.append("progress", step=num_steps, row=num_steps * batch_size)
    log.close()
    return path


def losses(domains, num_steps, every, *, seed=0):
    """A signal that falls as losses do: a power of the step, a floor a domain, and noise."""
    chance = np.random.default_rng(seed)
    steps = np.arange(every, num_steps + 1, every)
    floors = chance.uniform(1.2, 2.8, len(domains))
    falls = 8 * (1 + steps[:, None] / (0.01 * num_steps)) ** -chance.uniform(0.4, 0.7, len(domains))
    values = floors + falls + chance.normal(0, 0.03, falls.shape)
    return "loss", "nats per token", steps, values
