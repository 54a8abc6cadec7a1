"""Every exception that mixstream raises on purpose; the tree stands here, the raising elsewhere.

MixstreamError
├── RecipeError  (ValueError)  a setting of a command: names the key, the file, the mend
├── SourceError  (ValueError)  a raw input: names the file and the line, record or byte
├── ShardError   (OSError)     a corpus on disk: names the file, what it says and what was found
│   ├── ShardMissingError      a file or object that an index names is not there
│   ├── ShardForbiddenError    storage refuses the key, the secret or the right to read
│   ├── ShardCorruptError      bytes that are not what their index says: both are named
│   └── ShardUnreachableError  storage did not answer, however often it was asked
├── WeightsError (ValueError)  weights: names the domain or value, and the domains that exist
├── StepError    (ValueError)  a change asked for a drawn row: names both rows
├── StateError   (ValueError)  a state that does not fit corpus, seed or version: names both values
└── WorkerError  (RuntimeError) a worker process that died: names it, its exit code and the step
"""

from __future__ import annotations

__all__ = [
    "MixstreamError",
    "RecipeError",
    "ShardCorruptError",
    "ShardError",
    "ShardForbiddenError",
    "ShardMissingError",
    "ShardUnreachableError",
    "SourceError",
    "StateError",
    "StepError",
    "WeightsError",
    "WorkerError",
]


class MixstreamError(Exception):
    """Any error that mixstream raises on purpose."""


class RecipeError(MixstreamError, ValueError):
    """A setting of a conversion, a picture or another command that cannot be met."""


class SourceError(MixstreamError, ValueError):
    """A raw input that cannot be read as what its name says."""


class ShardError(MixstreamError, OSError):
    """A corpus on disk that is missing, damaged or of a kind that mixstream does not read."""


class ShardMissingError(ShardError):
    """A file or object that should be there and is not."""


class ShardForbiddenError(ShardError):
    """Storage that refuses to be read with these credentials."""


class ShardCorruptError(ShardError):
    """A file whose bytes are not what its index says, however often it was fetched."""


class ShardUnreachableError(ShardError):
    """Storage that did not answer, or not in time, in all attempts."""


class WeightsError(MixstreamError, ValueError):
    """Domain weights that are no point on the simplex, or that name no domain."""


class StepError(MixstreamError, ValueError):
    """A weight change planned for a row that is already drawn."""


class StateError(MixstreamError, ValueError):
    """A saved state that does not belong to this corpus, these settings or this version."""


class WorkerError(MixstreamError, RuntimeError):
    """A worker process that ended, could not start, or whose error cannot be rebuilt."""
