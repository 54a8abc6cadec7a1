"""RegMix: a regression on many small runs ranks mixtures that it has not seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lab import Experiment, Line, Measures, main
from runs import Scale, trained
from scipy.stats import spearmanr
from texts import write_corpora
from tiny_swarm import random_mixtures

from mixstream.algorithms import RegMix
from mixstream.algorithms.regmix import ridge_predictor

BYTES = {"code": 400_000, "docs_vba": 300_000, "law_de": 400_000, "lit_en": 500_000}
TARGET, HELD_OUT_BYTES = "reference", 32_000


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """Small runs to fit and to test the regression, and two runs of its best mixture's kind."""

    steps: int = 100
    """Of each small run."""
    width: int = 32
    """Of the models."""
    peak_rate: float = 3e-3
    """Learning rate."""
    num_fit: int = 64
    """Runs that the regression is fitted to."""
    num_held_out: int = 32
    """Runs that it must rank."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    held_out = setting.bytes_of({TARGET: HELD_OUT_BYTES})
    sizes = {"train": setting.bytes_of(BYTES), "validation": held_out, "test": held_out}
    paths = write_corpora(folder, sizes, seed=seed)
    prior = np.array([BYTES[name] for name in sorted(BYTES)], dtype=float)
    prior /= prior.sum()
    mixtures = random_mixtures(prior, setting.num_fit + setting.num_held_out, seed=seed)

    def loss(weights: np.ndarray, split: str) -> float:
        corpora = {"train": paths["train"], "test": paths[split]}
        as_json = json.dumps(weights.tolist())
        return trained(corpora, "fixed", setting, seed=seed, weights=as_json).loss

    losses = np.array([loss(mixture, "validation") for mixture in mixtures])
    fit = slice(0, setting.num_fit)
    rest = slice(setting.num_fit, None)
    predicted = ridge_predictor(mixtures[fit], losses[fit])(mixtures[rest])
    best = RegMix(prior, mixtures[fit], regressor="ridge", seed=seed).update(losses[fit])
    best_loss = loss(best, "test")
    return {
        "rank correlation on held-out mixtures": float(spearmanr(predicted, losses[rest])[0]),
        "best mixture below the prior, test nats": loss(prior, "test") - best_loss,
        "loss best mixture": best_loss,
        "least loss of the small runs, validation": float(losses.min()),
        "spread of the small runs' losses": float(losses.std()),
        **{
            f"best weight {name}": float(weight)
            for name, weight in zip(sorted(BYTES), best, strict=True)
        },
    }


EXPERIMENT = Experiment(
    name="regmix",
    claim=(
        "a ridge regression on 64 short runs of random mixtures of four domains ranks 32 others by "
        "their loss on text of a fifth (Python's language reference)."
    ),
    lines=(Line(measure="rank correlation on held-out mixtures", at_least=0.85),),
    settings=Setting(),
    run=run,
    notes=(
        "A failure: the line is met for one seed of two. So it was in a first setting of 32 runs "
        "to fit and 16 to rank (0.815 and 0.941 on seeds 101 and 102). A linear regression cannot "
        "hold an optimum inside the simplex: its best mixture is one domain alone, here worse than "
        "the prior. The paper's boosted trees, which can, need more runs than were made here (a "
        "leaf of lightgbm takes 20); they were not tried.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
