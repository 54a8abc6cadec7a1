"""A run of a sampler alone, and the log that a Loader would write of it."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from mixstream import MixSampler
from mixstream.runlog import RunLog
from mixstream.runlog.events import runs_of_layout, versions

LAYOUT = {"web": np.array([40, 25]), "code": np.array([30]), "books": np.array([7, 0, 4])}


def start_of(sampler, layout, **others):
    return {
        "versions": versions(),
        "corpus": "0123456789abcdef",
        "path": None,
        "domains": list(layout),
        "rows": sampler.num_rows.tolist(),
        "seq_len": 16,
        "shards": runs_of_layout(layout),
        "settings": asdict(sampler.settings) | {"batch_size": 2, "world_size": 2},
        "weights": sampler.weights.tolist(),
        "steerable": False,
    } | others


class LoggedRun:
    """Four rows a step, drawn and logged."""

    def __init__(self, path, layout=LAYOUT, weights=None, **settings):
        self.sampler = MixSampler(layout, weights, **settings)
        self.start = start_of(self.sampler, layout)
        self.log = RunLog(path, self.start)
        if self.log.is_new:
            self.log.append("start", step=0, row=0, **self.start)
        self.step, self.drawn = 0, []

    def steps(self, number):
        self.drawn.extend(self.sampler.take(4 * number).tolist())
        self.step += number
        self.append("progress")

    def change(self, weights, *, after=0, **others):
        change = self.sampler.set_weights(weights, at_row=self.sampler.row + 4 * after)
        event = {"decided_step": self.step, "weights": change.weights, "reason": "why"}
        self.log.append(
            "weights",
            step=self.step + after,
            row=change.at_row,
            **event | {"source": "code"} | others,
        )

    def append(self, kind, **values):
        self.log.append(kind, step=self.step, row=self.sampler.row, **values)
