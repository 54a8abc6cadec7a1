"""DGA towards a target set: with ample data better than uniform, with little than importance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lab import Experiment, Line, Measures, main
from runs import Scale, Trained, trained
from texts import write_corpora

DOMAINS = (
    "docs_vba", "drama_de", "factbook", "law_de", "lit_en", "med_qa", "poetry_zh", "specs"
)  # fmt: skip
AMPLE_BYTES = 500_000
HELD_OUT_BYTES = 32_000


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """Three methods on ample data, and on little."""

    steps: int = 1200
    """Of the part with little data."""
    ample_steps: int = 300
    """Of the part with ample data."""
    target: str = "drama_de"
    """The domain whose held-out text is the target."""
    little: int = 12_000
    """Bytes a domain of the second part."""
    step_size: float = 2.0
    """DGA's eta."""
    ema: float = 0.2
    """DGA's beta."""
    update_every: int = 10
    """DGA's T_r."""
    probe_rows: int = 8
    """Rows of each domain in a measurement."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed: ample data, then little."""
    ample = replace(setting, steps=setting.ample_steps)
    plenty = part(folder / "ample", AMPLE_BYTES, ample, ("uniform", "importance", "dga"), seed)
    little = part(folder / "little", setting.little, setting, ("importance", "dga"), seed)
    losses = {name: found.loss for name, found in plenty.items()}
    measures = {
        "ample: DGA below uniform, nats": losses["uniform"] - losses["dga"],
        "ample: importance below uniform, nats": losses["uniform"] - losses["importance"],
        "little: DGA below importance, nats": little["importance"].loss - little["dga"].loss,
        "little: the same where validation stops": little["importance"].stopped_loss
        - little["dga"].stopped_loss,
    }
    for name, runs in (("ample", plenty), ("little", little)):
        measures |= {f"{name}: loss {method}": found.loss for method, found in runs.items()}
        measures[f"{name}: DGA's last weight of {setting.target}"] = runs["dga"].weights[
            setting.target
        ]
    for method, found in little.items():
        measures[f"little: step where validation stops {method}"] = found.stopped_at
    return measures


def part(
    folder: Path, num_bytes: int, setting: Setting, methods: tuple[str, ...], seed: int
) -> dict[str, Trained]:
    """Runs of some methods on so many bytes of each domain."""
    held_out = setting.bytes_of({setting.target: HELD_OUT_BYTES})
    sizes = dict.fromkeys(("target", "validation", "test"), held_out)
    sizes["train"] = setting.bytes_of(dict.fromkeys(DOMAINS, num_bytes))
    paths = write_corpora(folder, sizes, seed=seed)
    return {
        method: trained(
            paths,
            method,
            setting,
            seed=seed,
            validation="validation",
            target=None if method == "uniform" else str(paths["target"]),
            step_size=setting.step_size,
            ema=setting.ema,
            update_every=setting.update_every,
            probe_rows=setting.probe_rows,
            smoothing=0.0,
        )
        for method in methods
    }


EXPERIMENT = Experiment(
    name="dga",
    claim=(
        "following the target's gradient, sampling goes where it helps the target: better on the "
        "target's test text than uniform sampling where each domain has 500 kB, and better than "
        "importance sampling where each has 12 kB, which importance sampling repeats too often."
    ),
    lines=(
        Line(measure="ample: DGA below uniform, nats", at_least=0.05),
        Line(measure="ample: importance below uniform, nats", at_least=0.05),
        Line(measure="little: DGA below importance, nats", at_least=0.2),
    ),
    settings=Setting(),
    run=run,
    notes=(
        "Importance sampling knows the target's domain, whose weight is 1. Losses are those after "
        "the last step. Where a validation set stops both in time, most of the gap on little data "
        "is gone; what is left stands in the table.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
