"""UniMax through the loader: no domain is repeated more often than the cap allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lab import Experiment, Line, Measures, main
from texts import write_corpora

import mixstream
from mixstream.algorithms import UniMax

BYTES = {"lit_en": 600_000, "law_de": 300_000, "math_tex": 60_000, "recipes": 15_000}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run that only draws."""

    text: float = 1.0
    """Factor on the bytes of text of each domain."""
    max_epochs: int = 4
    """The cap."""
    epochs: float = 1.5
    """Rows drawn, over the rows there are."""
    batch_size: int = 16
    """Rows a step."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    sizes = {"train": {name: int(size * setting.text) for name, size in BYTES.items()}}
    corpus = mixstream.open_corpus(write_corpora(folder, sizes, seed=seed)["train"])
    num_steps = int(setting.epochs * corpus.num_rows.sum() / setting.batch_size)
    method = UniMax(
        len(corpus.domains),
        budget=num_steps * setting.batch_size,
        max_epochs=setting.max_epochs,
        domains=corpus.domains,
    )
    weights = method.update(corpus.num_rows)
    caps = {"max_epochs": setting.max_epochs, "on_exhausted": "redistribute"}
    ways = {
        "UniMax, the loader's cap": (weights, caps),
        "UniMax alone": (weights, {}),
        "uniform": (np.ones(len(weights)), {}),
    }
    measures = {}
    for name, (by, how) in ways.items():
        loader = mixstream.Loader(corpus, by, batch_size=setting.batch_size, seed=seed, **how)
        drawn = np.zeros(len(weights), dtype=np.int64)
        for batch in loader:
            drawn += np.bincount(batch["domain_ids"].numpy(), minlength=len(weights))
            if loader.step >= num_steps:
                break
        measures[f"most epochs over the cap: {name}"] = float(
            (drawn / corpus.num_rows).max() / setting.max_epochs
        )
        for domain, share in zip(corpus.domains, drawn / drawn.sum(), strict=True):
            if how:
                measures[f"share of {domain}"] = float(share)
    return measures


EXPERIMENT = Experiment(
    name="unimax",
    claim=(
        "drawn by UniMax's weights through a loader with the same cap, no domain's delivered rows "
        "make more epochs than it; under uniform sampling the smallest domain is far above it."
    ),
    lines=(
        Line(measure="most epochs over the cap: UniMax, the loader's cap", at_most=1.0),
        Line(measure="most epochs over the cap: uniform", at_least=2.0),
    ),
    settings=Setting(),
    run=run,
    notes=(
        "The weights alone meet the cap in the mean: rows are drawn independently, so the realised "
        "epochs of a domain at its cap lie on either side of it.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
