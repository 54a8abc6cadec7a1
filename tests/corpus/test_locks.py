import multiprocessing
import os
import signal
import threading
import time

import pytest

from mixstream.corpus.locks import held_lock, lasting_lock, try_lock, unlock
from mixstream.errors import ShardUnreachableError


def test_a_lock_is_there_only_while_it_is_held(tmp_path):
    path = tmp_path / "lock"
    with held_lock(path, 1) as number:
        assert path.exists()
        assert os.fstat(number).st_ino == path.stat().st_ino
        assert try_lock(path) is None
    assert not path.exists()


def test_a_lasting_lock_keeps_its_file(tmp_path):
    with lasting_lock(tmp_path / "lock", 1) as number:
        os.write(number, b"7")
        assert try_lock(tmp_path / "lock") is None
    assert (tmp_path / "lock").read_text() == "7"


def test_threads_that_make_and_remove_one_lock_never_hold_it_together(tmp_path):
    inside, overlaps, turns = [], [], []

    def contend():
        for _ in range(50):
            with held_lock(tmp_path / "lock", 30):
                inside.append(1)
                overlaps.append(len(inside))
                time.sleep(0)
                inside.pop()
                turns.append(1)

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(overlaps), len(turns)) == (1, 200)
    assert list(tmp_path.iterdir()) == []


def hold(path, held):
    with held_lock(path, 1):
        held.set()
        time.sleep(60)


def test_the_lock_of_a_killed_process_is_free_and_that_of_a_living_one_is_named(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "lock", held))
    holder.start()
    assert held.wait(30)
    with (
        pytest.raises(ShardUnreachableError, match=r"another process has held .*lock for 0 s"),
        held_lock(tmp_path / "lock", 0.2),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / "lock").exists()
    with held_lock(tmp_path / "lock", 5):
        pass
    assert not (tmp_path / "lock").exists()


def test_a_child_that_outlives_its_parent_does_not_keep_its_locks(tmp_path):
    number = try_lock(tmp_path / "lock")
    context = multiprocessing.get_context("fork")
    born, done = context.Event(), context.Event()
    child = context.Process(target=lambda: (born.set(), done.wait(60)))
    child.start()
    assert born.wait(30)
    os.close(number)  # as the kernel does for a parent that is killed: nothing is unlocked aloud
    again = try_lock(tmp_path / "lock")
    assert again is not None
    done.set()
    child.join()
    from mixstream.corpus import locks

    locks._held.discard(number)
    unlock(again)
