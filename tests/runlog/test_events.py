import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import StateError
from mixstream.runlog.events import decoded_line, encoded_line, layout_of_runs, runs_of_layout
from tests.strategies import layouts

COMMON = {"event": "progress", "time": 1.5, "step": 3, "row": 12}


@given(layout=layouts())
def test_a_layout_comes_back_from_its_runs(layout):
    domains = list(layout)
    found = layout_of_runs(json.loads(json.dumps(runs_of_layout(layout))), domains)
    assert list(found) == domains
    for name, rows in layout.items():
        assert found[name].dtype == np.int64
        assert found[name].tolist() == rows.tolist()


def test_equal_shards_are_told_once():
    runs = runs_of_layout({"web": np.array([7] * 10**6 + [2]), "none": np.array([], int)})
    assert runs == {"web": [[10**6, 7], [1, 2]], "none": []}


@given(values=st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1))
def test_a_line_holds_every_float_to_the_bit_and_null_for_nan(values):
    line = encoded_line(COMMON | {"values": np.array(values)})
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    found = decoded_line(line, "a.jsonl", 1)["values"]
    assert found == [None if math.isnan(value) else value for value in values]


def test_what_is_no_json_is_refused_by_its_line():
    with pytest.raises(StateError, match=r"a.jsonl, line 7 is no JSON: .*cut it before this line"):
        decoded_line(b'{"event": ', "a.jsonl", 7)
    with pytest.raises(StateError, match=r"line 1 is no JSON: .*Give the file that Loader"):
        decoded_line(b"weights = 3", "plan.toml", 1)


@pytest.mark.parametrize("key", ["event", "time", "step", "row"])
def test_an_event_without_a_common_key_is_refused(key):
    broken = {name: value for name, value in COMMON.items() if name != key}
    with pytest.raises(StateError, match=f"line 2 has no '{key}' as every event"):
        decoded_line(encoded_line(broken), "a.jsonl", 2)


@pytest.mark.parametrize(
    ("kind", "key"), [("weights", "weights"), ("signal", "values"), ("resume", "changes")]
)
def test_an_event_without_a_key_of_its_kind_is_refused(kind, key):
    whole = {
        "weights": {"decided_step": 3, "weights": [1.0], "reason": "", "source": "code"},
        "signal": {"name": "loss", "values": [None]},
        "resume": {"weights": [1.0], "changes": [], "batch_size": 4, "world_size": 1},
    }[kind]
    event = COMMON | whole | {"event": kind}
    assert decoded_line(encoded_line(event), "a.jsonl", 2) == event
    del event[key]
    with pytest.raises(StateError, match=f"line 2 has no '{key}' as every {kind} event has; copy"):
        decoded_line(encoded_line(event), "a.jsonl", 2)


def test_a_start_of_another_format_is_not_judged_by_the_keys_of_this_one():
    event = COMMON | {"event": "start", "format": 99}
    assert decoded_line(encoded_line(event), "a.jsonl", 1) == event


def test_a_line_that_holds_no_object_is_refused():
    with pytest.raises(StateError, match="has no 'event'"):
        decoded_line(b"[1, 2]", "a.jsonl", 1)
