import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import read_run
from mixstream.errors import StateError
from tests.runlog.support import LoggedRun

FIRST, SECOND, THIRD = (np.array(w) for w in ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [1.0, 0, 0]))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.jsonl"


@pytest.fixture
def run(path):
    return LoggedRun(path, weights=FIRST)


def resume(run, *, step, row, weights, changes=(), **others):
    values = {"counts": [[row, 0, 0]], "batch_size": 2, "world_size": 2, "steerable": False}
    values |= {"weights": weights, "changes": list(changes), "state": "none"} | others
    run.log.append("resume", step=step, row=row, **values)


def test_a_run_tells_its_weights_at_every_row(run, path):
    run.steps(2)
    run.change(SECOND)
    run.change(THIRD, after=3)
    found = read_run(path)
    assert [change.row for change in found.changes] == [0, 8, 20]
    assert [change.source for change in found.changes] == ["start", "code", "code"]
    for row, weights in {
        0: FIRST,
        7: FIRST,
        8: SECOND,
        19: SECOND,
        20: THIRD,
        10**9: THIRD,
    }.items():
        assert found.weights_at(row).tolist() == weights.tolist()
    with pytest.raises(StateError, match="from row 0 on, not of row -1"):
        found.weights_at(-1)


def test_the_last_decision_for_a_row_holds(run, path):
    run.change(SECOND)
    run.change(THIRD)
    assert read_run(path).weights_at(0).tolist() == THIRD.tolist()


def test_a_planned_change_is_no_sign_of_progress(run, path):
    run.steps(2)
    run.change(SECOND, after=100)
    assert (read_run(path).last_row, read_run(path).last_step) == (8, 2)


def test_what_a_resume_takes_back_is_left_out(run, path):
    run.steps(5)
    run.change(SECOND)
    run.append("signal", name="loss", values=[1, 2, None])
    run.steps(1)
    resume(run, step=2, row=8, weights=FIRST)
    found = read_run(path)
    assert [event["event"] for event in found.events] == ["resume"]
    assert found.num_rolled_back == 4
    assert found.last_row == 8
    assert found.weights_at(100).tolist() == FIRST.tolist()


def test_decisions_after_the_checkpoint_at_its_own_step_are_taken_back(run, path):
    run.steps(2)
    run.append("checkpoint", state="here")
    run.change(SECOND)
    resume(run, step=2, row=8, weights=FIRST, state="here")
    found = read_run(path)
    assert found.weights_at(8).tolist() == FIRST.tolist()
    assert [event["event"] for event in found.events] == ["progress", "checkpoint", "resume"]


def test_decisions_before_the_checkpoint_hold_whatever_row_they_are_for(run, path):
    run.steps(2)
    run.change(SECOND)
    run.change(THIRD, after=10)
    run.append("checkpoint", state="here")
    run.steps(1)
    planned = [{"at_row": 48, "weights": THIRD.tolist(), "reason": "why"}]
    resume(run, step=2, row=8, weights=SECOND, changes=planned, state="here")
    found = read_run(path)
    assert [change.row for change in found.changes] == [0, 8, 48]
    assert all(change.source in ("start", "code") for change in found.changes)
    assert found.num_rolled_back == 1


def test_a_branch_that_was_given_up_comes_back_with_its_checkpoint(run, path):
    run.steps(2)
    run.append("checkpoint", state="fork")
    run.change(SECOND)
    run.steps(2)
    run.append("checkpoint", state="left")
    resume(run, step=2, row=8, weights=FIRST, state="fork")
    run.log.append(
        "weights", step=3, row=12, decided_step=3, weights=THIRD, reason="", source="code"
    )
    resume(run, step=4, row=16, weights=SECOND, state="left")
    found = read_run(path)
    assert [(change.row, change.weights.tolist()) for change in found.changes] == [
        (0, FIRST.tolist()),
        (8, SECOND.tolist()),
    ]


def test_weights_that_the_log_lost_come_from_the_resume(run, path):
    run.steps(6)
    planned = [{"at_row": 30, "weights": THIRD.tolist(), "reason": "planned"}]
    resume(run, step=5, row=20, weights=SECOND, changes=planned)
    found = read_run(path)
    assert [(change.row, change.source) for change in found.changes] == [
        (0, "start"),
        (20, "resume"),
        (30, "resume"),
    ]
    assert found.changes[2].reason == "planned"
    assert found.of("weights")[1]["step"] == 7
    assert found.num_rolled_back == 1


def test_a_resume_from_a_row_that_the_log_does_not_reach_is_where_it_tells_from(run, path):
    run.append("checkpoint", state="unused")  # as a trainer does before it loads its own state
    planned = [{"at_row": 500, "weights": THIRD.tolist(), "reason": "planned"}]
    resume(run, step=100, row=400, weights=SECOND, changes=planned)
    found = read_run(path)
    assert (found.first_row, found.last_row) == (400, 400)
    assert found.row_of(101) == 404
    assert [(change.row, change.source) for change in found.changes] == [
        (400, "resume"),
        (500, "resume"),
    ]
    with pytest.raises(StateError, match="from row 400 on, not of row 0"):
        found.weights_at(0)


def test_steps_and_rows_follow_the_world_size_of_each_stretch(run, path):
    run.steps(5)
    resume(run, step=3, row=12, weights=FIRST, batch_size=5, world_size=2)
    run.log.append("progress", step=6, row=42)
    resume(run, step=6, row=42, weights=FIRST, batch_size=1)
    found = read_run(path)
    steps = [0, 2, 3, 4, 5, 6, 7]
    rows = [0, 8, 12, 22, 32, 42, 44]
    assert [found.row_of(step) for step in steps] == rows
    assert [found.step_of(row) for row in rows] == steps
    assert [found.step_of(row + 1) for row in rows] == steps
    with pytest.raises(StateError, match="from step 0 on, not of step -1"):
        found.row_of(-1)


def test_a_log_that_starts_late_tells_of_no_row_before(path, run):
    run.log.close()
    start = json.loads(path.read_text()) | {"row": 400, "step": 100, "counts": [[400, 0, 0]]}
    path.write_text(json.dumps(start) + "\n")
    found = read_run(path)
    assert (found.first_row, found.last_row) == (400, 400)
    assert found.row_of(101) == 404
    with pytest.raises(StateError, match="from row 400 on"):
        found.weights_at(399)
    resume(LoggedRun(path, weights=FIRST), step=10, row=40, weights=SECOND)
    found = read_run(path)
    assert (found.first_row, found.last_row) == (40, 40)
    assert found.weights_at(500).tolist() == SECOND.tolist()


def test_the_last_process_says_whether_the_run_is_steerable(run, path):
    assert not read_run(path).is_steerable
    resume(run, step=0, row=0, weights=FIRST, steerable=True)
    assert read_run(path).is_steerable


def test_signals_come_as_arrays_with_nan_for_null(run, path):
    run.append("signal", name="loss", values=np.array([1.0, np.nan, 3.0]))
    run.steps(2)
    run.append("signal", name="other", values=[0, 0, 0])
    run.append("signal", name="loss", values=[4, 5, 6], unit="nats")
    steps, values = read_run(path).signal("loss")
    assert steps.tolist() == [0, 2]
    assert np.array_equal(values, [[1, np.nan, 3], [4, 5, 6]], equal_nan=True)
    assert read_run(path).signal("none")[1].shape == (0, 3)


def test_what_is_no_run_log_is_refused(tmp_path):
    for name, content in {"empty": "", "torn": '{"event":"start"', "other": "hello\n"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(StateError, match=r"has no start event yet|line 1 is no JSON"):
            read_run(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no such run log; give the file .*nowhere"):
        read_run(tmp_path / "nowhere")


def test_a_first_line_that_is_no_start_is_refused(run, path):
    run.steps(1)
    run.log.close()
    path.write_text(path.read_text().split("\n")[1] + "\n")
    with pytest.raises(StateError, match="has no start event in its first line"):
        read_run(path)


def test_a_log_of_another_format_is_refused(run, path):
    path.write_text(path.read_text().replace('"format":1', '"format":2'))
    with pytest.raises(StateError, match="has format 2, this mixstream reads format 1"):
        read_run(path)


@pytest.fixture(scope="module")
def long_log(tmp_path_factory):
    run = LoggedRun(tmp_path_factory.mktemp("long") / "a.jsonl", weights=FIRST)
    for number in range(12):
        run.steps(3)
        run.change((FIRST, SECOND, THIRD)[number % 3], after=number % 4)
        run.append("checkpoint", state=str(number))
        if number == 7:
            resume(run, step=20, row=80, weights=FIRST, state="5")
    return run.log.path.read_bytes()


@settings(deadline=None)
@given(data=st.data())
def test_a_log_that_is_cut_at_any_byte_is_the_log_of_its_whole_lines(
    data, long_log, tmp_path_factory
):
    first = long_log.index(b"\n") + 1
    cut = data.draw(st.integers(first, len(long_log)) | st.integers(first, first + 40))
    folder = tmp_path_factory.mktemp("cut")
    (folder / "cut").write_bytes(long_log[:cut])
    whole = long_log[: long_log.rindex(b"\n", 0, cut) + 1]
    (folder / "whole").write_bytes(whole)
    found, expected = read_run(folder / "cut"), read_run(folder / "whole")
    assert found.events == expected.events
    assert found.shapes == expected.shapes
    assert found.is_torn == (cut > len(whole))
    assert not expected.is_torn
