"""Rows of the run -> one rank's share of each global batch, and a place to come back to."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
from torch.utils.data import Sampler

from mixstream.arrays import Addresses, Counts
from mixstream.errors import StateError, StepError, WeightsError
from mixstream.mixing.adoption import OnRetired
from mixstream.mixing.draw import Draw
from mixstream.mixing.mark import Mark
from mixstream.mixing.sampler import MixSampler, SamplerState
from mixstream.mixing.state import check_keys
from mixstream.mixing.weights import WeightChange, WeightsLike

__all__ = ["BatchSamplerState", "MixBatchSampler"]


class BatchSamplerState(TypedDict):
    """Steps delivered, and the sampler there."""

    step: int
    sampler: SamplerState


_MAX_ROWS_AHEAD = 16384  # at 32 rows a step, drawing so many at once costs 1/25 of step by step


@dataclass(slots=True)
class _Ahead:
    """Global batches that are computed and not drawn: the sampler still stands before them."""

    version: int
    """The sampler's, while nobody but us has moved or steered it."""
    marks: list[Mark]
    """The place behind each batch."""
    addresses: Addresses
    """The rows of this rank."""
    num_given: int = 0
    """Batches that are drawn by now."""


class MixBatchSampler(Sampler[Any]):  # torch types batches as lists; ours are arrays
    """One rank's share of each global batch, as addresses, for a torch DataLoader.

    A global batch is the next batch_size * world_size rows of the sampler. They are dealt in the
    order of their canonical nodes, so that the ranks of a node stay on their slices (exactly so
    where the number of nodes divides C, and C divides the global batch).

    Iterating again goes on with the next undrawn step; a loop that was left with batches in flight
    calls `rewind` with its count of steps first.

    Args:
        sampler: draws the rows; every rank holds an equal one.
        batch_size: B, rows of a batch of this rank.
        rank: data-parallel rank, in [0, world_size). Tensor-, pipeline- and context-parallel peers
            give the same one.
        world_size: W, data-parallel ranks.
        max_marks: places that are kept to go back to, O(K C) each once they are asked for; two more
            than the batches that may be in flight are enough.
        ends_at_errors: end the iteration where the sampler raises, so that a DataLoader which draws
            ahead still delivers what is in flight; `has_next` raises then. Loader works so.
    """

    def __init__(
        self,
        sampler: MixSampler,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        max_marks: int = 1024,
        ends_at_errors: bool = False,
    ) -> None:
        # a numpy integer would end in every state, which JSON then refuses
        batch_size, rank, world_size = map(operator.index, (batch_size, rank, world_size))
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1 row.")
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank is {rank} with world_size {world_size}; give a rank from 0 to "
                f"world_size - 1."
            )
        self.sampler = sampler
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._max_marks, self._ends_at_errors = max_marks, ends_at_errors
        self.step = 0
        """The next step that is not drawn yet."""
        self._marks: OrderedDict[int, Mark] = OrderedDict({0: sampler.mark()})
        self._recent: list[Addresses | None] = [None] * max_marks
        """This rank's addresses of the last steps, each at its number modulo their number."""
        self._ahead: _Ahead | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but what is computed and not drawn."""
        return self.__dict__ | {"_ahead": None}

    @property
    def batch_size(self) -> int:
        """B; batches are computed ahead, so another one takes another batch sampler."""
        return self._batch_size

    @property
    def rank(self) -> int:
        """This data-parallel rank."""
        return self._rank

    @property
    def world_size(self) -> int:
        """W."""
        return self._world_size

    def __iter__(self) -> Iterator[Addresses]:
        """This rank's (B,) addresses, step by step, until the sampler ends."""
        while True:
            try:
                ahead = self._batches_ahead()
            except WeightsError:
                if self._ends_at_errors:
                    return
                raise
            if ahead is None:
                return
            number, mark = ahead.num_given, ahead.marks[ahead.num_given]
            first = number * self._batch_size
            addresses = ahead.addresses[first : first + self._batch_size]
            ahead.num_given += 1
            self.sampler.advance(mark)
            self._recent[self.step % self._max_marks] = addresses
            self.step += 1
            self._marks[self.step] = mark
            if len(self._marks) > self._max_marks:
                self.forget(next(iter(self._marks)) + 1)
            yield addresses

    def has_next(self) -> bool:
        """Whether the sampler has another whole global batch.

        Raises:
            WeightsError: the next batch asks for an exhausted domain under on_exhausted="raise".
        """
        return self._batches_ahead() is not None

    def set_weights(
        self, weights: WeightsLike, *, at_step: int | None = None, reason: str = ""
    ) -> WeightChange:
        """Changes the weights from the next undrawn step on, or from a later one.

        Raises:
            WeightsError: weights that are no point on the simplex.
            StepError: at_step is drawn already.
        """
        at_step = self.step if at_step is None else operator.index(at_step)
        num_rows = self.batch_size * self.world_size
        if at_step < self.step:
            raise StepError(
                f"weights for step {at_step} come too late: it is drawn, as are all steps (and "
                f"the {self.sampler.row} rows) before step {self.step}. Plan them for step "
                f"{self.step} or later."
            )
        at_row = self.sampler.row + (at_step - self.step) * num_rows
        change = self.sampler.set_weights(weights, at_row=at_row, reason=reason)
        return replace(change, at_step=at_step)

    def rewind(self, step: int) -> None:
        """Goes back to a step that is drawn and not forgotten."""
        self.sampler.rewind(self._mark(step))
        self.step = step
        while next(reversed(self._marks)) > step:
            self._marks.popitem()

    def forget(self, step: int) -> None:
        """Gives up the places before a step: its batches will not be asked for again."""
        self.sampler.forget(self._mark(step))
        while next(iter(self._marks)) < step:
            self._marks.popitem(last=False)

    def addresses(self, step: int) -> Addresses | None:
        """This rank's rows of a step that was drawn lately; None of another."""
        is_known = max(self.step - self._max_marks, 0) <= step < self.step
        return self._recent[step % self._max_marks] if is_known else None

    def computed(self, max_rows: int) -> Addresses:
        """This rank's rows of the step before, and of those after it that are computed by now.

        Those after it are not drawn: whoever changes the weights, or moves the sampler, makes
        others of them. The sampler's `version` tells.

        Args:
            max_rows: at most so many, but for the first step.
        """
        assert self._ahead is not None, "a step before was drawn"
        first = (self._ahead.num_given - 1) * self._batch_size
        num_steps = max(max_rows // self._batch_size, 1)
        return self._ahead.addresses[first : first + num_steps * self._batch_size]

    def row(self, step: int) -> int:
        """The first row of a step that is drawn and not forgotten."""
        return self._mark(step).row

    def counts(self, step: int) -> Counts:
        """(C, K) int64, rows drawn before a step that is drawn and not forgotten."""
        return self._mark(step).counts

    def state_dict(self, step: int | None = None) -> BatchSamplerState:
        """The state after `step` batches were delivered; None means all that are drawn.

        A DataLoader with workers draws num_workers * prefetch_factor batches ahead of its loop, so
        a loop that counts its steps gives the count here.
        """
        step = self.step if step is None else step
        return {"step": step, "sampler": self.sampler.state_dict(self._mark(step))}

    def load_state_dict(self, state: BatchSamplerState, *, on_retired: OnRetired = "raise") -> None:
        """Goes to the place of a state, on any batch size and world size.

        Args:
            state: from `state_dict`, perhaps by way of JSON.
            on_retired: see MixSampler.load_state_dict.

        Raises:
            StateError: the state does not fit the sampler's layout or settings.
        """
        check_keys(state, BatchSamplerState.__annotations__, "batch sampler's")
        if not isinstance(state["step"], int) or state["step"] < 0:
            raise StateError(f"the state's step is {state['step']!r}; the state is damaged.")
        self.sampler.load_state_dict(state["sampler"], adopt_stratum=True, on_retired=on_retired)
        self.step = state["step"]
        self._marks = OrderedDict({self.step: self.sampler.mark()})

    def _batches_ahead(self) -> _Ahead | None:
        """The batches that come, at least one; None where no whole one is left.

        Drawing costs a fixed time and little for each row, so several steps are computed at once:
        twice as many each time, but one again after anybody else has moved or steered the sampler.
        """
        num_steps, ahead = 1, self._ahead
        if ahead is not None and ahead.version == self.sampler.version:
            if ahead.num_given < len(ahead.marks):
                return ahead
            most = max(_MAX_ROWS_AHEAD // (self.batch_size * self.world_size), 1)
            num_steps = min(2 * ahead.num_given, most)
        try:
            draw = self._peeked(num_steps)
        except WeightsError:  # perhaps after some whole batches
            draw = self._peeked(1)
        self._ahead = None
        if draw.domain.size > 0:
            marks = self.sampler.marks(draw, self.batch_size * self.world_size)
            addresses = self.sampler.addresses(self._own(draw))
            self._ahead = _Ahead(self.sampler.version, marks, addresses)
        return self._ahead

    def _peeked(self, num_steps: int) -> Draw:
        """The rows of the next global batches, as many as are whole; nothing is drawn."""
        num_rows = self.batch_size * self.world_size
        start = self.sampler.mark()
        draw = self.sampler.draw(num_steps * num_rows)
        self.sampler.rewind(start)
        num_whole = draw.domain.size // num_rows * num_rows
        return Draw(*(column[:num_whole] for column in draw))

    def _own(self, draw: Draw) -> Draw:
        """This rank's rows of some global batches."""
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        shape = (-1, self.batch_size * self.world_size)
        share = np.arange(draw.domain.size).reshape(shape)
        if self.sampler.settings.num_canonical_nodes > 1:
            order = np.argsort(draw.node.reshape(shape), axis=1, kind="stable")
            share = np.take_along_axis(share, order, axis=1)
        chosen = share[:, mine].ravel()
        return Draw(*(column[chosen] for column in draw))

    def _mark(self, step: int) -> Mark:
        if step not in self._marks:
            raise StepError(
                f"no place is kept for step {step}; there is one for each of the steps "
                f"{next(iter(self._marks))} to {self.step}."
            )
        return self._marks[step]
