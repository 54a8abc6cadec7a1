"""A cache that processes share: never above its budget, nothing left by the dead, right rows."""

import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import time
from collections import namedtuple

import numpy as np
import pytest

from mixstream.corpus import cache_folder
from mixstream.corpus.cache import ShardStore
from mixstream.corpus.cache_folder import CacheFolder
from mixstream.corpus.corpus import open_corpus
from mixstream.corpus.index import read_index
from mixstream.corpus.remote import RemotePath
from mixstream.errors import ShardError, ShardUnreachableError
from tests.corpus.conftest import all_rows, time_limit
from tests.corpus.shards import make_rows, write_corpus

SEQ_LEN, NUM_SHARDS = 512, 12
LEDGER_BYTES = 20
ROWS = {"web": make_rows(7 * NUM_SHARDS, SEQ_LEN)}


@pytest.fixture(params=[None, "zstd"])
def url(request, tmp_path):
    """A corpus of 12 shards that is treated as remote."""
    write_corpus(tmp_path / "far", ROWS, compression=request.param)
    return f"file://{tmp_path / 'far'}"


@pytest.fixture
def raw_url(tmp_path):
    write_corpus(tmp_path / "far", ROWS)
    return f"file://{tmp_path / 'far'}"


def shard_bytes(tmp_path):
    return int(read_index(tmp_path / "far" / "web").raw_bytes.max())


def held(cache):
    """Bytes on disk in a cache; files may go while we look."""
    total = 0
    for folder, _, names in os.walk(cache):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total


def hidden(cache):
    return sorted(p.name for p in cache.rglob(".*") if p.name != ".usage")


def test_a_cache_smaller_than_its_corpus_stays_within_its_budget(url, tmp_path):
    cache, num_bytes = tmp_path / "cache", 4 * shard_bytes(tmp_path)
    corpus = open_corpus(url, cache=cache, cache_bytes=num_bytes)
    rng = np.random.default_rng(0)
    for _ in range(4):
        for row in rng.permutation(len(ROWS["web"]))[:40].tolist():
            assert (corpus.row("web", row) == ROWS["web"][row]).all()
            assert held(cache) <= num_bytes + LEDGER_BYTES
        corpus.pool.forget()
    assert hidden(cache) == []


def test_rows_of_more_shards_than_the_cache_holds_come_in_one_batch(url, tmp_path):
    corpus = open_corpus(url, cache=tmp_path / "cache", cache_bytes=3 * shard_bytes(tmp_path))
    np.testing.assert_array_equal(all_rows(corpus, "web"), ROWS["web"])
    assert held(tmp_path / "cache") <= 3 * shard_bytes(tmp_path) + LEDGER_BYTES


def test_a_budget_that_holds_no_shard_is_refused_with_both_numbers(raw_url, tmp_path):
    size = shard_bytes(tmp_path)
    corpus = open_corpus(raw_url, cache=tmp_path / "cache", cache_bytes=size - 1)
    with pytest.raises(ShardError, match=rf"takes {size} bytes .*cache_bytes is {size - 1}\. Give"):
        all_rows(corpus, "web")
    with pytest.raises(ValueError, match="cache_bytes is 0; give at least the bytes of one shard"):
        open_corpus(raw_url, cache=tmp_path / "cache", cache_bytes=0)
    with pytest.raises(
        ShardError, match="cache_bytes and on_full_disk are about a cache, and none"
    ):
        open_corpus(raw_url, cache_bytes=10)
    with pytest.raises(ValueError, match="on_full_disk is 'wait'; choose 'raise' or 'shrink'"):
        open_corpus(raw_url, cache=tmp_path / "cache", on_full_disk="wait")


def read_all(url, cache, num_bytes, start, answers):
    corpus = open_corpus(url, cache=cache, cache_bytes=num_bytes)
    start.wait()
    right = (all_rows(corpus, "web") == ROWS["web"]).all()
    answers.put((bool(right), corpus.pool.fetches.fetched))


@pytest.mark.parametrize("times", [2, NUM_SHARDS + 2])
def test_processes_that_share_a_cache_download_each_shard_once(url, tmp_path, times):
    num_bytes = None if times > NUM_SHARDS else times * shard_bytes(tmp_path)
    context = multiprocessing.get_context("fork")
    start, answers = context.Event(), context.Queue()
    arguments = (url, tmp_path / "cache", num_bytes, start, answers)
    readers = [context.Process(target=read_all, args=arguments) for _ in range(3)]
    for reader in readers:
        reader.start()
    start.set()
    with time_limit(60):
        found = [answers.get(timeout=50) for _ in readers]
    for reader in readers:
        reader.join()
    assert all(right for right, _ in found)
    fetched = sum(number for _, number in found)
    assert fetched == NUM_SHARDS if num_bytes is None else fetched >= NUM_SHARDS
    assert hidden(tmp_path / "cache") == []


def store_of(tmp_path, **settings):
    cache = CacheFolder(tmp_path / "cache", **settings)
    index = read_index(tmp_path / "far" / "web")
    return ShardStore(cache), RemotePath(f"file://{tmp_path / 'far' / 'web'}"), index, cache


def die_while_making(tmp_path):
    store, folder, index, cache = store_of(tmp_path, max_bytes=2 * shard_bytes(tmp_path))
    target, _ = store._cached(folder, index.entry(0))
    with cache.room(target, shard_bytes(tmp_path), 1) as work:
        (work / "part").write_bytes(b"x" * 100)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("budget", [2, None])
def test_what_killed_processes_left_is_swept_and_their_room_is_free_again(
    raw_url, tmp_path, budget
):
    context = multiprocessing.get_context("fork")
    for _ in range(2):  # the second sweeps what the first left
        victim = context.Process(target=die_while_making, args=(tmp_path,))
        victim.start()
        victim.join()
        assert len(hidden(tmp_path / "cache")) == 2, "its lock and its folder"
    max_bytes = None if budget is None else budget * shard_bytes(tmp_path)
    store, folder, index, cache = store_of(tmp_path, max_bytes=max_bytes)
    for number in (1, 2, 3):  # not the shard that it died of: that one is swept, too
        store.path(folder, index.entry(number))
    assert hidden(tmp_path / "cache") == []
    assert cache.sweep() == held(tmp_path / "cache") - LEDGER_BYTES
    store.path(folder, index.entry(0))


def test_the_room_of_the_living_is_not_taken(raw_url, tmp_path):
    size = shard_bytes(tmp_path)
    store, folder, index, cache = store_of(tmp_path, max_bytes=2 * size)
    target, _ = store._cached(folder, index.entry(0))
    other, _ = store._cached(folder, index.entry(1))
    with cache.room(target, size + 1, 1):
        message = rf"had no room for {size} bytes in 0 s: other downloads hold its {2 * size}"
        with pytest.raises(ShardUnreachableError, match=message), cache.room(other, size, 0.3):
            pass
        assert cache.sweep() == size + 1
    with cache.room(other, size, 0.3):
        pass
    assert cache.sweep() == 0


def test_what_is_needed_last_goes_first(raw_url, tmp_path):
    size = shard_bytes(tmp_path)
    store, folder, index, cache = store_of(tmp_path, max_bytes=4 * size)
    paths = [store.path(folder, index.entry(number)) for number in range(4)]
    now = time.time()
    store.expect(folder, index.entry(0), now + 500)
    store.expect(folder, index.entry(1), now + 9000)
    cache.touch(paths[2], now - 2000)  # opened long ago
    store.expect(folder, index.entry(3), now + 5)
    for number, gone in ((4, 1), (5, 2), (6, 0)):
        assert paths[gone].exists()
        store.path(folder, index.entry(number))
        assert not paths[gone].exists()
    assert paths[3].exists()


def test_files_of_others_in_the_folder_are_neither_counted_nor_removed(raw_url, tmp_path):
    cache = tmp_path / "cache"
    for name in ("notes.txt", "other/0123456789abcdef.x", "web-0123456789abcdef/notes.txt"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"x" * 100_000)
    corpus = open_corpus(raw_url, cache=cache, cache_bytes=2 * shard_bytes(tmp_path))
    all_rows(corpus, "web")
    assert held(cache) > 300_000


def test_a_file_of_another_size_under_a_shards_name_is_made_anew(raw_url, tmp_path):
    store, folder, index, _ = store_of(tmp_path)
    path = store.path(folder, index.entry(0))
    os.truncate(path, 100)
    assert store.path(folder, index.entry(0)).stat().st_size == index.raw_bytes[0]


def test_a_remote_corpus_survives_a_fork_and_a_pickle(url, tmp_path):
    corpus = open_corpus(url, cache=tmp_path / "cache")
    corpus.row("web", 0)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(all_rows(corpus, "web")))
    child.start()
    np.testing.assert_array_equal(answers.get(timeout=30), ROWS["web"])
    child.join()
    twin = pickle.loads(pickle.dumps(corpus))
    np.testing.assert_array_equal(all_rows(twin, "web"), ROWS["web"])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_with_path_and_numbers(url, tmp_path, small_disk):
    corpus = open_corpus(url, cache=small_disk / "c", cache_bytes=10**9)
    message = (
        r"the disk of .*disk/c is full: .* takes \d+ bytes, \d+ are free, .* holds \d+ and its"
    )
    with pytest.raises(ShardError, match=message + r" budget is 1000000000 .*'shrink'"):
        all_rows(corpus, "web")
    assert hidden(small_disk / "c") == []


def test_a_full_disk_makes_a_smaller_cache_if_told_so(url, tmp_path, small_disk):
    corpus = open_corpus(url, cache=small_disk / "c", on_full_disk="shrink")
    for row in range(len(ROWS["web"])):  # a batch of all would have to be there at once
        assert (corpus.row("web", row) == ROWS["web"][row]).all()
    assert corpus.pool.fetches.fetched == NUM_SHARDS
    assert 0 < len(list((small_disk / "c").rglob("*.mds"))) < NUM_SHARDS


def test_a_disk_that_is_full_of_others_files_is_an_error_even_so(raw_url, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: usage(10**6, 10**6, 99))
    for action in ("raise", "shrink"):
        corpus = open_corpus(raw_url, cache=tmp_path / "cache", on_full_disk=action)
        with pytest.raises(ShardError, match=r"is full: .* 99 are free, .* no limit") as caught:
            all_rows(corpus, "web")
        assert caught.value.__cause__.errno == errno.ENOSPC


def test_a_cache_that_may_not_be_written_is_named(raw_url, tmp_path):
    (tmp_path / "file").write_text("")
    corpus = open_corpus(raw_url, cache=tmp_path / "file")
    with pytest.raises(ShardError, match=r"cannot write .*file.*cache="):
        all_rows(corpus, "web")
