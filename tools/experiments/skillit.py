"""Skill-it, fine-tuning: little text of the target skill, three source skills, a learned graph."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lab import Experiment, Line, Measures, main
from runs import Scale, trained
from texts import write_corpora

TARGET = "drama_de"
SOURCES = ("law_de", "lit_en", "poetry_zh")
TARGET_BYTES, SOURCE_BYTES, HELD_OUT_BYTES = 24_000, 500_000, 32_000


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """Short runs for the graph, then Skill-it, stratified and target-only runs."""

    steps: int = 1300
    """Of each run."""
    peak_rate: float = 3e-3
    """Learning rate."""
    graph_steps: int = 700
    """H: of each short run."""
    min_gain: float = 0.03
    """Nats by which a joint run must be better to make an edge."""
    step_size: float = 0.15
    """Skill-it's eta."""
    window: int = 3
    """Skill-it's w."""
    num_rounds: int = 10
    """T."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    domains = sorted((TARGET, *SOURCES))
    held_out = setting.bytes_of({TARGET: HELD_OUT_BYTES})
    sizes = dict.fromkeys(("graph", "policy", "stopping", "test"), held_out)
    sizes["train"] = setting.bytes_of(dict.fromkeys(SOURCES, SOURCE_BYTES) | {TARGET: TARGET_BYTES})
    paths = write_corpora(folder, sizes, seed=seed)
    graph, gains = target_edges(domains, paths, setting, seed)
    file = folder / "graph.json"
    file.write_text(json.dumps(graph.tolist()))
    how = {"seed": seed, "validation": "stopping"}
    target_only = json.dumps([float(name == TARGET) for name in domains])
    runs = {
        "skill-it": trained(
            paths,
            "skillit",
            setting,
            target=str(paths["policy"]),
            graph=str(file),
            step_size=setting.step_size,
            window=setting.window,
            update_every=max(1, setting.steps // setting.num_rounds),
            **how,
        ),
        "stratified": trained(paths, "uniform", setting, **how),
        "target only": trained(paths, "fixed", setting, weights=target_only, **how),
    }
    losses = {name: found.stopped_loss for name, found in runs.items()}
    measures = {
        "below stratified, nats": losses["stratified"] - losses["skill-it"],
        "stratified below target only, nats": losses["target only"] - losses["stratified"],
    }
    for name, found in runs.items():
        measures[f"loss {name}"] = losses[name]
        measures[f"loss {name}, never stopped"] = found.loss
        measures[f"steps {name}"] = found.stopped_at
    measures |= {f"joint run better, nats: {name}": gains[name] for name in SOURCES}
    measures |= {f"last weight {name}": weight for name, weight in runs["skill-it"].weights.items()}
    return measures


def target_edges(
    domains: list[str], paths: dict[str, Path], setting: Setting, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """(K, 1) edges into the target by brute force from K short runs; the gain of each.

    Only the target's column of the (K, K) graph is wanted, so only the runs that it needs are made:
    the target alone, and the target with each source, half each. As in the paper there is an edge
    where the joint run is better; its strength of one half is the reference code's.
    """
    index = domains.index(TARGET)
    by_graph = {"train": paths["train"], "test": paths["graph"]}

    def loss(weights: np.ndarray) -> float:
        short = replace(setting, steps=setting.graph_steps)
        as_json = json.dumps(weights.tolist())
        return trained(by_graph, "fixed", short, seed=seed, weights=as_json).loss

    eye = np.eye(len(domains))
    alone = loss(eye[index])
    gains = [
        alone - loss((row + eye[index]) / 2) if name != TARGET else np.inf
        for name, row in zip(domains, eye, strict=True)
    ]
    edges = (np.array(gains) > setting.min_gain)[:, np.newaxis]
    return np.where(eye[:, [index]] > 0, 1.0, 0.5 * edges), dict(zip(domains, gains, strict=True))


EXPERIMENT = Experiment(
    name="skillit",
    claim=(
        "with 24 kB of German drama and three source skills, sampling by the learned graph is "
        "better on test drama than all four alike, and that is better than the target alone. Each "
        "run is stopped where a validation set says; graph, policy and stopping see texts apart "
        "from the test's."
    ),
    lines=(
        Line(measure="below stratified, nats", at_least=0.01),
        Line(measure="stratified below target only, nats", at_least=0.01),
    ),
    settings=Setting(),
    run=run,
    notes=(
        "A first setting (1,200 steps at a rate of 0.002, eta 0.2) on seeds 101 and 102 met the "
        "first line (0.075, 0.13) and not the second (-0.009, -0.068): four skills alike were not "
        "trained long enough to pass the target alone. Rate, length and eta were then chosen on "
        "pilot seeds 1 and 2, and run on fresh ones.",
        "Which edges a graph of such short runs has differs from seed to seed.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
