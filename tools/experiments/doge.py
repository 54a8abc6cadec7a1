"""DoGE out of domain: does the proxy find the domain that is like the target?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab import Experiment, Line, Measures, main
from runs import Scale, trained
from texts import write_corpora

DOMAINS = ("docs_vba", "formal_mm", "law_de", "lit_en", "poetry_zh")
TARGET, MATCHING = "drama_de", "law_de"
TRAIN_BYTES, HELD_OUT_BYTES = 500_000, 32_000


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """DoGE's proxy and main run, and uniform sampling."""

    steps: int = 600
    """Of the proxy, of the main run and of its rival."""
    peak_rate: float = 3e-3
    """Learning rate."""
    mu: float = 0.003
    """DoGE's Bregman coefficient."""
    update_every: int = 10
    """Steps between measurements of the gradients."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    held_out = setting.bytes_of({TARGET: HELD_OUT_BYTES})
    sizes = dict.fromkeys(("target", "test"), held_out)
    sizes["train"] = setting.bytes_of(dict.fromkeys(DOMAINS, TRAIN_BYTES))
    paths = write_corpora(folder, sizes, seed=seed)
    uniform = trained(paths, "uniform", setting, seed=seed)
    doge = trained(
        paths,
        "doge",
        setting,
        seed=seed,
        target=str(paths["target"]),
        mu=setting.mu,
        update_every=setting.update_every,
    )
    return {
        f"weight of {MATCHING}": doge.weights[MATCHING],
        "below uniform, nats": uniform.loss - doge.loss,
        "loss uniform": uniform.loss,
        "loss doge": doge.loss,
        **{f"weight {name}": weight for name, weight in doge.weights.items() if name != MATCHING},
    }


EXPERIMENT = Experiment(
    name="doge",
    claim=(
        "the target is German drama, which is none of the five domains; the proxy's gradients find "
        "that German law is the one like it, and the main model, drawn by the proxy's average "
        "weights, is better on the target's test text than under uniform sampling."
    ),
    lines=(
        Line(measure=f"weight of {MATCHING}", at_least=0.5),
        Line(measure="below uniform, nats", at_least=0.1),
    ),
    settings=Setting(),
    run=run,
)

if __name__ == "__main__":
    main(EXPERIMENT)
