"""Constant cost (P4), and use that is odd but legal."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import MixSampler, WeightsError
from mixstream.arrays import ADDRESS
from tests.mixing.support import LAYOUT, resumed, rows_of
from tests.strategies import ODD_NAMES, layouts, seeds


def test_a_trillion_rows_cost_the_memory_of_their_shards(seconds):
    tracemalloc.start()
    try:
        layout = {f"d{i}": np.full(100, 10**7) for i in range(1000)}
        with seconds(at_most=10):
            sampler = MixSampler(layout, seed=1, num_canonical_nodes=8)
            state = sampler.state_dict()
            state["row"], state["counts"] = 10**11, [[12_500_000] * 1000] * 8
            sampler.load_state_dict(state)
            taken = sampler.take(4096)
            sampler.set_weights(np.arange(1000))
            more = sampler.take(100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * 2**20
    assert sampler.row == 10**11 + 104_096
    assert sampler.num_rows.sum() == 10**12
    for rows in (taken, more):
        assert ((rows["row"] >= 0) & (rows["row"] < 10**9)).all()
        assert np.unique(rows).size == rows.size  # within an epoch: no row twice
        owner = rows["row"] // (10**9 // 8)
        start = 10**11 + (4096 if rows is more else 0)
        nodes = (start + np.arange(rows.size)) % 8
        assert (np.abs(owner - nodes) <= 1).all()  # the slices end at shards: 12 or 13 of each


def test_a_jump_by_state_reaches_the_rows_that_drawing_reaches():
    layout = {f"d{i}": np.array([10**4] * 3) for i in range(5)}
    options = {"seed": 7, "num_canonical_nodes": 2, "shuffle_block_rows": 20_000}
    walked = MixSampler(layout, **options)
    walked.take(300_001)
    assert rows_of(resumed(walked, layout, **options).take(500)) == rows_of(walked.take(500))


def test_ten_thousand_domains_build_draw_change_and_resume(seconds):
    layout = {f"d{i}": np.array([100, 100]) for i in range(10_000)}
    with seconds(at_most=10):
        sampler = MixSampler(layout, max_epochs=2)
        sampler.take(20_000)
        sampler.set_weights(np.arange(10_000))
        taken = sampler.take(50_000)
        twin = resumed(sampler, layout, max_epochs=2)
    assert rows_of(twin.take(1000)) == rows_of(sampler.take(1000))
    share = np.bincount(taken["domain"] // 1000, minlength=10)
    assert (np.diff(share) > 0).all()
    assert taken["domain"].min() > 0


def test_take_0_draws_nothing_and_changes_nothing():
    sampler = MixSampler(LAYOUT)
    before = sampler.fingerprint
    taken = sampler.take(0)
    assert taken.dtype == ADDRESS
    assert taken.shape == (0,)
    assert sampler.fingerprint == before


def test_addresses_are_structured_as_the_corpus_takes_them():
    taken = MixSampler(LAYOUT).take(3)
    assert taken.dtype == np.dtype([("domain", np.int32), ("row", np.int64)])
    assert taken.shape == (3,)


@pytest.mark.parametrize("options", [{}, {"sampling": "stratified", "stratum": 96}])
def test_a_million_rows_in_one_take_are_those_of_many_takes(options):
    options |= {"seed": 5, "num_canonical_nodes": 3, "shuffle_block_rows": 50}
    one, many = MixSampler(LAYOUT, **options), MixSampler(LAYOUT, **options)
    whole = one.take(1_000_000)
    sizes = [1, 999, 100_000, 7, 398_993, 250_000, 250_000]
    parts = np.concatenate([many.take(size) for size in sizes])
    assert (whole == parts).all()
    assert one.fingerprint == many.fingerprint


def test_many_takes_of_one_row_are_one_take():
    ones = MixSampler(LAYOUT, num_canonical_nodes=7, sampling="stratified", stratum=5)
    whole = MixSampler(LAYOUT, num_canonical_nodes=7, sampling="stratified", stratum=5)
    parts = np.concatenate([ones.take(1) for _ in range(500)])
    assert (parts == whole.take(500)).all()


def test_odd_names_are_names():
    layout = {name: np.array([9, 9]) for name in ODD_NAMES}
    sampler = MixSampler(layout, dict.fromkeys(ODD_NAMES, 1.0), max_epochs=3)
    sampler.take(40)
    sampler.set_weights({name: float(i) for i, name in enumerate(ODD_NAMES)}, at_row=45)
    twin = resumed(sampler, layout, max_epochs=3)
    assert rows_of(twin.take(60)) == rows_of(sampler.take(60))


def test_two_ways_to_write_one_glyph_are_two_domains():
    layout = {"e\u0301": np.array([100]), "\u00e9": np.array([100])}
    taken = MixSampler(layout, sampling="stratified", stratum=200).take(200)
    first, second = (taken["row"][taken["domain"] == k] for k in (0, 1))
    assert first.size == second.size == 100
    assert (first == second).sum() < 10


def test_more_nodes_than_rows_draw_legal_rows():
    sampler = MixSampler({"a": np.array([2]), "b": np.array([3])}, num_canonical_nodes=16)
    taken = sampler.take(1000)
    assert set(taken["row"][taken["domain"] == 0].tolist()) == {0, 1}
    for k, size in ((0, 2), (1, 3)):  # all nodes share one order: no row twice before all came once
        rows = taken["row"][taken["domain"] == k]
        epochs = rows[: rows.size // size * size].reshape(-1, size)
        assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    assert set(taken["row"][taken["domain"] == 1].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_the_edges_of_the_seeds_are_seeds(seed):
    sampler = MixSampler(LAYOUT, seed=seed, sampling="stratified", stratum=7)
    assert sampler.take(1000).size == 1000
    assert sampler.take(500).tolist() == resumed_at(seed, 1000).take(500).tolist()


def resumed_at(seed: int, row: int) -> MixSampler:
    options = {"seed": seed, "sampling": "stratified", "stratum": 7}
    sampler = MixSampler(LAYOUT, **options)
    sampler.take(row)
    return resumed(sampler, LAYOUT, **options)


@settings(deadline=None, max_examples=50)
@given(layout=layouts(), seed=seeds(), place=st.integers(0, 2**40), draw=st.integers(0, 9))
def test_a_probe_visits_every_row_once_and_does_not_move_the_run(layout, seed, place, draw):
    sampler, untouched = MixSampler(layout, seed=seed), MixSampler(layout, seed=seed)
    for k, rows in enumerate(layout.values()):
        size = int(rows.sum())
        if size == 0:
            with pytest.raises(WeightsError, match=f"domain {k} of {len(layout)} cannot be probed"):
                sampler.probe(k, range(1), place=place, draw=draw)
            continue
        probe = sampler.probe(k, range(size), place=place, draw=draw)
        assert sorted(probe["row"].tolist()) == list(range(size))
        assert (probe["domain"] == k).all()
        part = sampler.probe(k, range(size // 2, size), place=place, draw=draw)
        assert part.tolist() == probe[size // 2 :].tolist()
        assert sampler.probe(k, range(0), place=place, draw=draw).size == 0
    assert rows_of(sampler.take(20)) == rows_of(untouched.take(20))


def test_probes_at_other_places_draws_and_domains_differ():
    sampler = MixSampler({"a": np.array([1000]), "b": np.array([1000])})
    keys = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]
    probes = [sampler.probe(k, range(1000), place=p, draw=d)["row"] for k, p, d in keys]
    for i, first in enumerate(probes):
        assert all((first == second).sum() < 10 for second in probes[:i])
    for outside in (-1, 2):
        with pytest.raises(WeightsError, match=f"domain {outside} of 2 cannot be probed"):
            sampler.probe(outside, range(1), place=0, draw=0)
