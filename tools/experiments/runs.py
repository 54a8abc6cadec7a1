"""Paths and settings -> a trained run: its test losses, at the end and where validation is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab  # noqa: F401 (makes the folder of train_tiny importable)
import numpy as np
from tiny_rows import measured_losses, same_tokens, spaced_rows
from tiny_run import Run
from tiny_settings import Settings
from train_tiny import train


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the models and their runs are; experiments add what they need."""

    steps: int = 1000
    """Of each phase."""
    batch_size: int = 16
    """Rows a step, of 64 bytes."""
    width: int = 64
    """Of the models."""
    layers: int = 2
    """Of the models."""
    peak_rate: float = 1e-3
    """Learning rate."""
    text: float = 1.0
    """Factor on the bytes of text of each domain."""

    def bytes_of(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """The bytes at this scale."""
        return {name: int(size * self.text) for name, size in wanted.items()}


@dataclass(frozen=True)
class Trained:
    """What became of one run."""

    weights: dict[str, float]
    """Sampling weights at the end."""
    losses: dict[str, float]
    """Test loss of each domain at the end, nats per byte."""
    stopped: dict[str, float]
    """The same at the step where the validation loss was least, if there was a validation set."""
    stopped_at: int
    """That step."""
    report: dict[str, Any]
    """Of train_tiny."""

    @property
    def loss(self) -> float:
        """Mean of the test losses at the end."""
        return float(np.mean(list(self.losses.values())))

    @property
    def stopped_loss(self) -> float:
        """Mean of the test losses where validation was best."""
        return float(np.mean(list(self.stopped.values())))


def trained(
    paths: Mapping[str, Path],
    method: str,
    scale: Scale,
    *,
    seed: int,
    validation: str | None = None,
    eval_every: int = 100,
    test_rows: int = 500,
    **settings: Any,
) -> Trained:
    """Trains on paths["train"], measures on paths["test"].

    Args:
        paths: of corpora.
        method: of train_tiny.
        scale: of model and run.
        seed: of model and order.
        validation: key in paths of what stopping may see; None never stops.
        eval_every: steps between looks at it.
        test_rows: rows of each test domain that are measured.
        settings: further ones of train_tiny.
    """
    stops: list[tuple[float, int, dict[str, float]]] = []

    def look(run: Run) -> None:
        if validation is not None and run.phase == "main" and run.step % eval_every == 0:
            loss = float(np.mean(list(_losses(run, paths[validation], test_rows // 2).values())))
            if loss < min((best for best, _, _ in stops), default=np.inf):
                stops.append((loss, run.step, _losses(run, paths["test"], test_rows)))

    report = train(
        Settings(
            corpus=str(paths["train"]),
            eval=str(paths["test"]),
            eval_rows=test_rows,
            method=method,
            steps=scale.steps,
            batch_size=scale.batch_size,
            width=scale.width,
            layers=scale.layers,
            peak_rate=scale.peak_rate,
            seed=seed,
            **settings,
        ),
        look,
    )
    weights = dict(zip(report["domains"], report["weights"], strict=True))
    _, stopped_at, stopped = stops[-1] if stops else (0.0, scale.steps, report["losses"])
    return Trained(weights, report["losses"], stopped, stopped_at, report)


def _losses(run: Run, path: Path, num_rows: int) -> dict[str, float]:
    """Loss of each domain of a corpus."""
    corpus = same_tokens(run.corpus, str(path))
    rows = spaced_rows(corpus, num_rows)
    found = measured_losses(run.model, corpus, rows, batch_size=4 * run.settings.batch_size)
    return dict(zip(corpus.domains, found.per_token.tolist(), strict=True))
