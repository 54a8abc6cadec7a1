"""What persons ask for beside the log of a run -> what its Loader does; and when it looks."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from mixstream.arrays import Vector
from mixstream.corpus.corpus import Corpus
from mixstream.errors import StateError, StepError, WeightsError
from mixstream.loader.batch_sampler import MixBatchSampler
from mixstream.loader.ranks import is_distributed, of_rank_0, writes_log
from mixstream.loader.recorded import RunRecord
from mixstream.mixing.weights import WeightChange
from mixstream.runlog.requests import Request, RequestFolder

__all__ = ["Asked", "Lookout", "Steering", "opened_record"]

_POLL_SECONDS = 0.1
"""A look for requests lists a folder, 5 us on a local disk."""
_MAX_STEPS_UNSEEN = 256
_MAX_STEPS_UNASKED = 64
"""Looks come ten times a second, but a quick loop that turns slow waits for so many steps once: few
enough for a person, and enough that the 10 us of a look (after a step has emptied the cache) are
less than 0.1 % and 0.5 % of an empty loop's step. See benchmarks/run_log.py."""


class Asked(NamedTuple):
    """Weights that a person asked for, checked."""

    weights: Vector
    at_step: int
    reason: str


class Steering:
    """The requests of persons, which all ranks take at the same step.

    Args:
        log_path: of the run log; its folder of requests lies beside it.
        batches: of this rank.
        every: steps between looks; None means when it is time, which under torch.distributed, where
            each look is a broadcast, is every 10 steps.
        is_writer: whether this is the rank that reads and answers requests.

    Raises:
        StateError: there are other ranks, and no torch.distributed to tell them.
    """

    def __init__(
        self,
        log_path: str | os.PathLike[str],
        batches: MixBatchSampler,
        *,
        every: int | None,
        is_writer: bool,
    ) -> None:
        if batches.world_size > 1 and not is_distributed():
            raise StateError(
                f"steerable=True with world_size {batches.world_size}, but torch.distributed is "
                f"not initialised, so nobody tells the other ranks; initialise it first."
            )
        self._every = 10 if every is None and is_distributed() else every
        self._batches = batches
        self._folder = RequestFolder(log_path) if is_writer else None
        self._looked_at = 0.0

    def take(self, step: int, change: Callable[[Asked], WeightChange]) -> None:
        """Takes what persons ask for, if this is a step for it. Collective.

        Args:
            step: steps delivered.
            change: changes the weights on this rank, and raises WeightsError on all or none.
        """
        if self._every is not None and step % self._every:
            return
        found = of_rank_0(self._waiting) if is_distributed() else self._waiting()
        for request, asked in found:
            try:
                made = change(asked)
            except (WeightsError, StepError) as error:
                if self._folder is not None:
                    self._folder.refuse(request, error)
                continue
            if self._folder is not None:
                self._folder.accept(request, step=made.at_step or 0, row=made.at_row)

    def steps_until_look(self, step: int, likely: int) -> int:
        """Steps from one to that of the next look, if `likely` take as long as may be waited."""
        if self._every is not None:
            return self._every - step % self._every
        return min(likely, _MAX_STEPS_UNASKED)

    def _waiting(self) -> list[tuple[Request, Asked]]:
        """The requests that wait and can be met; the others are answered."""
        assert self._folder is not None, "asked on the writer alone"
        now = time.monotonic()
        if now - self._looked_at < _POLL_SECONDS:
            return []
        self._looked_at = now
        found = []
        for request in self._folder.pending():
            try:
                point = self._batches.sampler.checked(request.weights)
            except WeightsError as error:
                self._folder.refuse(request, error)
                continue
            found.append((request, Asked(point, self._batches.step, request.reason)))
        return found


class Lookout:
    """When a Loader looks up from its batches: for requests, and to say how far it is.

    Args:
        record: of the run, on the rank that writes one.
        steering: of a run that takes requests.
    """

    def __init__(self, record: RunRecord | None, steering: Steering | None) -> None:
        self._record, self._steering = record, steering
        self._looked_at, self._looked_step = time.monotonic(), 0
        self.next_step: float = math.inf if record is None and steering is None else 0
        """The step before which to look next."""

    def look(self, step: int, change: Callable[[Asked], WeightChange]) -> None:
        """Does what is due before a step; see `Steering.take` for `change`."""
        if self._steering is not None:
            self._steering.take(step, change)
        now = time.monotonic()
        if self._record is not None:
            self._record.notice(step, now)
        likely = _likely_steps(step - self._looked_step, now - self._looked_at)
        if self._steering is not None:
            likely = min(likely, self._steering.steps_until_look(step, likely))
        self.next_step = step + likely
        self._looked_at, self._looked_step = now, step

    def say_progress(self, step: int) -> None:
        """The loop was left, or has ended."""
        if self._record is not None:
            self._record.progress(step)

    def say_end(self, reason: str, step: int) -> None:
        """The iteration has ended by itself."""
        if self._record is not None:
            self._record.end(reason, step)

    def say_fault(self, error: OSError, step: int) -> None:
        """Something could not be read."""
        if self._record is not None:
            self._record.fault(error, step)


def opened_record(
    run_log: str | os.PathLike[str] | None,
    corpus: Corpus,
    batches: MixBatchSampler,
    *,
    planned_by: str,
    steerable: bool,
    steer_every: int | None,
) -> tuple[RunRecord | None, Lookout]:
    """What a Loader needs for its run log: the record, on the rank that writes it, and a lookout.

    Raises:
        StateError: the log is another run's, or settings have no effect.
    """
    if run_log is None and steerable:
        raise StateError(
            "steerable=True needs a run log, beside which the requests lie; give run_log."
        )
    if steer_every is not None and (not steerable or steer_every < 1):
        raise StateError(
            f"steer_every is {steer_every} with steerable={steerable}; give at least 1 step, and "
            f"steerable=True."
        )
    if run_log is None:
        return None, Lookout(None, None)
    is_writer = writes_log(batches.rank)
    steering = (
        Steering(run_log, batches, every=steer_every, is_writer=is_writer) if steerable else None
    )
    record = (
        RunRecord(run_log, corpus, batches, is_steerable=steerable, planned_by=planned_by)
        if is_writer
        else None
    )
    return record, Lookout(record, steering)


def _likely_steps(steps: int, seconds: float) -> int:
    """How many steps take a tenth of a second, after some took so long; twice as many at most."""
    likely = int(steps * _POLL_SECONDS / max(seconds, 1e-6))
    return min(max(likely, 1), max(2 * steps, 1), _MAX_STEPS_UNSEEN)
