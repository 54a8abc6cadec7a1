"""What was drawn, from the log alone."""

import itertools

import numpy as np
import pytest

from mixstream.plot.drawn import DrawnBins
from mixstream.runlog import drawn_counts, read_run
from tests.plot.logs import names, write_log

CHANGES = [
    (100, [1, 2, 3], "a", "code"),
    (101, [3, 2, 1], "b", "person"),
    (400, [0, 1, 1], "", "code"),
]
EDGES = np.array([0, 320, 3200, 3201, 3300, 9000, 16000])
SETTINGS = [
    {},
    {"sampling": "stratified", "stratum": 32},
    {"num_canonical_nodes": 4},
    {"sampling": "micro_batch", "stratum": 32},
    {"sampling": "micro_batch", "stratum": 8, "num_canonical_nodes": 4},
    {"max_epochs": 2, "on_exhausted": "redistribute", "rows": [1500, 4000, 9000]},
]


@pytest.fixture(params=SETTINGS, ids=str)
def run(request, tmp_path):
    log = tmp_path / "a.jsonl"
    write_log(log, domains=names(3), num_steps=500, changes=CHANGES, **request.param)
    return read_run(log)


def test_bins_hold_what_replay_draws(run):
    bins = DrawnBins(max_bin_rows=10**6)
    for _ in range(2):  # counted, and remembered
        assert (bins.counts(run, EDGES) == drawn_counts(run, EDGES)).all()


def test_a_long_bin_is_counted_by_its_first_rows(tmp_path):
    run = read_run(
        write_log(tmp_path / "a.jsonl", domains=names(3), num_steps=500, changes=CHANGES)
    )
    found = DrawnBins(max_bin_rows=1000).counts(run, EDGES)
    assert found.sum(axis=1).tolist() == [320, 1000, 1, 99, 1000, 1000]
    cut = [drawn_counts(run, [a, min(a + 1000, b)]) for a, b in itertools.pairwise(EDGES)]
    assert (found == np.concatenate(cut)).all()


def test_bins_are_counted_again_where_a_resume_took_weights_back(tmp_path):
    bins = DrawnBins()
    kept = read_run(write_log(tmp_path / "a.jsonl", domains=names(3), num_steps=500))
    before = bins.counts(kept, EDGES)
    other = read_run(
        write_log(tmp_path / "b.jsonl", domains=names(3), num_steps=500, changes=CHANGES)
    )
    assert (bins.counts(other, EDGES) != before).any()
    assert (bins.counts(kept, EDGES) == before).all()


def test_no_bin_is_no_count(run):
    if run.start["settings"]["max_epochs"] is None:
        assert DrawnBins().counts(run, np.array([7])).shape == (0, 3)
