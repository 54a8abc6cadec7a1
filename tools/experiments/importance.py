"""Importance sampling over clusters (CRISP): documents without domains, `mixstream cluster`."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lab import Experiment, Line, Measures, main
from runs import Scale, trained
from texts import deal, write_raw

import mixstream
from mixstream.algorithms import ImportanceSampling
from mixstream.cli import main as mixstream_command
from mixstream.cluster import open_clusters

DOMAINS = (
    "docs_vba", "drama_de", "factbook", "law_de", "lit_en", "med_qa", "poetry_zh", "specs"
)  # fmt: skip
TRAIN_BYTES, HELD_OUT_BYTES = 500_000, 32_000
SEQ_LEN = 64


@dataclass(frozen=True, kw_only=True)
class Setting(Scale):
    """Clusters of the corpus, a target set, and three ways to sample."""

    steps: int = 400
    """Of each run."""
    width: int = 32
    """Of the models."""
    peak_rate: float = 3e-3
    """Learning rate."""
    target: str = "med_qa"
    """Where the target set comes from; its documents carry no label, as all others."""
    num_clusters: int = 16
    """K."""
    dimensions: int = 64
    """Of the points that are clustered."""
    piece: int = 2_000
    """Characters of the longest document; longer ones are cut into several."""
    smoothing: float = 0.1
    """Pseudo-documents of each cluster."""


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    held_out = setting.bytes_of({setting.target: HELD_OUT_BYTES})
    sizes = dict.fromkeys(("target", "test"), held_out)
    sizes["train"] = setting.bytes_of(dict.fromkeys(DOMAINS, TRAIN_BYTES))
    dealt = deal(sizes, seed=seed)
    paths, histogram = clustered(dealt, setting, folder, seed)
    corpus = mixstream.open_corpus(paths["train"])
    weights = ImportanceSampling(len(corpus.domains), smoothing=setting.smoothing).update(
        [histogram[name] for name in corpus.domains]
    )
    as_json = json.dumps(weights.tolist())
    importance = trained(paths, "fixed", setting, seed=seed, weights=as_json)
    uniform = trained(paths, "uniform", setting, seed=seed)
    largest = int(np.argmax(weights))
    drawn = weights[largest] * setting.steps * setting.batch_size
    places = open_clusters(folder / "clusters").assign(dealt["train"][setting.target])
    return {
        "below uniform, nats": uniform.loss - importance.loss,
        "loss importance": importance.loss,
        "loss uniform": uniform.loss,
        "clusters of the corpus": float(len(corpus.domains)),
        "largest weight of a cluster": float(weights[largest]),
        "epochs of that cluster": float(drawn / corpus.num_rows[largest]),
        "most of the target's own domain in one cluster": float(
            np.bincount(places).max() / len(places)
        ),
    }


def clustered(
    dealt: dict[str, dict[str, list[str]]], setting: Setting, folder: Path, seed: int
) -> tuple[dict[str, Path], dict[str, int]]:
    """Corpora with a domain a cluster, by the command line, and the target's histogram."""
    for split, texts in dealt.items():
        pieces = [
            text[at : at + setting.piece]
            for found in texts.values()
            for text in found
            for at in range(0, len(text), setting.piece)
        ]
        write_raw(folder / split / "all", pieces)
    clusters, counts = folder / "clusters", folder / "target.json"
    asked = ["--clusters", setting.num_clusters, "--dimensions", setting.dimensions, "--seed", seed]
    command("cluster", folder / "train", clusters, *asked)
    command("cluster", folder / "target", "--model", clusters, "--json", counts)
    paths = {}
    for split, raw in (("train", clusters), ("test", folder / "test")):
        paths[split] = folder / f"corpus-{split}"
        mixstream.convert(raw, paths[split], tokenizer="bytes", seq_len=SEQ_LEN)
    return paths, json.loads(counts.read_text())


def command(*arguments: object) -> None:
    """One command of mixstream; its table is not of interest here."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = mixstream_command([str(each) for each in arguments])
    if code:
        raise SystemExit(f"mixstream {arguments[0]} ended with exit code {code}.")


EXPERIMENT = Experiment(
    name="importance",
    claim=(
        "eight domains are mixed without labels and clustered; a small target set is assigned to "
        "the clusters; sampling them by its histogram is better on the target's test text than "
        "uniform sampling of the clusters."
    ),
    lines=(Line(measure="below uniform, nats", at_least=0.05),),
    settings=Setting(),
    run=run,
)

if __name__ == "__main__":
    main(EXPERIMENT)
