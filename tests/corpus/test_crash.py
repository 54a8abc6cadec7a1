"""kill -9 of the real command at any moment, then the same command: the same bytes.

Each conversion runs in a session of its own and carries a mark in its environment, by which its
workers are found in /proc; only processes with that mark are ever looked at or killed.
"""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.corpus.conftest import assert_nothing_partial, make_raw, tree

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")

NUM_KILLS = 24
OPTIONS = (
    "--tokenizer=bytes",
    "--seq-len=64",
    "--shard-bytes=256",
    "--unit-bytes=3000",
    "--quiet",
)


def start(raw, out, workers, mark, *options):
    command = [sys.executable, "-m", "mixstream", "convert", raw, out, *OPTIONS, *options]
    return subprocess.Popen(
        [*map(str, command), "--workers", str(workers)],
        env=os.environ | {"MIXSTREAM_TEST_MARK": mark},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(raw, out, workers, mark, *options):
    process = start(raw, out, workers, mark, *options)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def marked(mark):
    """Ids of live processes that were started under a mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and f"MIXSTREAM_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes()
                and (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            ):
                found.append(int(folder.name))
        except OSError:  # it ended while we looked
            continue
    return found


def assert_none_survives(mark, seconds=15):
    end = time.monotonic() + seconds
    while left := marked(mark):
        assert time.monotonic() < end, f"processes {left} outlive their killed parent"
        time.sleep(0.02)


def wait_until(condition, process):
    """False if the process ended first."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.0005)
    return True


def phase(out):
    """What the killed conversion was at."""
    work = out / ".mixstream"
    if (out / "corpus.json").exists():
        return "clean up" if work.exists() else "after"
    if (work / "commit.json").exists():
        return "commit"
    return "units" if (work / "recipe.json").exists() else "start"


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture
def mark():
    mark = uuid.uuid4().hex
    yield mark
    for pid in marked(mark):  # only after a failure
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw", domains=3, files=8, documents=40)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_it_goes_on_and_yields_the_same_bytes(
    raw, tmp_path, mark, workers
):
    finish(raw, tmp_path / "undisturbed", 1, mark)
    finished = tree(tmp_path / "undisturbed")
    begun = time.monotonic()
    finish(raw, tmp_path / "timed", workers, mark)
    seconds = time.monotonic() - begun
    assert tree(tmp_path / "timed") == finished

    dice, phases, runs, out = random.Random(workers), Counter(), 0, tmp_path / "out0"
    while phases.total() < NUM_KILLS or {"start", "units", "commit"} - phases.keys():
        assert phases.total() < 4 * NUM_KILLS, f"kills fell on {phases} alone"
        process = start(raw, out, workers, mark)
        if phases.total() % 3 == 2:  # aim at the moves, which take milliseconds
            if wait_until((out / ".mixstream" / "commit.json").exists, process):
                time.sleep(dice.random() * 0.008)
        elif phases.total() % 3 == 1:  # at the units
            if wait_until((out / ".mixstream" / "recipe.json").exists, process):
                time.sleep(dice.random() * seconds * 0.5)
        else:
            time.sleep(dice.random() * seconds)
        process.kill()
        process.communicate()
        killed = process.returncode == -signal.SIGKILL
        if killed:
            phases[phase(out)] += 1
            if dice.random() < 0.5:  # else the next run meets workers that are about to end
                assert_none_survives(mark)
        found = assert_nothing_partial(out, finished)
        if "corpus.json" in found:
            finish(raw, out, workers, mark)
            assert tree(out) == finished
            runs += 1
            out = tmp_path / f"out{runs}"
    assert_none_survives(mark)
    finish(raw, out, workers, mark)
    assert tree(out) == finished
    print(f"{workers} workers, {seconds:.2f} s undisturbed: kills fell on {dict(phases)}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_few_kills_while_units_run_are_mended(tmp_path, mark, workers):
    raw = make_raw(tmp_path / "raw")
    finish(raw, tmp_path / "undisturbed", 1, mark)
    out = tmp_path / "out"
    for _ in range(2):
        process = start(raw, out, workers, mark)
        wait_until((out / ".mixstream" / "recipe.json").exists, process)
        process.kill()
        process.communicate()
        assert_none_survives(mark)
    finish(raw, out, workers, mark)
    assert tree(out) == tree(tmp_path / "undisturbed")


def test_a_stop_by_hand_is_told_and_the_same_command_goes_on(tmp_path, mark):
    raw = make_raw(tmp_path / "raw", documents=400)
    process = start(raw, tmp_path / "out", 1, mark)
    assert wait_until((tmp_path / "out" / ".mixstream" / "recipe.json").exists, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"The same command goes on from here" in errors
    assert b"Traceback" not in errors
    finish(raw, tmp_path / "out", 1, mark)
    finish(raw, tmp_path / "undisturbed", 1, mark)
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_a_stop_from_the_terminal_reaches_the_workers_too_and_nobody_cries(
    raw, tmp_path, mark, delay
):
    process = start(raw, tmp_path / "out", 2, mark)
    assert wait_until((tmp_path / "out" / ".mixstream" / "recipe.json").exists, process)
    wait_until(lambda: len(marked(mark)) > 3, process)  # a tracker and two workers
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    if process.returncode == 0:  # it was done
        return
    assert process.returncode == 130, errors.decode()
    assert errors.endswith(b"mixstream: stopped. The same command goes on from here.\n")
    assert errors.count(b"\n") == 1
    assert_none_survives(mark)


def test_a_second_command_into_the_same_folder_is_refused_and_does_no_harm(tmp_path, mark):
    raw = make_raw(tmp_path / "raw", documents=400)
    first = start(raw, tmp_path / "out", 1, mark)
    assert wait_until((tmp_path / "out" / ".mixstream" / "recipe.json").exists, first)
    first.send_signal(signal.SIGSTOP)
    second = start(raw, tmp_path / "out", 1, mark)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert b"another conversion into" in errors
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors.decode()
    finish(raw, tmp_path / "undisturbed", 1, mark)
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
