"""The log of weight changes: which weights hold at which row."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import StepError
from mixstream.mixing.changes import WeightLog
from mixstream.mixing.weights import WeightChange

rows = st.integers(0, 20)


def change(at_row: int, number: float, reason: str = "") -> WeightChange:
    return WeightChange(at_row=at_row, weights=np.array([number]), reason=reason)


def test_the_log_by_hand():
    log = WeightLog(0, np.array([0.0]))
    for at_row, number in ((5, 1.0), (3, 2.0), (5, 3.0)):
        log.add(change(at_row, number))
    assert [log.at(row)[0] for row in (0, 2, 3, 4, 5, 99)] == [0, 0, 2, 2, 3, 3]
    assert [log.next_row(row) for row in (0, 3, 4, 5)] == [3, 5, 5, None]
    log.forget(4)
    with pytest.raises(
        StepError, match="weights of row 2 are not known any more, those from row 3"
    ):
        log.at(2)
    log.forget(0)
    assert [log.at(row)[0] for row in (3, 4, 5)] == [2, 2, 3]


@given(
    actions=st.lists(st.tuples(rows, st.booleans(), st.booleans()), max_size=30),
)
def test_the_log_is_a_dictionary_by_row_whatever_is_forgotten_and_reloaded(actions):
    log, model, known_from = WeightLog(0, np.array([-1.0])), {0: -1.0}, 0
    for number, (row, forgets, reloads) in enumerate(actions):
        row = max(row, known_from)
        if forgets:
            log.forget(row)
            known_from = row
        elif reloads:
            planned = json.loads(json.dumps(log.state(row)))
            log, known_from = WeightLog.of_state(row, log.at(row), planned), row
        else:
            log.add(change(row, float(number)))
            model[row] = float(number)
        for place in range(known_from, 25):
            assert log.at(place)[0] == model[max(at_row for at_row in model if at_row <= place)]
            later = sorted(at_row for at_row in model if at_row > place)
            assert [c.at_row for c in log.planned(place)] == later
            assert log.next_row(place) == (later[0] if later else None)
