"""Stream many text domains to a language model and steer the mixture while the run goes on.

Every public name is here; each is imported from its own file on first use, so that
`import mixstream` costs neither torch nor pyarrow nor mosaicml-streaming.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mixstream.errors import (
    MixstreamError,
    RecipeError,
    ShardError,
    SourceError,
    StateError,
    StepError,
    WeightsError,
    WorkerError,
)

if TYPE_CHECKING:
    from mixstream.corpus.convert import ConversionReport, convert
    from mixstream.corpus.corpus import Corpus, open_corpus
    from mixstream.loader import Loader, MixBatchSampler, RowDataset
    from mixstream.mixing.sampler import MixSampler
    from mixstream.mixing.schedule import Schedule, curriculum
    from mixstream.mixing.schedule_file import read_schedule
    from mixstream.mixing.weights import WeightChange
    from mixstream.runlog import Run, drawn_counts, read_run, replay, request_weights, seen_at

__all__ = [
    "ConversionReport",
    "Corpus",
    "Loader",
    "MixBatchSampler",
    "MixSampler",
    "MixstreamError",
    "RecipeError",
    "RowDataset",
    "Run",
    "Schedule",
    "ShardError",
    "SourceError",
    "StateError",
    "StepError",
    "WeightChange",
    "WeightsError",
    "WorkerError",
    "convert",
    "curriculum",
    "drawn_counts",
    "open_corpus",
    "read_run",
    "read_schedule",
    "replay",
    "request_weights",
    "seen_at",
]

__version__ = "0.1.0"

_HOMES = {
    "ConversionReport": "mixstream.corpus.convert",
    "Corpus": "mixstream.corpus.corpus",
    "Loader": "mixstream.loader",
    "MixBatchSampler": "mixstream.loader",
    "MixSampler": "mixstream.mixing.sampler",
    "RowDataset": "mixstream.loader",
    "Run": "mixstream.runlog",
    "Schedule": "mixstream.mixing.schedule",
    "WeightChange": "mixstream.mixing.weights",
    "convert": "mixstream.corpus.convert",
    "curriculum": "mixstream.mixing.schedule",
    "drawn_counts": "mixstream.runlog",
    "open_corpus": "mixstream.corpus.corpus",
    "read_run": "mixstream.runlog",
    "read_schedule": "mixstream.mixing.schedule_file",
    "replay": "mixstream.runlog",
    "request_weights": "mixstream.runlog",
    "seen_at": "mixstream.runlog",
}


def __getattr__(name: str) -> object:
    """Imports a public name's file on first use."""
    if name not in _HOMES:
        message = f"module 'mixstream' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
