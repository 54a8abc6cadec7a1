import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixstream import drawn_counts, read_run, replay, seen_at
from mixstream.errors import StateError, WeightsError
from mixstream.runlog.events import encoded_line
from mixstream.runlog.replay import check_corpus
from tests.runlog.support import LAYOUT, LoggedRun
from tests.strategies import layout_weights, layouts, sampler_settings

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def run(tmp_path):
    run = LoggedRun(tmp_path / "a.jsonl", num_canonical_nodes=2, seed=3)
    for weights in ([1, 1, 1], [5, 1, 0], [0, 1, 3]):
        run.steps(20)
        run.change(np.array(weights) / sum(weights))
    run.steps(20)
    return run


@FAST
@given(data=st.data())
def test_the_log_alone_gives_every_row_again(data, tmp_path_factory):
    layout = data.draw(layouts())
    options = data.draw(sampler_settings(layout))
    path = tmp_path_factory.mktemp("replay") / "a.jsonl"
    run = LoggedRun(path, layout, data.draw(layout_weights(layout)), **options)
    for _ in range(data.draw(st.integers(0, 5))):
        try:
            run.steps(data.draw(st.integers(0, 8)))
            run.change(data.draw(layout_weights(layout)), after=data.draw(st.integers(0, 3)))
        except WeightsError:  # exhausted, under on_exhausted="raise"
            break
        if data.draw(st.booleans()):
            run.append("checkpoint", counts=run.sampler.mark().counts)
    drawn = run.drawn
    first, end = sorted(data.draw(st.tuples(*[st.integers(0, len(drawn))] * 2)))
    assert replay(path, rows=(first, end)).tolist() == drawn[first:end]
    edges = sorted(data.draw(st.lists(st.integers(0, len(drawn)), min_size=2)))
    for (start, stop), counts in zip(
        itertools.pairwise(edges), drawn_counts(path, edges), strict=True
    ):
        domains = [domain for domain, _ in drawn[start:stop]]
        assert counts.tolist() == [domains.count(k) for k in range(len(layout))]


def test_steps_are_rows_by_the_world_size(run):
    assert replay(run.log.path, steps=(3, 5)).tolist() == run.drawn[12:20]


def test_without_a_range_all_that_is_known_is_replayed(run):
    assert replay(read_run(run.log.path)).tolist() == run.drawn


def test_rows_past_the_log_are_those_that_will_be_drawn(run):
    expected = run.sampler.take(7).tolist()
    assert replay(run.log.path, rows=(320, 327)).tolist() == expected


def test_a_row_is_found_wherever_it_was_drawn(run):
    drawn = run.drawn
    for domain, row in {drawn[0], drawn[100], drawn[-1]}:
        seen = seen_at(run.log.path, list(LAYOUT)[domain], row)
        expected = [place for place, address in enumerate(drawn) if address == (domain, row)]
        assert seen.rows.tolist() == expected
        assert seen.steps.tolist() == [place // 4 for place in expected]
    assert seen_at(run.log.path, "web", 0, steps=(0, 0)).rows.size == 0


@pytest.mark.parametrize(("domain", "row"), [("web", 65), ("web", -1), ("wiki", 0)])
def test_a_row_that_the_corpus_does_not_hold_is_refused(run, domain, row):
    with pytest.raises(
        StateError, match=f"no row {row} of domain '{domain}'; .* web: 65, code: 30"
    ):
        seen_at(run.log.path, domain, row)


def test_ranges_that_make_no_sense_are_refused(run):
    path = run.log.path
    with pytest.raises(StateError, match="rows 5 to 3 cannot be replayed"):
        replay(path, rows=(5, 3))
    with pytest.raises(StateError, match="rows -1 to 3 cannot be replayed"):
        replay(path, rows=(-1, 3))
    with pytest.raises(StateError, match="give one of the two"):
        replay(path, rows=(0, 1), steps=(0, 1))
    with pytest.raises(StateError, match=r"edges are .* give at least two rows that rise"):
        drawn_counts(path, [4, 2])
    with pytest.raises(StateError, match="edges are"):
        drawn_counts(path, [4])


def test_a_run_that_ended_has_no_rows_after(tmp_path):
    path = tmp_path / "a.jsonl"
    LoggedRun(path, max_epochs=1, on_exhausted="stop")
    every = replay(path, rows=(0, 10**6))
    assert 0 < every.size < 10**6
    with pytest.raises(StateError, match=f"exhausted at row {every.size}"):
        replay(path, rows=(10**6, 10**6 + 1))


def test_a_known_place_spares_the_rows_before_it(run):
    run.append("checkpoint", counts=run.sampler.mark().counts)
    counts = run.sampler.mark().counts
    expected = run.sampler.take(4).tolist()
    found = read_run(run.log.path)
    late = found.start | {"row": 320, "step": 80, "counts": counts.tolist()}
    late |= {"weights": run.sampler.weights.tolist()}
    path = run.log.path.with_name("late.jsonl")
    path.write_bytes(encoded_line(late))  # nothing but that place: no row before it is known
    assert replay(path, rows=(320, 324)).tolist() == expected
    assert replay(found, rows=(320, 324)).tolist() == expected


def test_another_corpus_is_refused_by_both_fingerprints(run):
    found = read_run(run.log.path)
    check_corpus(found, "0123456789abcdef")
    with pytest.raises(
        StateError, match=r"fingerprint 0123456789abcdef \(path: None\), this one has fe"
    ):
        check_corpus(found, "fe")
