"""What `loader.stats` counts, and what a loop that starves is told."""

import dataclasses
import logging
import time

import numpy as np
import pytest

import mixstream
from mixstream.loader import meter
from mixstream.loader.stats import LoaderStats, ShardWait, Starvation
from tests.corpus.conftest import time_limit
from tests.corpus.shards import make_rows, write_corpus
from tests.loader.test_ahead import threads, wait_until
from tests.servers.faults import FaultProxy

SIZES = {"web": 140, "code": 70}


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stats") / "far"
    write_corpus(folder, {name: make_rows(n, 64, seed=n) for name, n in SIZES.items()})
    return folder


@pytest.fixture
def slow(far, s3_server, s3_keys, monkeypatch, tmp_path):
    """The corpus behind a proxy that brings a shard in a third of a second."""
    with FaultProxy(s3_server.address) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        bucket = s3_server.make_bucket(f"stats-{time.monotonic_ns()}")
        s3_server.upload(far, bucket)
        corpus = mixstream.open_corpus(f"s3://{bucket}", cache=tmp_path / "cache", max_downloads=1)
        proxy.add("trickle", r"\.mds", times=np.inf, bytes_per_second=4000)
        yield corpus
        proxy.faults[0].times = 0
        wait_until(lambda: not threads())


def steps(loader, num_steps):
    with time_limit(100):
        for _ in zip(range(num_steps), loader, strict=False):
            pass


def test_what_came_from_the_cache_and_what_was_fetched_is_counted(far, tmp_path):
    corpus = mixstream.open_corpus(f"file://{far}", cache=tmp_path / "cache")
    loader = mixstream.Loader(corpus, batch_size=7, shards_ahead=0, max_epochs=1)
    assert loader.stats == LoaderStats(
        seconds=0.0,
        rows_per_second=0.0,
        wait_seconds=0.0,
        shard_wait_seconds=0.0,
        longest_waits=(),
        cache_hits=0,
        shards_fetched=0,
        bytes_fetched=0,
        num_pending=0,
        next_shortages=(),
    )
    steps(loader, 30)
    found = loader.stats
    stored = sum(path.stat().st_size for path in far.rglob("*.mds"))
    assert (found.shards_fetched, found.bytes_fetched) == (30, stored)
    assert found.seconds >= found.wait_seconds >= found.shard_wait_seconds > 0
    assert found.other_wait_seconds == pytest.approx(found.wait_seconds - found.shard_wait_seconds)
    assert found.rows_per_second > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.seconds = 1.0
    again = mixstream.open_corpus(f"file://{far}", cache=tmp_path / "cache")
    loader = mixstream.Loader(again, batch_size=7, shards_ahead=0, max_epochs=1)
    steps(loader, 30)
    assert (loader.stats.cache_hits, loader.stats.shards_fetched) == (30, 0)


def test_the_longest_waits_name_their_step_and_shards(slow):
    loader = mixstream.Loader(slow, [1.0, 0.0], batch_size=7, shuffle=False)
    steps(loader, 4)
    waits = loader.stats.longest_waits
    assert list(waits) == sorted(waits, reverse=True)
    assert {wait.step for wait in waits} == {0, 1, 2, 3}
    assert all(wait.shards == (("web", wait.step),) for wait in waits)
    assert loader.stats.shard_wait_seconds == pytest.approx(sum(wait.seconds for wait in waits))
    assert loader.stats.num_pending > 0
    assert loader.stats.next_shortages[0].domain == "web"


def test_workers_wait_for_what_this_process_fetches_for_them(slow):
    loader = mixstream.Loader(slow, [1.0, 0.0], batch_size=7, shuffle=False, num_workers=1)
    steps(loader, 6)
    found = loader.stats
    assert found.wait_seconds >= found.shard_wait_seconds > 0
    named = {shard for wait in found.longest_waits for _, shard in wait.shards}
    assert named <= set(range(6))
    assert named


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loop_that_starves_is_told_once_what_it_waits_for(slow, num_workers, caplog, monkeypatch):
    monkeypatch.setattr(meter, "_WINDOW_SECONDS", 0.5)
    loader = mixstream.Loader(
        slow, [1.0, 0.0], batch_size=7, shuffle=False, num_workers=num_workers
    )
    with caplog.at_level(logging.WARNING, "mixstream"):
        steps(loader, 9)
    told = [each.getMessage() for each in caplog.records if "training waited" in each.getMessage()]
    assert len(told) == 1
    assert "for shard " in told[0]
    assert "of domain 'web'" in told[0]
    assert "raise max_downloads" in told[0]


def test_the_wait_for_the_first_batch_is_no_starvation(slow, caplog, monkeypatch):
    monkeypatch.setattr(meter, "_WINDOW_SECONDS", 0.0)
    loader = mixstream.Loader(slow, [1.0, 0.0], batch_size=1, shuffle=False)
    steps(loader, 5)  # of the first shard
    assert loader.stats.shard_wait_seconds > 0.1
    assert "training waited" not in caplog.text


LONGEST = ShardWait(3.0, 17, (("web", 5), ("code", 2)))
STARVED = Starvation(
    seconds=10.0,
    wait_seconds=4.0,
    longest=LONGEST,
    shards_ahead=64,
    num_pending=9,
    num_left_out=0,
    cache_bytes=1000,
    max_downloads=8,
    bytes_per_second=2e6,
)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "training waited 4.0 of the last 10 s for shards, the longest 3.0 s at step 17 for "),
        ({}, "for shard 5 of domain 'web', shard 2 of domain 'code'. 9 more wait for 8 downloads"),
        ({}, "and 2.0 MB/s came: raise max_downloads of open_corpus if the network has more"),
        ({"shards_ahead": 0}, "Nothing is fetched ahead: give Loader shards_ahead, 64 say."),
        ({"num_left_out": 3}, "Half of the cache's 1000 bytes has no room for 3 of the shards"),
        ({"num_pending": 0}, "All that is looked at ahead is fetched, and 2.0 MB/s came: raise sh"),
        ({"longest": LONGEST._replace(shards=())}, "3.0 s at step 17 for unknown ones. 9 more"),
        ({"longest": None}, "4.0 of the last 10 s for its workers to make batches. Raise num_work"),
    ],
)
def test_a_warning_says_what_to_raise(changed, text):
    assert text in str(dataclasses.replace(STARVED, **changed))
