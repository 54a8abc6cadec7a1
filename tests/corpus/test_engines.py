"""Tasks run once each, in any number of processes, and no process is lost or left behind."""

import multiprocessing
import os
import signal
import time

import pytest

from mixstream.corpus.engines import run_all
from mixstream.errors import RecipeError, SourceError
from tests.corpus.conftest import time_limit


def square(task, tell):
    return task * task


def with_pid(task, tell):
    return os.getpid()


def blas_threads(task, tell):
    return os.environ.get("OPENBLAS_NUM_THREADS")


def fail_at_three(task, tell):
    if task == 3:
        raise SourceError("three.jsonl:1: no good")
    return task


def die_at_three(task, tell):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return task


@pytest.mark.parametrize(
    ("workers", "num_tasks"), [(1, 0), (1, 1), (1, 7), (2, 0), (2, 1), (3, 7), (50, 2)]
)
def test_every_task_runs_once_and_comes_with_its_result(workers, num_tasks):
    done = list(run_all(square, range(num_tasks), workers=workers))
    assert sorted(done) == [(i, i * i) for i in range(num_tasks)]
    assert multiprocessing.active_children() == []


def test_one_worker_is_this_process_and_two_are_others():
    assert {pid for _, pid in run_all(with_pid, range(3), workers=1)} == {os.getpid()}
    others = {pid for _, pid in run_all(with_pid, range(3), workers=2)}
    assert os.getpid() not in others
    assert 1 <= len(others) <= 2


@pytest.mark.parametrize(("before", "inside"), [(None, "1"), ("3", "3")])
def test_workers_start_no_threads_for_algebra_but_those_that_the_user_asks_for(
    monkeypatch, before, inside
):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if before is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
    told = {value for _, value in run_all(blas_threads, range(2), workers=2)}
    assert told == {inside}
    assert os.environ.get("OPENBLAS_NUM_THREADS") == before


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_raises_comes_through_and_the_pool_ends(workers):
    with time_limit(60), pytest.raises(SourceError, match=r"three\.jsonl:1: no good"):
        list(run_all(fail_at_three, range(8), workers=workers))
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_an_error_with_a_mend_and_no_hang():
    with time_limit(60), pytest.raises(RecipeError, match=r"worker processes died.*run the same"):
        list(run_all(die_at_three, range(8), workers=2))
    assert multiprocessing.active_children() == []


def test_what_cannot_be_sent_to_a_worker_is_an_error_with_a_mend():
    with pytest.raises(RecipeError, match=r"cannot be sent to worker processes.*workers=1"):
        list(run_all(lambda task, tell: task, range(3), workers=2))
    assert list(run_all(lambda task, tell: task, [5], workers=1)) == [(5, 5)]


def test_a_caller_that_stops_early_leaves_no_worker():
    with time_limit(60):
        running = run_all(square, range(20), workers=2)
        next(running)
        running.close()
    assert multiprocessing.active_children() == []
