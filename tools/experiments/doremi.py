"""DoReMi with a domain of noise: does its weight fall, and does the rest gain by it?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab import Experiment, Line, Measures, main
from noise import REAL_BYTES, real_loss, write_noisy
from runs import Scale, trained
from texts import NOISE


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """DoReMi's three phases, and two rivals of as many steps as its main run."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    paths = write_noisy(folder, setting, seed=seed)
    runs = {
        method: trained(paths, method, setting, seed=seed)
        for method in ("uniform", "natural", "doremi")
    }
    losses = {method: real_loss(found) for method, found in runs.items()}
    weights, reference = runs["doremi"].weights, runs["natural"].weights
    measures = {
        "noise weight over min(1/K, reference)": weights[NOISE]
        / min(1 / len(weights), reference[NOISE]),
        "below uniform, nats": losses["uniform"] - losses["doremi"],
        "below reference, nats": losses["natural"] - losses["doremi"],
    }
    measures |= {f"loss {method}": loss for method, loss in losses.items()}
    measures |= {f"weight {name}": weight for name, weight in weights.items()}
    for name in REAL_BYTES:
        before, after = (runs[method].losses[name] for method in ("uniform", "doremi"))
        measures[f"{name} below uniform, nats"] = before - after
    return measures


EXPERIMENT = Experiment(
    name="doremi",
    claim=(
        "a proxy's excess loss finds that noise cannot be learned; the main model, drawn by the "
        "average weights, is better on the four real domains (mean test loss) than under uniform "
        "and under reference sampling."
    ),
    lines=(
        Line(measure="noise weight over min(1/K, reference)", at_most=0.5),
        Line(measure="below uniform, nats", at_least=0.005),
        Line(measure="below reference, nats", at_least=0.005),
    ),
    settings=Setting(),
    run=run,
    notes=("The reference weights are the domains' shares of the rows. Not every domain gains.",),
)

if __name__ == "__main__":
    main(EXPERIMENT)
