"""What DoReMi and DGA add to a training step, in percent of the rest of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab import Experiment, Line, Measures, main
from noise import write_noisy
from runs import Scale, trained


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """A few timed steps of each."""

    steps: int = 60
    """Of each phase."""
    update_every: int = 10
    """DGA's T_r; its part falls as one over it."""
    probe_rows: int = 8
    """Rows of each of the five domains in a measurement of DGA."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    paths = write_noisy(folder, setting, seed=seed)
    how = {"seed": seed, "time": True, "test_rows": 20}
    doremi = trained(paths, "doremi", setting, **how).report["cost"]
    dga = trained(
        paths,
        "dga",
        setting,
        update_every=setting.update_every,
        probe_rows=setting.probe_rows,
        **how,
    ).report["cost"]["main"]
    rows = setting.probe_rows * 2 * 5  # without a target all domains are probed twice
    return {
        "DoReMi's proxy adds, percent": doremi["proxy"]["overhead_percent"],
        "DGA adds, percent": dga["overhead_percent"],
        "DGA's rows over the training's, percent": 100
        * rows
        / (setting.batch_size * setting.update_every),
        "DGA at T_r 100 would add, percent": dga["overhead_percent"] * setting.update_every / 100,
        "a plain step, ms": 1000 * doremi["main"]["step_seconds"],
    }


EXPERIMENT = Experiment(
    name="cost",
    claim=(
        "DoReMi's proxy pays a forward pass of the reference model, about a third of a step; DGA "
        "pays a forward and backward pass of its probes at every T_r-th step. DoReMi's main run "
        "and importance sampling pay nothing."
    ),
    lines=(
        Line(measure="DoReMi's proxy adds, percent", at_most=50),
        Line(measure="DGA adds, percent", at_most=75),
    ),
    settings=Setting(),
    run=run,
    notes=(
        "Times of a busy machine: steps and what is added to them are taken in the same run. The "
        "papers' own percentages could not be opened here; the claims are arithmetic.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
