import math
import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.corpus.corpus import open_corpus
from mixstream.corpus.prefetch import (
    Coming,
    Need,
    Prefetcher,
    coming_shards,
    expected_needs,
    is_in_memory,
    read_ahead,
)
from tests.corpus.conftest import all_rows, time_limit
from tests.corpus.shards import make_rows, write_corpus

ROWS = {"web": make_rows(70, 64, seed=1), "code": make_rows(35, 64, seed=2)}


def test_coming_shards_by_hand():
    coming = coming_shards(np.array([5, 0, 6]), np.array([4, 4]))
    assert (coming.shards.tolist(), coming.draws.tolist()) == ([1, 0], [0, 1])


@given(data=st.data(), shard_rows=st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_coming_shards_are_those_of_the_draws_in_their_order(data, shard_rows):
    total = sum(shard_rows)
    rows = data.draw(st.lists(st.integers(0, max(total - 1, 0)), max_size=30 if total else 0))
    owner = np.repeat(np.arange(len(shard_rows)), shard_rows)
    expected = list(dict.fromkeys(owner[rows].tolist() if rows else []))
    coming = coming_shards(np.array(rows, np.int64), np.array(shard_rows))
    assert coming.shards.tolist() == expected
    for shard, draw in zip(*coming, strict=True):
        assert owner[rows[draw]] == shard
        assert shard not in owner[rows[:draw]]


def test_needs_are_ranked_by_rows_left_over_rate_and_again_after_a_change():
    coming = [
        Coming(np.array([3, 1]), np.array([0, 100])),
        Coming(np.array([7, 8]), np.array([10, 20])),
    ]
    first = expected_needs(coming, np.array([0.5, 0.5]))
    assert first == [Need(0, 0, 3), Need(20, 1, 7), Need(40, 1, 8), Need(200, 0, 1)]
    second = expected_needs(coming, np.array([0.9, 0.1]))
    assert [(need.domain, need.shard) for need in second] == [(0, 3), (1, 7), (0, 1), (1, 8)]
    assert expected_needs(coming, np.array([1.0, 0.0])) == [Need(0, 0, 3), Need(100, 0, 1)]


@pytest.fixture(params=[None, "zstd"])
def url(request, tmp_path):
    write_corpus(tmp_path / "far", ROWS, compression=request.param)
    return f"file://{tmp_path / 'far'}"


def wait_until(condition):
    with time_limit(30):
        while not condition():
            time.sleep(0.01)


def all_needs(corpus):
    return [
        Need(float(shard), domain, shard)
        for domain, name in enumerate(corpus.domains)
        for shard in range(len(corpus.layout[name]))
    ]


def test_what_is_planned_is_near_before_it_is_read(url, tmp_path):
    corpus = open_corpus(url, cache=tmp_path / "cache")
    with Prefetcher(corpus.pool.shards) as prefetcher:
        prefetcher.plan(all_needs(corpus), rows_per_second=10)
        wait_until(lambda: prefetcher.stats.brought == 15)
        assert (prefetcher.stats.pending, prefetcher.stats.next_shortage) == (0, None)
    assert corpus.pool.fetches.fetched == 15
    for name, rows in ROWS.items():
        np.testing.assert_array_equal(all_rows(corpus, name), rows)
    assert corpus.pool.fetches.fetched == 15
    assert corpus.pool.waits[0] > 0


def test_no_more_is_fetched_than_is_allowed_ahead(url, tmp_path):
    corpus = open_corpus(url, cache=tmp_path / "cache")
    with Prefetcher(corpus.pool.shards, max_ahead=4, num_threads=2) as prefetcher:
        prefetcher.plan(all_needs(corpus))
        wait_until(lambda: prefetcher.stats.brought == 4)
        time.sleep(0.1)
        assert prefetcher.stats.brought == 4
        assert len(list((tmp_path / "cache").rglob("*.mds"))) == 4
        prefetcher.plan(all_needs(corpus)[3:7])  # three more: what is here is not brought again
        wait_until(lambda: prefetcher.stats.brought == 7)
    assert corpus.pool.fetches.fetched == 7


def test_a_new_plan_ranks_anew_and_throws_nothing_away(url, tmp_path):
    corpus = open_corpus(url, cache=tmp_path / "cache")
    shards, gate, asked = corpus.pool.shards, threading.Event(), []
    bring = shards.near

    def slow(domain, shard):
        asked.append((domain, shard))
        gate.wait(30)
        return bring(domain, shard)

    shards.near = slow
    with Prefetcher(shards, num_threads=1) as prefetcher:
        prefetcher.plan([Need(0, 0, 0), Need(1, 0, 1), Need(2, 0, 2)])
        wait_until(lambda: asked)
        prefetcher.plan([Need(0, 0, 0), Need(1, 1, 4), Need(2, 0, 1)])
        assert prefetcher.stats.next_shortage == Need(1, 1, 4)
        gate.set()
        wait_until(lambda: prefetcher.stats.brought == 3)
    assert asked == [(0, 0), (1, 4), (0, 1)]


def test_the_cache_learns_when_shards_are_needed(url, tmp_path):
    corpus = open_corpus(url, cache=tmp_path / "cache")
    path = corpus.pool.shards.near(0, 0)
    with Prefetcher(corpus.pool.shards) as prefetcher:
        prefetcher.plan([Need(5000, 0, 0)], rows_per_second=10)
        wait_until(lambda: prefetcher.stats.brought == 1)
        prefetcher.plan([Need(5000, 0, 0)], rows_per_second=10)
        wait_until(lambda: 400 < path.stat().st_mtime - time.time() < 600)


def test_what_cannot_be_fetched_is_counted_and_raised_to_the_reader_alone(tmp_path, caplog):
    write_corpus(tmp_path / "far", ROWS)
    (tmp_path / "far" / "web" / "shard.00002.mds").unlink()
    corpus = open_corpus(f"file://{tmp_path / 'far'}", cache=tmp_path / "cache")
    with Prefetcher(corpus.pool.shards) as prefetcher:
        prefetcher.plan(all_needs(corpus))
        wait_until(lambda: prefetcher.stats.brought == 14 and prefetcher.stats.failed == 1)
    assert "cannot fetch ahead: file://" in caplog.text


@pytest.mark.parametrize("is_remote", [True, False])
def test_what_the_cache_evicts_at_once_is_no_failure_but_a_lost_local_shard_is(
    is_remote, tmp_path, caplog
):
    write_corpus(tmp_path / "far", ROWS)
    where = {"cache": tmp_path / "cache"} if is_remote else {}
    corpus = open_corpus(f"file://{tmp_path / 'far'}" if is_remote else tmp_path / "far", **where)
    shards = corpus.pool.shards
    bring = shards.near

    def brought_and_gone(domain, shard):
        path = bring(domain, shard)
        path.unlink()
        return path

    shards.near = brought_and_gone
    with Prefetcher(shards) as prefetcher:
        prefetcher.plan([Need(0, 0, 0), Need(1, 1, 0)])
        wait_until(lambda: prefetcher.stats.brought + prefetcher.stats.failed == 2)
        stats = prefetcher.stats
    assert (stats.brought, stats.failed) == ((2, 0) if is_remote else (0, 2))
    assert ("cannot fetch ahead" in caplog.text) == (not is_remote)


def test_threads_start_with_the_first_plan_and_tell_what_they_have_done(url, tmp_path):
    corpus = open_corpus(url, cache=tmp_path / "cache")
    before = threading.active_count()
    with Prefetcher(corpus.pool.shards, num_threads=2) as prefetcher:
        assert threading.active_count() == before
        prefetcher.plan([Need(0, 1, 4), Need(1, 0, 2), Need(2, 0, 3)])
        assert threading.active_count() == before + 2
        wait_until(lambda: prefetcher.stats.brought == 3)
        assert sorted(prefetcher.take_finished()) == [(0, 2), (0, 3), (1, 4)]
        assert prefetcher.take_finished() == []
        assert prefetcher.brought_at(1, 4) <= time.perf_counter()
        assert prefetcher.brought_at(0, 0) == math.inf
    assert threading.active_count() == before


def test_a_large_file_is_read_ahead_to_its_end(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 24))
    number = os.open(path, os.O_RDWR)
    os.fsync(number)
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system does not let a file go from memory")
    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(number)
    if is_in_memory(path, 256):
        pytest.skip("this file system keeps its files in memory")
    assert read_ahead(path) == 1 << 24
    wait_until(lambda: is_in_memory(path, 256))


def test_local_shards_are_read_ahead(tmp_path):
    write_corpus(tmp_path / "c", ROWS)
    corpus = open_corpus(tmp_path / "c")
    with Prefetcher(corpus.pool.shards) as prefetcher:
        prefetcher.plan(all_needs(corpus))
        wait_until(lambda: prefetcher.stats.brought == 15)
    path = tmp_path / "c" / "web" / "shard.00000.mds"
    assert read_ahead(path) == path.stat().st_size
    with pytest.raises(FileNotFoundError):
        read_ahead(tmp_path / "none")


@pytest.mark.parametrize("settings", [{"max_ahead": 0}, {"num_threads": 0}])
def test_settings_that_fetch_nothing_are_refused(tmp_path, settings):
    write_corpus(tmp_path / "c", ROWS)
    with pytest.raises(ValueError, match=r"max_ahead is \d+ and num_threads is \d+; give at least"):
        Prefetcher(open_corpus(tmp_path / "c").pool.shards, **settings)
