import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.corpus.cache_folder import CacheFolder
from mixstream.planning.cache import SimulatedCache, num_evicted


def by_age(_shard, _now, age):
    return age


def test_a_budget_is_never_passed_and_the_oldest_goes_first():
    cache = SimulatedCache(100, by_age)
    for shard in range(3):
        assert cache.promise(shard, 33, float(shard)) == (True, [])
        cache.settle(shard, 33, float(shard))
    cache.open(0, 3.0)
    assert cache.promise(3, 40, 4.0) == (True, [1, 2])  # each as long ago as it was opened
    assert cache.promise(4, 70, 5.0) == (False, [0])  # the promise of 3 may not go
    cache.settle(3, 30, 6.0)
    assert cache.promise(4, 70, 7.0) == (True, [])
    assert cache.high_water_bytes == 100


def test_what_is_needed_last_goes_first():
    cache = SimulatedCache(30, lambda shard, _now, _age: [5.0, 9.0, 1.0][shard])
    for shard in range(3):
        cache.promise(shard, 10, 0.0)
        cache.settle(shard, 10, 0.0)
    assert cache.promise(7, 10, 1.0) == (True, [1])


def test_without_a_budget_nothing_goes():
    cache = SimulatedCache(None, by_age)
    assert [cache.promise(shard, 10**9, 0.0) for shard in range(3)] == [(True, [])] * 3
    assert cache.high_water_bytes == 3 * 10**9


@pytest.mark.parametrize(
    ("sizes", "num_bytes", "spare", "number"),
    [([], 5, 0, 0), ([4, 4, 4], 5, 0, 2), ([4, 4, 4], 4, 4, 2), ([4, 4], 9, 0, 2), ([4], 0, 3, 0)],
)
def test_evicted_by_hand(sizes, num_bytes, spare, number):
    assert num_evicted(sizes, num_bytes, spare) == number


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), new=st.integers(1, 40))
def test_a_cache_folder_evicts_the_same(sizes, new):
    budget = max(sum(sizes), new)
    simulated = SimulatedCache(budget, by_age)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "web-0123456789abcdef"
        folder.mkdir()
        now = time.time()
        for shard, size in enumerate(sizes):
            age = 10.0 * (len(sizes) - shard)
            simulated.promise(shard, size, now - age)
            simulated.settle(shard, size, now - age)
            path = folder / f"{shard:016x}.mds"
            path.write_bytes(bytes(size))
            os.utime(path, (now, now - age))
        with CacheFolder(Path(root), max_bytes=budget).room(folder / f"{99:016x}.mds", new, 1.0):
            left = {int(path.stem, 16) for path in folder.glob("*.mds")}
        assert simulated.promise(99, new, now) == (True, sorted(set(range(len(sizes))) - left))
