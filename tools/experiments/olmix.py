"""Olmix: a swarm's laws, a prior and caps -> a mixture that repeats no domain too often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lab import Experiment, Line, Measures, main
from runs import Scale, trained
from texts import write_corpora

BYTES = {"code": 400_000, "law_de": 400_000, "lit_en": 500_000, "poetry_zh": 40_000}
TARGET, HELD_OUT_BYTES = "poetry_zh", 24_000


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """A swarm of short runs, the run on its mixture, and two rivals."""

    steps: int = 600
    """Of the runs that are compared."""
    width: int = 32
    """Of the models."""
    peak_rate: float = 3e-3
    """Learning rate."""
    proxy_runs: int = 16
    """Of the swarm."""
    proxy_steps: int = 60
    """Of each of its runs."""
    kl_weight: float = 0.01
    """Of Olmix; its code's is 0.05."""
    max_epochs: float = 4.0
    """The cap of the main run."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    held_out = setting.bytes_of({TARGET: HELD_OUT_BYTES})
    sizes = dict.fromkeys(("validation", "test"), held_out)
    sizes["train"] = setting.bytes_of(BYTES)
    paths = write_corpora(folder, sizes, seed=seed)
    how = {
        "seed": seed,
        "target": str(paths["validation"]),
        "proxy_runs": setting.proxy_runs,
        "proxy_steps": setting.proxy_steps,
        "kl_weight": setting.kl_weight,
    }
    runs = {
        "olmix": trained(paths, "olmix", setting, max_epochs=setting.max_epochs, **how),
        "olmix without caps": trained(paths, "olmix", setting, max_epochs=1e9, **how),
        "natural": trained(paths, "natural", setting, seed=seed),
    }
    budget = setting.steps * setting.batch_size

    def epochs(name: str) -> float:
        found = runs[name]
        rows = np.array(found.report["num_rows"])
        return float((np.array(list(found.weights.values())) * budget / rows).max())

    return {
        "most epochs over the cap": epochs("olmix") / setting.max_epochs,
        "below natural, nats": runs["natural"].loss - runs["olmix"].loss,
        "most epochs over the cap, without caps": epochs("olmix without caps") / setting.max_epochs,
        **{f"loss {name}": found.loss for name, found in runs.items()},
        **{f"weight {name}": weight for name, weight in runs["olmix"].weights.items()},
        **{
            f"weight {name}, without caps": weight
            for name, weight in runs["olmix without caps"].weights.items()
        },
    }


EXPERIMENT = Experiment(
    name="olmix",
    claim=(
        "the target is text of the smallest of four domains, so that the laws want more of it than "
        "four epochs hold; the mixture found keeps the cap, and is no worse on the target's test "
        "text than the natural mixture."
    ),
    lines=(
        Line(measure="most epochs over the cap", at_most=1.001),
        Line(measure="most epochs over the cap, without caps", at_least=1.0),
        Line(measure="below natural, nats", at_least=0.0),
    ),
    settings=Setting(),
    run=run,
    notes=(
        "A failure on one seed of two, of the test rather than of the method: on seed 101 the law "
        "was degenerate (train_tiny said so), and the cap did not bind; on 102 it did, and was "
        "kept. "
        "Pilots on seed 1: with recipes as the smallest domain and the target the cap did not "
        "bind, as the laws wanted English fiction more. With 15 kB of Chinese poetry (1 % of the "
        "text) hardly a mixture of the swarm held any, the law was degenerate, and the natural "
        "mixture was the answer. 40 kB were then taken.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
