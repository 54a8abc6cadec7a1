"""PiKE with a domain of noise: large gradients that agree pull the weights, noisy ones do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab import Experiment, Line, Measures, main
from noise import real_loss, write_noisy
from runs import Scale, trained
from texts import NOISE


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """PiKE and uniform sampling."""

    steps: int = 1000
    """Of each run."""
    width: int = 32
    """Of the models."""
    peak_rate: float = 3e-3
    """Learning rate."""
    update_every: int = 10
    """Steps between measurements."""
    probe_rows: int = 16
    """Rows of each domain in a measurement."""
    step_size: float = 0.05
    """zeta1."""
    noise_step_size: float = 0.005
    """zeta2."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    paths = write_noisy(folder, setting, seed=seed)
    uniform = trained(paths, "uniform", setting, seed=seed)
    pike = trained(
        paths,
        "pike",
        setting,
        seed=seed,
        update_every=setting.update_every,
        probe_rows=setting.probe_rows,
        step_size=setting.step_size,
        noise_step_size=setting.noise_step_size,
    )
    return {
        "last weight of noise, over uniform's": pike.weights[NOISE] * len(pike.weights),
        "real domains' loss below uniform, nats": real_loss(uniform) - real_loss(pike),
        "loss pike": real_loss(pike),
        "loss uniform": real_loss(uniform),
        **{f"last weight {name}": weight for name, weight in pike.weights.items() if name != NOISE},
    }


EXPERIMENT = Experiment(
    name="pike",
    claim=(
        "the gradient of noise is small in the mean, so that its weight falls, and the four real "
        "domains (mean test loss) gain over uniform sampling."
    ),
    lines=(
        Line(measure="last weight of noise, over uniform's", at_most=0.5),
        Line(measure="real domains' loss below uniform, nats", at_least=0.005),
    ),
    settings=Setting(),
    run=run,
    notes=(
        "A failure: seed 101 misses both lines, 102 meets them. "
        "The factors are in the unit of squared gradients, and were chosen on pilot seed 1: with "
        "zeta2 as large as zeta1 the real domains, whose gradients vary more than those of noise, "
        "lost weight, and the loss was above uniform's.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
