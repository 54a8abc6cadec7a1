"""The numbers behind the pictures."""

import numpy as np
import pytest

from mixstream.errors import StateError
from mixstream.plot.charts import Mark, charts_of, steps_of_rows
from mixstream.plot.panels import MAX_NOTES, chosen_marks, note_of
from mixstream.runlog import drawn_counts, read_run
from tests.plot.logs import losses, names, write_log


def run_of(tmp_path, **settings):
    settings = {"domains": names(3), "num_steps": 1000} | settings
    return read_run(write_log(tmp_path / "a.jsonl", **settings))


def test_asked_weights_are_the_log_s_step_by_step(tmp_path):
    changes = [(200, [1, 1, 2], "a", "code"), (600, [2, 1, 1], "b", "person")]
    charts = charts_of(run_of(tmp_path, weights=[1, 1, 1], changes=changes))
    assert charts.asked_edges.tolist() == [0, 200, 600, 1000]
    expected = [[1 / 3, 1 / 3, 1 / 3], [0.25, 0.25, 0.5], [0.5, 0.25, 0.25]]
    assert charts.asked == pytest.approx(np.array(expected))
    assert [(m.step, m.reason, m.source) for m in charts.marks] == [
        (200, "a", "code"),
        (600, "b", "person"),
    ]
    assert not charts.asked_is_mean


def test_drawn_shares_follow_the_asked_ones(tmp_path):
    charts = charts_of(run_of(tmp_path, weights=[2, 1, 1], changes=[(500, [0, 0, 1], "", "code")]))
    assert charts.drawn.sum(axis=1) == pytest.approx(np.ones(len(charts.drawn)))
    early = charts.drawn_steps < 500 - charts.window_steps
    assert charts.drawn[early].mean(axis=0) == pytest.approx([0.5, 0.25, 0.25], abs=0.02)
    late = charts.drawn_steps > 500 + charts.window_steps
    assert (charts.drawn[late] == [0, 0, 1]).all()
    assert charts.drawn_steps[0] == 0
    assert charts.drawn_steps[-1] == 1000


def test_passes_are_rows_drawn_over_rows_there_are(tmp_path):
    run = run_of(tmp_path, rows=[1000, 2000, 4000])
    charts = charts_of(run)
    assert not charts.passes_are_estimated
    drawn = drawn_counts(run, [0, run.last_row])[0]
    assert charts.passes[-1] == pytest.approx(drawn / np.array([1000, 2000, 4000]))
    assert charts.passes[0].tolist() == [0, 0, 0]


def test_passes_of_a_long_run_are_estimated_and_near(tmp_path):
    run = run_of(tmp_path, num_steps=10**6, batch_size=512, weights=[3, 2, 1])
    charts = charts_of(run)
    assert charts.passes_are_estimated
    expected = run.last_row * np.array([3, 2, 1]) / 6 / run.num_rows
    assert charts.passes[-1] == pytest.approx(expected, rel=0.01)
    assert len(charts.passes) <= 260
    assert len(charts.drawn) <= 260


def test_planned_changes_are_there_before_they_happen(tmp_path):
    planned = [(1500, [0, 0, 1], "anneal", "schedule")]
    run = run_of(tmp_path, planned=planned)
    charts = charts_of(run)
    assert charts.now_step == 1000
    assert charts.end_step > 1500
    assert charts.asked[-1].tolist() == [0, 0, 1]
    assert charts.marks == (Mark(1500, 1500, 1, "anneal", "schedule", True),)
    assert charts.drawn_steps[-1] == 1000
    assert charts_of(run, planned=False).end_step == 1000


def test_changes_on_end_for_one_reason_are_one_mark(tmp_path):
    doremi = [(s, [1, 1, s], "doremi", "code") for s in range(100, 500, 10)]
    by_hand = [(250, [1, 0, 0], "stop", "person")]
    changes = sorted([c for c in doremi if c[0] != 250] + by_hand, key=lambda c: c[0])
    marks = charts_of(run_of(tmp_path, changes=changes)).marks
    assert [(m.step, m.last_step, m.num_changes, m.source) for m in marks] == [
        (100, 240, 15, "code"),
        (250, 250, 1, "person"),
        (260, 490, 24, "code"),
    ]


def test_of_many_changes_those_by_hand_are_numbered():
    marks = [Mark(s, s, 1, str(s), "person" if s == 90 else "code", False) for s in range(100)]
    chosen, num_others = chosen_marks(marks)
    assert len(chosen) == MAX_NOTES
    assert num_others == 100 - MAX_NOTES
    assert marks[90] in chosen
    assert [m.step for m in chosen] == sorted(m.step for m in chosen)


def test_a_change_in_words():
    assert note_of(Mark(1500, 1500, 1, "", "schedule", True)) == (
        "step 1,500, planned by schedule: no reason given"
    )
    assert note_of(Mark(5, 5, 1, "more\ncode", "person", False)) == "step 5, by hand: more·code"


def test_thousands_of_changes_are_thinned_and_say_so(tmp_path):
    chance = np.random.default_rng(0)
    changes = [(s, chance.dirichlet([1, 1, 1]), "odm", "code") for s in range(1, 3_001)]
    charts = charts_of(run_of(tmp_path, num_steps=3_001, changes=changes), max_points=100)
    assert charts.asked_is_mean
    assert len(charts.asked) == 100
    assert charts.asked.sum(axis=1) == pytest.approx(np.ones(100))
    assert charts.marks == (Mark(1, 3_000, 3_000, "odm", "code", False),)


def test_signals_keep_their_units_and_gaps(tmp_path):
    gap = ("skill", None, [10, 20], [[1.0, float("nan"), 2.0], [float("nan")] * 3])
    run = run_of(tmp_path, signals=[losses(names(3), 1000, 100), gap])
    skill, loss = charts_of(run).signals  # in the order of their first values
    assert (loss.name, loss.unit, loss.points.per_point) == ("loss", "nats per token", 1)
    assert len(loss.points.steps) == 10
    assert skill.unit == ""
    assert np.isnan(skill.points.mean).tolist() == [[False, True, False], [True] * 3]


def test_some_steps_alone(tmp_path):
    changes = [(200, [1, 1, 2], "a", "code"), (600, [2, 1, 1], "b", "person")]
    run = run_of(tmp_path, changes=changes, signals=[losses(names(3), 1000, 10)])
    charts = charts_of(run, steps=(300, 500))
    assert (charts.first_step, charts.end_step) == (300, 500)
    assert charts.asked_edges.tolist() == [300, 500]
    assert charts.marks == ()
    assert charts.drawn_steps.min() == 300
    assert charts.drawn_steps.max() == 500
    assert charts.signals[0].points.steps.min() >= 300
    for steps in [(1000, 1200), (500, 500)]:
        with pytest.raises(StateError, match=rf"steps {steps[0]}:{steps[1]} are not of the run"):
            charts_of(run, steps=steps)


def test_a_run_that_has_drawn_nothing_has_weights(tmp_path):
    charts = charts_of(run_of(tmp_path, num_steps=0))
    assert len(charts.drawn) == 0
    assert charts.asked.shape == (1, 3)
    assert charts.passes[-1].tolist() == [0, 0, 0]


def test_steps_of_rows_follow_the_world_size(tmp_path):
    run = run_of(tmp_path, batch_size=10)
    assert steps_of_rows(run, [0, 5, 10, 1000]).tolist() == [0, 0.5, 1, 100]
