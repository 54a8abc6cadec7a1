import json
import math

import pytest

from mixstream import request_weights
from mixstream.errors import StateError, WeightsError
from mixstream.runlog import RequestFolder, RunLog, read_answer, read_run
from tests.runlog.support import LoggedRun

EVEN = {"web": 1, "code": 1, "books": 2}


@pytest.fixture
def path(tmp_path):
    run = LoggedRun(tmp_path / "other.jsonl")
    log = RunLog(tmp_path / "a.jsonl", run.start | {"steerable": True})
    log.append("start", step=0, row=0, **run.start | {"steerable": True})
    return log.path


def test_requests_are_taken_in_their_order_and_are_gone_when_answered(path):
    first = request_weights(path, EVEN, "more books")
    second = request_weights(read_run(path), [1, 0, 0], "web alone")
    assert read_answer(first) is None
    folder = RequestFolder(path)
    found = list(folder.pending())
    assert [request.path for request in found] == [first, second]
    assert [request.reason for request in found] == ["more books", "web alone"]
    assert found[0].weights == {"web": 0.25, "code": 0.25, "books": 0.5}
    folder.accept(found[0], step=3, row=12)
    folder.refuse(found[1], WeightsError("no, thank you"))
    assert read_answer(first) == {"accepted": True, "step": 3, "row": 12}
    said = {"accepted": False, "error": "WeightsError", "message": "no, thank you"}
    assert read_answer(second, timeout_seconds=10) == said
    assert list(folder.pending()) == []


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"web": 1, "code": 1}, "domain 'books' is missing in weights"),
        ({**EVEN, "wiki": 1}, "unknown domain 'wiki' in weights"),
        ({**EVEN, "web": -1.0}, "weight of domain 'web' in weights is -1.0"),
        ([0, 0, 0], "all weights in weights are 0"),
        ([1, 1, math.nan], "is nan"),
        ([1, 1], r"has shape \(2,\)"),
    ],
)
def test_bad_weights_are_refused_at_once_as_set_weights_would(path, weights, message):
    with pytest.raises(WeightsError, match=message):
        request_weights(path, weights, "why not")
    assert list(RequestFolder(path).pending()) == []


def test_a_run_that_is_not_steerable_is_not_asked(tmp_path):
    path = LoggedRun(tmp_path / "a.jsonl").log.path
    with pytest.raises(StateError, match=r"was not started with .*steerable=True"):
        request_weights(path, EVEN, "please")
    assert not (tmp_path / "a.jsonl.requests").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weights": 1}'])
def test_a_file_that_is_no_request_is_answered_so(path, content):
    folder = RequestFolder(path)
    request = folder.path / "1.json"
    request.write_text(content)
    assert list(folder.pending()) == []
    assert "1.json is no request" in read_answer(request)["message"]
    assert not request.exists()


def test_what_is_being_written_or_lies_beside_is_no_request(path):
    folder = RequestFolder(path)
    for name in (".1.json.77", ".1.json", "1.answer.json", "notes.txt"):
        (folder.path / name).write_text(json.dumps({"weights": EVEN, "reason": ""}))
    assert list(folder.pending()) == []
