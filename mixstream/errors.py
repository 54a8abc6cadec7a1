"""Every exception that mixstream raises on purpose; the tree stands here, the raising elsewhere.

MixstreamError
├── RecipeError  (ValueError)  a conversion setting: names the key, the file, the mend
├── SourceError  (ValueError)  a raw input: names the file and the line, record or byte
├── ShardError   (OSError)     a corpus on disk: names the file, what it says and what was found
├── WeightsError (ValueError)  weights: names the domain or value, and the domains that exist
├── StepError    (ValueError)  a change asked for a drawn row: names both rows
└── StateError   (ValueError)  a state that does not fit corpus, seed or version: names both values
"""

from __future__ import annotations

__all__ = [
    "MixstreamError",
    "RecipeError",
    "ShardError",
    "SourceError",
    "StateError",
    "StepError",
    "WeightsError",
]


class MixstreamError(Exception):
    """Any error that mixstream raises on purpose."""


class RecipeError(MixstreamError, ValueError):
    """A setting of a conversion that cannot be met."""


class SourceError(MixstreamError, ValueError):
    """A raw input that cannot be read as what its name says."""


class ShardError(MixstreamError, OSError):
    """A corpus on disk that is missing, damaged or of a kind that mixstream does not read."""


class WeightsError(MixstreamError, ValueError):
    """Domain weights that are no point on the simplex, or that name no domain."""


class StepError(MixstreamError, ValueError):
    """A weight change planned for a row that is already drawn."""


class StateError(MixstreamError, ValueError):
    """A saved state that does not belong to this corpus, these settings or this version."""
