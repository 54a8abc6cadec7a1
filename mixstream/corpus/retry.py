"""A call to remote storage -> what it gives, tried again for a while; or why it cannot be had."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mixstream.corpus.failures import Failure, failure_of, failure_text
from mixstream.corpus.storage import StorageSettings
from mixstream.errors import RecipeError

__all__ = ["Failed", "tried"]

T = TypeVar("T")

_LOG = logging.getLogger("mixstream")
_MIN_ATTEMPTS = 3

_PASSING = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}
"""What S3 answers with status 400 where the bytes were spoiled or lost on the way."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What became of a call that is not tried any more."""

    failure: Failure
    error: BaseException
    """Of the last attempt."""
    num_attempts: int
    seconds: float
    """That all attempts took."""

    @property
    def tried(self) -> str:
        """How often, in words."""
        return f"{self.num_attempts} attempt{'s' if self.num_attempts > 1 else ''}"

    @property
    def detail(self) -> str:
        """The last error in one line."""
        return failure_text(self.error)


def tried(
    call: Callable[[], T],
    settings: StorageSettings,
    place: object,
    final: Callable[[Failed], Exception],
) -> T:
    """What a call gives, tried for retry_seconds and three times at least.

    Args:
        call: what is tried; an SDK's exceptions are its own.
        settings: how long, and how long between two attempts.
        place: what is called, for the log.
        final: makes the error that ends it: at once for all but the network's failures.
    """
    started, attempts = time.monotonic(), 0
    while True:
        attempts += 1
        try:
            return call()
        except RecipeError:
            raise
        except Exception as error:  # an SDK's own: sorted here, and raised
            seconds = time.monotonic() - started
            failure: Failure = "unreachable" if _is_passing(error) else failure_of(error)
            is_over = seconds >= settings.retry_seconds and attempts >= _MIN_ATTEMPTS
            if failure != "unreachable" or is_over:
                raise final(Failed(failure, error, attempts, seconds)) from error
            mean = settings.first_wait_seconds * 2.0 ** min(attempts - 1, 30)
            pause = min(mean, settings.max_wait_seconds) * random.uniform(0.5, 1.5)
            _LOG.warning(
                "%s: attempt %d failed (%s); again in %.1f s",
                place,
                attempts,
                failure_text(error),
                pause,
            )
        time.sleep(pause)


def _is_passing(error: BaseException) -> bool:
    response = getattr(error, "response", None)
    said = response.get("Error", {}) if isinstance(response, Mapping) else {}
    return said.get("Code") in _PASSING
