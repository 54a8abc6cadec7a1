"""A Loader fetches what it will need: the same rows, threads that end, plans that follow it."""

import copy
import gc
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import mixstream
from mixstream.corpus.prefetch import is_in_memory
from tests.corpus.conftest import time_limit
from tests.corpus.shards import make_rows, write_corpus
from tests.loader.conftest import rows_of, through_json
from tests.servers.faults import FaultProxy

SIZES = {"web": 140, "code": 70, "books": 35}
"""7 rows a shard: 20, 10 and 5 shards."""
ORDER = {"batch_size": 4, "seed": 5, "shuffle_block_rows": 14}


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ahead") / "far"
    domains = {name: make_rows(n, 64, seed=n) for name, n in SIZES.items()}
    write_corpus(folder, domains, compression="zstd")
    return folder


@pytest.fixture
def remote(far, tmp_path):
    return mixstream.open_corpus(f"file://{far}", cache=tmp_path / "cache")


@pytest.fixture(scope="module")
def expected(far, tmp_path_factory):
    """The rows of a run without anything ahead, with a change before step 12."""
    here = mixstream.open_corpus(far, cache=tmp_path_factory.mktemp("plain"))
    loader = mixstream.Loader(here, [0.5, 0.5, 0.0], shards_ahead=0, **ORDER)
    loader.set_weights([0.0, 0.2, 0.8], at_step=12)
    return [rows_of(batch) for batch in itertools.islice(loader, 40)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    wait_until(lambda: not threads())


def wait_until(condition):
    with time_limit(60):
        for turn in itertools.count():
            if condition():
                return
            if turn % 100 == 0:  # it stops all threads, for long in a process of many tests
                gc.collect()
            time.sleep(0.01)


def threads():
    return [each for each in threading.enumerate() if each.name.startswith("mixstream-prefetch")]


def run(loader, num_steps):
    """The rows of so many steps, with the change of `expected` decided when it is felt."""
    found = []
    for batch in itertools.islice(loader, num_steps):
        found.append(rows_of(batch))
        if loader.step == 12 and not loader.batches.sampler.planned:
            loader.set_weights([0.0, 0.2, 0.8], at_step=max(loader.batches.step, 12))
    return found


WAYS = [
    {},
    {"shards_ahead": 1},
    {"num_workers": 2, "multiprocessing_context": "fork"},
    pytest.param({"num_workers": 1, "multiprocessing_context": "spawn"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("way", WAYS)
def test_the_rows_are_those_of_a_run_that_fetches_nothing_ahead(remote, expected, way):
    loader = mixstream.Loader(remote, [0.5, 0.5, 0.0], **ORDER, **way)
    loader.set_weights([0.0, 0.2, 0.8], at_step=12)
    with time_limit(100):
        assert [rows_of(batch) for batch in itertools.islice(loader, 20)] == expected[:20]
        assert threads()
        assert [rows_of(batch) for batch in itertools.islice(loader, 20)] == expected[20:]
    assert loader.stats.shards_fetched > 0


def test_workers_that_persist_find_what_this_process_has_fetched(remote, expected):
    loader = mixstream.Loader(
        remote, [0.5, 0.5, 0.0], num_workers=1, persistent_workers=True, **ORDER
    )
    loader.set_weights([0.0, 0.2, 0.8], at_step=12)
    for start in range(0, 40, 10):
        found = [rows_of(batch) for batch in itertools.islice(loader, 10)]
        assert found == expected[start : start + 10]


def test_all_that_a_run_needs_is_fetched_before_it_is_asked_for(remote):
    loader = mixstream.Loader(remote, shards_ahead=35, **ORDER)
    next(iter(loader))
    wait_until(lambda: remote.pool.fetches.fetched == 35)
    before = remote.pool.fetches
    for _ in zip(range(100), loader, strict=False):
        pass
    assert remote.pool.fetches.fetched == before.fetched == 35


def test_threads_end_with_their_loader_and_its_iterators(remote):
    loader = mixstream.Loader(remote, **ORDER)
    iterator = iter(loader)
    next(iterator)
    wait_until(threads)
    del loader
    next(iterator)
    del iterator
    wait_until(lambda: not threads())


def test_a_local_corpus_that_is_in_memory_is_left_alone(corpus, corpus_path):
    if not all(map(is_in_memory, corpus_path.rglob("*.mds"))):
        pytest.skip("this system does not tell that a file is in memory")
    loader = mixstream.Loader(corpus, batch_size=4)
    for _ in zip(range(20), loader, strict=False):
        assert not threads()
    assert (loader.stats.num_pending, loader.stats.shards_fetched) == (0, 0)


def test_a_local_corpus_that_is_not_in_memory_is_read_ahead(tmp_path):
    write_corpus(tmp_path / "c", {"web": make_rows(350, 4096)})
    paths = sorted((tmp_path / "c" / "web").glob("*.mds"))
    for path in paths:
        number = os.open(path, os.O_RDWR)
        os.fsync(number)
        if not hasattr(os, "posix_fadvise"):
            pytest.skip("this system does not let a file go from memory")
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)
    if all(map(is_in_memory, paths)):
        pytest.skip("this file system keeps its files in memory")
    loader = mixstream.Loader(mixstream.open_corpus(tmp_path / "c"), batch_size=1)
    next(iter(loader))
    wait_until(lambda: all(map(is_in_memory, paths)))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))]
)
def test_a_copy_fetches_for_itself(remote, expected, copied):
    loader = mixstream.Loader(remote, [0.5, 0.5, 0.0], **ORDER)
    assert run(loader, 6) == expected[:6]
    twin = copied(loader)
    assert twin.stats.wait_seconds == 0
    assert run(twin, 6) == run(loader, 6) == expected[6:12]


def test_a_loaded_state_is_planned_from_its_place(remote, expected, tmp_path, far):
    loader = mixstream.Loader(remote, [0.5, 0.5, 0.0], **ORDER)
    run(loader, 30)
    state = through_json(loader.state_dict())
    other = mixstream.open_corpus(f"file://{far}", cache=tmp_path / "other")
    resumed = mixstream.Loader(other, [0.5, 0.5, 0.0], shards_ahead=4, **ORDER)
    assert run(resumed, 1) == expected[:1]
    resumed.load_state_dict(state)
    assert [rows_of(batch) for batch in itertools.islice(resumed, 10)] == expected[30:]
    loader.load_state_dict(state)
    assert [rows_of(batch) for batch in itertools.islice(loader, 10)] == expected[30:]


@pytest.fixture
def slow(far, s3_server, s3_keys, monkeypatch, tmp_path):
    """The corpus behind a proxy that brings a shard in half a second, two at a time."""
    with FaultProxy(s3_server.address) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        bucket = s3_server.make_bucket(f"ahead-{time.monotonic_ns()}")
        s3_server.upload(far, bucket)
        corpus = mixstream.open_corpus(f"s3://{bucket}", cache=tmp_path / "cache", max_downloads=2)
        proxy.add("trickle", r"\.mds", times=np.inf, bytes_per_second=1500)
        yield corpus, proxy
        proxy.faults[0].times = 0
        wait_until(lambda: not threads())  # or they would try again for a minute


def test_a_change_of_the_weights_puts_what_it_asks_for_first(slow):
    corpus, proxy = slow
    loader = mixstream.Loader(corpus, [1.0, 0.0, 0.0], batch_size=1, shuffle=False)
    iterator = iter(loader)
    next(iterator)
    shortages = loader.stats.next_shortages
    assert {need.domain for need in shortages} == {"web"}
    assert list(shortages) == sorted(shortages, key=lambda need: need.rows)
    assert loader.stats.longest_waits[0].shards == (("web", 0),)
    loader.set_weights([0.5, 0.0, 0.5])
    for _ in range(30):  # the next plan waits for many times the cost of the first
        next(iterator)
        pending = [need.domain for need in loader.stats.next_shortages]
        fetched = [r.path for r in proxy.requests if "books/shard.00000" in r.path]
        if "books" in pending[:2] or fetched:
            return
        time.sleep(0.02)
    raise AssertionError(f"books are not asked for: {pending}")


@pytest.mark.slow
def test_a_process_ends_though_shards_are_being_fetched(slow, far):
    corpus, _ = slow
    script = f"""
        import mixstream, tempfile
        cache = tempfile.mkdtemp()
        corpus = mixstream.open_corpus({corpus.path!r}, cache=cache, max_downloads=2)
        loader = mixstream.Loader(corpus, batch_size=1, shuffle=False)
        next(iter(loader))
        assert loader.stats.num_pending > 0
        print("done", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    started = time.monotonic()
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr
    assert "Traceback" not in found.stderr
    assert time.monotonic() - started < 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_plans_for_itself(remote, expected):
    loader = mixstream.Loader(remote, [0.5, 0.5, 0.0], **ORDER)
    assert run(loader, 4) == expected[:4]
    child = os.fork()
    if child == 0:
        is_right = run(loader, 4) == expected[4:8] and loader.stats.num_pending >= 0
        os._exit(0 if is_right else 1)
    with time_limit(60):
        assert os.waitpid(child, 0)[1] == 0
    assert run(loader, 4) == expected[4:8]


def test_nothing_is_fetched_ahead_where_that_is_asked_for(remote):
    loader = mixstream.Loader(remote, shards_ahead=0, **ORDER)
    for _ in zip(range(5), loader, strict=False):
        assert not threads()
    with pytest.raises(ValueError, match="shards_ahead is -1; give at least 0, which fetches no"):
        mixstream.Loader(remote, shards_ahead=-1, **ORDER)


def test_a_cache_smaller_than_what_comes_is_not_filled_with_it(far, tmp_path):
    one = make_rows(7, 64).nbytes + 1000
    budget = 8 * one
    corpus = mixstream.open_corpus(f"file://{far}", cache=tmp_path / "c", cache_bytes=budget)
    loader = mixstream.Loader(corpus, shuffle=False, batch_size=1)
    for _ in zip(range(60), loader, strict=False):
        used = sum(path.stat().st_size for path in (tmp_path / "c").glob("*/*.mds"))
        assert used <= budget
        time.sleep(0.005)
    assert loader.stats.shards_fetched < 35
