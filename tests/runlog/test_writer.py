import json
import os
import resource
import subprocess
import sys
import time

import pytest

from mixstream.errors import StateError
from mixstream.runlog import read_run
from tests.runlog.support import LAYOUT, LoggedRun


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "a.jsonl"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_event_is_a_line_that_tells_kind_time_step_and_row(path):
    before = time.time()
    run = LoggedRun(path)
    run.steps(3)
    assert [event["event"] for event in lines(path)] == ["start", "progress"]
    assert before <= lines(path)[1].pop("time") <= time.time()
    assert (lines(path)[1]["step"], lines(path)[1]["row"]) == (3, 12)


def test_a_log_goes_on_where_it_ended(path):
    LoggedRun(path).steps(1)
    LoggedRun(path).steps(2)
    assert [event["row"] for event in lines(path)] == [0, 4, 8]


@pytest.mark.parametrize("torn", [b"{", b'{"event":"progress","time":17', b'{"event":"end"}'])
def test_a_line_that_a_kill_has_torn_is_cut_off_before_the_next(path, torn):
    LoggedRun(path).steps(1)
    with path.open("ab") as file:
        file.write(torn)
    LoggedRun(path).steps(2)
    assert [event["row"] for event in lines(path)] == [0, 4, 8]


@pytest.mark.parametrize("num_bytes", [0, 1, 10, 40])
def test_a_start_that_a_kill_has_torn_is_written_anew(path, num_bytes):
    LoggedRun(path)
    path.write_bytes(path.read_bytes()[:num_bytes])
    run = LoggedRun(path)
    run.steps(1)
    assert [event["event"] for event in lines(path)] == ["start", "progress"]


def test_the_end_of_a_long_last_line_is_found(path):
    run = LoggedRun(path)
    run.append("signal", name="long", values=[0.5] * 100_000)
    size = path.stat().st_size
    assert size > 1 << 18
    with path.open("ab") as file:
        file.write(b"x" * (1 << 17))
    LoggedRun(path)
    assert path.stat().st_size == size


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b'{"event":"end"}\n', b"[]\n"])
def test_a_file_that_is_no_run_log_is_left_alone(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"is no run log|is no JSON|has no '"):
        LoggedRun(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"seed": 5}, "seed 0, this one has seed 5"),
        ({"shuffle": False}, "shuffle True, this one has shuffle False"),
        ({"max_epochs": 2}, "max_epochs None, this one has max_epochs"),
        (
            {"layout": LAYOUT | {"web": [1]}},
            r"rows \[65, 30, 11\], this one has rows \[1, 30, 11\]",
        ),
        ({"layout": {"web": [65], "code": [30], "books": [11]}}, "shards"),
    ],
)
def test_the_log_of_another_run_is_refused_and_the_difference_named(path, others, named):
    LoggedRun(path).steps(1)
    size = path.stat().st_size
    with pytest.raises(StateError, match=f"is of a run with .*{named}.*give run_log another path"):
        LoggedRun(path, **others)
    assert path.stat().st_size == size


def test_a_deeply_nested_value_of_a_log_is_named(path):
    LoggedRun(path)
    deep = b"[" * 1000 + b"]" * 1000
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":' + deep))
    with pytest.raises(StateError, match=r"is of a run with seed \[\[.*this one has seed 0"):
        LoggedRun(path)


def test_another_world_size_is_the_same_run_and_another_stratum_is_not_in_the_end(path):
    LoggedRun(path, sampling="stratified", stratum=4).steps(1)
    run = LoggedRun(path, sampling="stratified", stratum=8)
    with pytest.raises(StateError, match="stratum 4, this one has stratum 8"):
        run.log.check_same_run()
    smaller = run.start | {"settings": run.start["settings"] | {"stratum": 4, "world_size": 7}}
    run.log.check_same_run(smaller)


def test_a_second_process_is_kept_out_while_the_first_one_lives(path):
    run = LoggedRun(path)
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.runlog.support import LoggedRun\n"
        f"LoggedRun({str(path)!r}).steps(1)\n"
    )
    command = [sys.executable, "-c", code]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "another process writes the run log" in second.stderr
    run.log.close()
    subprocess.run(command, check=True, timeout=60)
    assert [event["row"] for event in lines(path)] == [0, 4]


def test_in_one_process_the_log_that_is_opened_last_writes(path):
    first = LoggedRun(path)
    second = LoggedRun(path)
    second.steps(1)
    with pytest.raises(StateError, match="is closed, or a later Loader of this process writes it"):
        first.steps(1)
    second.steps(1)
    assert [event["row"] for event in lines(path)] == [0, 4, 8]


def test_a_log_that_is_refused_leaves_the_open_one_as_it_is(path):
    first = LoggedRun(path)
    with pytest.raises(StateError, match="seed 0, this one has seed 5"):
        LoggedRun(path, seed=5)
    first.steps(1)
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.runlog.support import LoggedRun\n"
        f"LoggedRun({str(path)!r})\n"
    )
    command = [sys.executable, "-c", code]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "another process writes the run log" in second.stderr
    path.unlink()
    LoggedRun(path, seed=5).steps(1)
    assert [event["row"] for event in lines(path)] == [0, 4]


def test_neither_the_log_nor_its_lock_can_be_run_as_programs(path):
    LoggedRun(path)
    assert not any(os.access(file, os.X_OK) for file in path.parent.iterdir())


def test_a_forked_child_writes_nothing(path):
    run = LoggedRun(path)
    child = os.fork()
    if child == 0:
        run.steps(1)
        os._exit(0)
    os.waitpid(child, 0)
    run.steps(2)
    assert [event["row"] for event in lines(path)] == [0, 8]


def test_a_full_disk_leaves_no_half_of_a_line(path):
    run = LoggedRun(path)
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run.steps(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == size
    run.steps(1)
    assert [event["row"] for event in lines(path)] == [0, 8]


def test_a_closed_log_can_be_read(path):
    run = LoggedRun(path)
    run.steps(2)
    run.log.sync()
    run.log.close()
    run.log.close()
    assert read_run(path).last_row == 8
