"""A plan beside a real run over the same corpus: a Loader and a cache folder for each node."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream
from mixstream.errors import RecipeError
from mixstream.planning import PlanSettings, contents_of, plan_run
from tests.corpus.shards import make_rows, write_domain

SEQ_LEN = 32
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A folder in memory where that goes: thousands of shards wait for nothing but fsync."""


def write_domains(folder, sizes, rows_per_shard):
    """MDS folders of another disk, as URLs by domain."""
    for name, size in sizes.items():
        rows = make_rows(size, SEQ_LEN, seed=size)
        write_domain(folder / name, rows, rows_per_shard=rows_per_shard)
    return {name: f"file://{folder / name}" for name in sizes}


def shards_in(cache):
    """(folder of the domain, file name of the shard) of all that a cache holds, and their bytes."""
    found = {
        (path.parent.name.rpartition("-")[0], path.name.partition(".")[2]): path.stat().st_size
        for path in cache.rglob("*.mds")
    }
    return set(found), sum(found.values())


def real_run(urls, cache, weights, plan, node):
    """Steps of the ranks of a node, shards fetched, their bytes, and the most that it held."""
    corpora, loaders = [], []
    for rank in range(node * plan.ranks_per_node, (node + 1) * plan.ranks_per_node):
        corpora.append(
            mixstream.open_corpus(
                urls, cache=cache, cache_bytes=plan.cache_bytes, max_downloads=plan.max_downloads
            )
        )
        loader = mixstream.Loader(
            corpora[-1],
            weights,
            batch_size=plan.batch_size,
            rank=rank,
            world_size=plan.num_nodes * plan.ranks_per_node,
            seed=plan.seed,
            sampling=plan.sampling,
            num_canonical_nodes=plan.canonical,
            shuffle=plan.shuffle,
            shuffle_block_rows=plan.shuffle_block_rows,
            max_epochs=plan.max_epochs,
            shards_ahead=plan.max_ahead,
        )
        loaders.append(iter(loader))
    most = steps = 0
    for _ in range(plan.num_steps):
        if any(next(loader, None) is None for loader in loaders):
            break
        most, steps = max(most, shards_in(cache)[1]), steps + 1
    fetches = [corpus.pool.fetches for corpus in corpora]
    return steps, sum(f.fetched for f in fetches), sum(f.fetched_bytes for f in fetches), most


@st.composite
def runs(draw, *, nodes, ranks, shards_in_cache):
    """Sizes of domains, rows of a shard, weights, and settings of a plan without prefetch."""
    sizes = draw(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(6, 90), min_size=1))
    rows_per_shard = draw(st.integers(2, 12))
    weights = {name: draw(st.sampled_from([0.0, 0.1, 1.0])) for name in sizes}
    weights[next(iter(sizes))] = 1.0
    shard_bytes = rows_per_shard * (SEQ_LEN * 2 + 4) + 400  # at least: header and its padding
    budget, num_nodes, batch_size = draw(shards_in_cache), draw(nodes), draw(st.integers(1, 6))
    plan = PlanSettings(
        num_nodes=num_nodes,
        num_canonical_nodes=num_nodes * draw(st.sampled_from([1, 2 - batch_size % 2])),
        ranks_per_node=draw(ranks),
        batch_size=batch_size,
        num_steps=draw(st.integers(1, 50)),
        bytes_per_second=1e6,
        step_seconds=0.01,
        max_downloads=1,
        max_ahead=0,
        cache_bytes=None if budget is None else budget * shard_bytes,
        shuffle_block_rows=draw(st.sampled_from([5, 20, 1 << 18])),
        sampling=draw(st.sampled_from(["independent", "stratified", "micro_batch"])),
        shuffle=draw(st.booleans()),
        max_epochs=draw(st.none() | st.integers(1, 3) | st.just({next(iter(sizes)): 1})),
        seed=draw(st.integers(0, 99)),
    )
    return sizes, rows_per_shard, weights, plan


def assert_the_plan_holds(sizes, rows_per_shard, weights, plan):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        urls = write_domains(Path(folder) / "far", sizes, rows_per_shard)
        contents = contents_of(mixstream.open_corpus(urls))
        try:
            found = plan_run(contents, weights, plan)
        except RecipeError:  # all rows there may be do not fill a batch
            assert real_run(urls, Path(folder) / "cache", weights, plan, 0)[0] == 0
            return None
        held = []
        for node in found.nodes:
            cache = Path(folder) / f"cache{node.node}"
            steps, fetched, fetched_bytes, most = real_run(urls, cache, weights, plan, node.node)
            assert steps == found.num_steps
            assert (node.downloads, node.downloaded_bytes) == (fetched, fetched_bytes)
            shard_bytes = int(contents.raw_bytes.max())
            assert most <= node.cache_high_water_bytes <= most + shard_bytes
            held.append(shards_in(cache)[0])
            if plan.cache_bytes is None:
                assert len(held[-1]) == node.shards
        if plan.cache_bytes is None:
            twice = sum(sum(shard in each for each in held) > 1 for shard in set().union(*held))
            assert found.shards_of_two_nodes == twice
        return found


@settings(deadline=None, max_examples=15)
@given(run=runs(nodes=st.integers(1, 3), ranks=st.integers(1, 2), shards_in_cache=st.none()))
def test_nodes_fetch_the_shards_that_were_planned(run):
    assert_the_plan_holds(*run)


@settings(deadline=None, max_examples=20)
@given(run=runs(nodes=st.integers(1, 2), ranks=st.just(1), shards_in_cache=st.integers(2, 8)))
def test_a_small_cache_fetches_again_as_often_as_was_planned(run):
    assert_the_plan_holds(*run)


def test_a_cache_that_is_too_small_by_far_does_so_too():
    plan = PlanSettings(
        num_nodes=1,
        ranks_per_node=1,
        batch_size=2,
        num_steps=60,
        bytes_per_second=1e6,
        step_seconds=0.01,
        max_downloads=1,
        max_ahead=0,
        cache_bytes=6000,
    )
    found = assert_the_plan_holds({"a": 80, "b": 50}, 8, {"a": 0.6, "b": 0.4}, plan)
    assert found.shards_downloaded_twice > 20
    assert "Give the cache twice the first" in found.advice[0]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_with_prefetch_a_run_fetches_nothing_twice_and_nothing_that_was_not_planned(
    tmp_path, compression
):
    for name, size in {"web": 700, "code": 350}.items():
        rows = make_rows(size, SEQ_LEN, seed=size)
        write_domain(tmp_path / "far" / name, rows, compression=compression)
    urls = {name: f"file://{tmp_path / 'far' / name}" for name in ("web", "code")}
    contents = contents_of(mixstream.open_corpus(urls))
    weights = {"web": 0.6, "code": 0.4}
    plan = PlanSettings(
        num_nodes=2,
        ranks_per_node=1,
        batch_size=8,
        num_steps=40,
        bytes_per_second=1e9,
        step_seconds=10.0,
        max_ahead=6,
        shuffle_block_rows=35,
    )
    found = plan_run(contents, weights, plan)
    touched = plan_run(contents, weights, PlanSettings(**(_fields(plan) | {"max_ahead": 0})))
    for node, least in zip(found.nodes, touched.nodes, strict=True):
        cache = tmp_path / f"cache{node.node}"
        _, real, _, _ = real_run(urls, cache, weights, plan, node.node)
        # the threads of the run may be some shards short of the plan, which has all the time
        assert least.downloads <= real == len(shards_in(cache)[0]) <= node.downloads
        assert node.downloads <= least.downloads + plan.max_ahead
        assert node.downloads == node.shards
    assert found.shards_downloaded_twice == 0


def _fields(plan):
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}
