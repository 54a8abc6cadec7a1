"""Four real domains and one of noise: what DoReMi, ODM and ADO are tried on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from runs import Scale, Trained
from texts import NOISE, write_corpora

REAL_BYTES = {"lit_en": 600_000, "law_de": 400_000, "poetry_zh": 300_000, "formal_mm": 200_000}
NOISE_BYTES = 500_000
TEST_BYTES = 40_000


def write_noisy(folder: Path, scale: Scale, *, seed: int) -> dict[str, Path]:
    """Corpora "train" and "test" of the five domains."""
    sizes = {
        "train": scale.bytes_of(REAL_BYTES | {NOISE: NOISE_BYTES}),
        "test": scale.bytes_of(dict.fromkeys((*REAL_BYTES, NOISE), TEST_BYTES)),
    }
    return write_corpora(folder, sizes, seed=seed)


def real_loss(found: Trained) -> float:
    """Mean test loss of the real domains, nats per byte."""
    return float(np.mean([found.losses[name] for name in REAL_BYTES]))
