"""A sampler that is killed, resumed, rewound and steered at will, against one pass by a twin."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from mixstream import MixSampler, StepError, WeightsError
from mixstream.mixing.sampler import Mark
from tests.mixing.support import rows_of
from tests.strategies import layout_weights, layouts, sampler_settings

MAX_ROWS = 1500


class SamplerMachine(RuleBasedStateMachine):
    """The model is a log of changes by row, and the rows delivered; a rewind cuts the rows."""

    marks = Bundle("marks")

    @initialize(data=st.data(), layout=layouts(max_domains=4))
    def start(self, data: st.DataObject, layout: Any) -> None:
        self.layout = layout
        self.options = data.draw(sampler_settings(layout))
        self.sampler = MixSampler(layout, data.draw(layout_weights(layout)), **self.options)
        self.log = {0: self.sampler.weights}
        self.rows: list[tuple[int, int]] = []
        self.oldest = 0  # row of the oldest place that may be rewound to
        self.life = 0  # marks do not outlive a process

    @precondition(lambda self: len(self.rows) < MAX_ROWS)
    @rule(num_rows=st.integers(0, 70) | st.just(300))
    def take(self, num_rows: int) -> None:
        try:
            taken = rows_of(self.sampler.take(num_rows))
        except WeightsError:
            assert self.options.get("on_exhausted") == "raise"
            return  # nothing is drawn: see the invariant
        self.rows += taken
        assert len(taken) == num_rows or self.options.get("on_exhausted") in {
            "stop",
            "redistribute",
        }

    @rule(data=st.data())
    def set_weights_now(self, data: st.DataObject) -> None:
        self.set_weights(data, None)

    @rule(data=st.data(), ahead=st.integers(0, 200))
    def plan_weights(self, data: st.DataObject, ahead: int) -> None:
        self.set_weights(data, len(self.rows) + ahead)

    def set_weights(self, data: st.DataObject, at_row: int | None) -> None:
        before = self.sampler.fingerprint
        weights = data.draw(layout_weights(self.layout))
        try:
            change = self.sampler.set_weights(weights, at_row=at_row)
        except WeightsError:  # every domain of positive weight is exhausted
            assert "max_epochs" in self.options
            assert self.sampler.fingerprint == before
            return
        assert change.at_row == (len(self.rows) if at_row is None else at_row)
        self.log[change.at_row] = change.weights.copy()

    @rule(back=st.integers(1, 100))
    def change_a_drawn_row(self, back: int) -> None:
        before = self.sampler.fingerprint
        try:
            self.sampler.set_weights(self.sampler.weights, at_row=len(self.rows) - back)
        except StepError:
            assert self.sampler.fingerprint == before
        else:
            raise AssertionError("a drawn row was changed")

    @rule(target=marks)
    def mark(self) -> tuple[int, Mark]:
        return self.life, self.sampler.mark()

    @rule(place=marks, looks_ahead=st.booleans())
    def rewind(self, place: tuple[int, Mark], looks_ahead: bool) -> None:
        life, mark = place
        if life == self.life and self.oldest <= mark.row <= len(self.rows):
            self.sampler.rewind(mark)
            del self.rows[mark.row :]
            if looks_ahead:  # a place can be gone back to any number of times
                self.take(7)
                self.sampler.rewind(mark)
                del self.rows[mark.row :]

    @rule(place=consumes(marks))
    def forget(self, place: tuple[int, Mark]) -> None:
        life, mark = place
        if life == self.life and self.oldest <= mark.row <= len(self.rows):
            self.sampler.forget(mark)
            self.oldest = mark.row

    @rule()
    def kill_and_resume(self) -> None:
        self.resume(self.sampler.state_dict())

    @rule(place=marks)
    def kill_and_resume_at_a_mark(self, place: tuple[int, Mark]) -> None:
        life, mark = place
        if life == self.life and self.oldest <= mark.row <= len(self.rows):
            self.resume(self.sampler.state_dict(mark))
            del self.rows[mark.row :]

    def resume(self, state: Any) -> None:
        text = json.dumps(state)
        self.sampler = MixSampler(self.layout, **self.options)
        self.sampler.load_state_dict(json.loads(text))
        assert json.dumps(self.sampler.state_dict()) == text
        self.oldest, self.life = state["row"], self.life + 1

    @invariant()
    def place_weights_and_plans_are_those_of_the_log(self) -> None:
        if not hasattr(self, "sampler"):
            return
        row = len(self.rows)
        assert self.sampler.row == row
        assert self.sampler.counts.sum() == row
        now = self.log[max(at_row for at_row in self.log if at_row <= row)]
        assert self.sampler.weights.tolist() == now.tolist()
        ahead = sorted(at_row for at_row in self.log if at_row > row)
        assert sorted({change.at_row for change in self.sampler.planned}) == ahead

    def teardown(self) -> None:
        """A twin that knows every change from the start draws the same rows in one pass."""
        if not hasattr(self, "sampler"):
            return
        twin = MixSampler(self.layout, self.log[0], **self.options)
        for at_row, weights in self.log.items():
            twin.set_weights(weights, at_row=at_row)
        assert rows_of(twin.take(len(self.rows))) == self.rows
        assert twin.counts.tolist() == self.sampler.counts.tolist()
        try:
            rest = rows_of(twin.take(100))
        except WeightsError:
            return
        assert rows_of(self.sampler.take(100)) == rest
        bounds = self.sampler.num_rows
        assert all(0 <= row < bounds[domain] for domain, row in np.array(self.rows, dtype=int))


TestSamplerMachine = SamplerMachine.TestCase
TestSamplerMachine.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)
