"""The page beside the peers can be made again; what it measures is not asserted here."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _imports(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["throughput", "start", "live_change", "fidelity", "shuffle"])
def test_a_question_is_answered_by_us_and_one_peer_and_names_who_is_not_installed(name, tmp_path):
    pytest.importorskip("psutil", reason="the extra bench is not installed")
    results = tmp_path / f"{name}.json"
    peers = ["--peers", "hand_written", "grain_map", "--home", tmp_path / "nothing"]
    found = run(BENCHMARKS / f"{name}.py", "--quick", "--json", results, *peers)
    assert found.returncode == 0, found.stderr
    value = json.loads(results.read_text())
    assert value["question"] == name
    cells = {cell for table in value["tables"] for row in table["rows"] for cell in row}
    assert {"ours", "hand_written"} <= cells
    assert list(value["failures"]) == ["grain_map: all"], value["failures"]
    assert value["failures"]["grain_map: all"].startswith("not installed (grain==")


@pytest.mark.slow
def test_what_fails_or_takes_too_long_is_kept_with_its_reason_and_others_go_on(tmp_path):
    pytest.importorskip("psutil", reason="the extra bench is not installed")
    from marked_rows import write_marked
    from side_by_side import Contest, Page

    page, source, settings = Page("test"), tmp_path / "corpus" / "source", {"seq_len": 16}
    settings["weights"] = {"a": 0.5, "b": 0.5}
    write_marked(source, {"a": 300, "b": 300}, seq_len=16)
    name = "hand_written"
    with Contest(page, tmp_path, [name], tmp_path / "nothing", limit_seconds=60) as contest:
        assert contest.write(source, **settings) == [name]
        long = contest.job(name, source, num_steps=1000, **settings)
        short = contest.job(name, source, num_steps=3, **settings)
        assert contest.run(name, "throughput", long, seconds=0.05)["steps"] > 0
        assert contest.run(name, "throughput", short, seconds=0.05) is None
        why = "RuntimeError: the stream ended within the batches before the clock starts"
        assert list(page.failures.values()) == [why]
        for afresh in (False, True):
            assert contest.run(name, "first_batch", long, afresh=afresh, limit_bytes=1) is None
            assert "limit_bytes" not in page.failures.popitem()[1]
            assert contest.run(name, "first_batch", long, afresh=afresh, limit_bytes=2**32)
        contest.limit_seconds = 1.0
        endless = contest.job(name, source, num_steps=10**7, **settings)
        assert contest.run(name, "throughput", endless, seconds=30.0) is None
        assert page.failures.popitem()[1] == "longer than 1 s"
        assert contest.run(name, "throughput", long, seconds=0.05)["steps"] > 0


def test_a_process_with_many_open_files_hears_what_its_peers_measured(tmp_path):
    pytest.importorskip("psutil", reason="the extra bench is not installed")
    from marked_rows import write_marked
    from side_by_side import Contest, Page

    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4096:
        pytest.skip("this process may not open so many files")
    source, weights = tmp_path / "corpus" / "source", {"a": 1.0}
    write_marked(source, {"a": 300}, seq_len=16)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Contest(Page("test"), tmp_path, ["hand_written"], tmp_path / "nothing") as contest:
            assert contest.write(source, weights=weights, seq_len=16) == ["hand_written"]
    finally:
        for file in files:
            os.close(file)


def test_marks_tell_domain_and_row_of_any_row(tmp_path):
    from marked_rows import marks_of, write_marked

    write_marked(tmp_path / "rows", {"a": 3, "b": 40_000}, seq_len=8)
    rows = np.load(tmp_path / "rows" / "b.npy")
    assert marks_of(rows[[5, 39_999]]).tolist() == [[1, 5], [1, 39_999]]
    with pytest.raises(ValueError, match="row 1 of a batch was not written so"):
        marks_of(rows[:2] + np.array([[0], [1]], np.uint16))


def test_equal_draws_of_two_ranks_double_chi_square():
    from mixture_statistics import chi_square, equal_batches, rounds

    rng = np.random.default_rng(0)
    domain = rng.choice(3, size=(4000, 16), p=[0.5, 0.3, 0.2])
    marks = np.stack([domain, np.zeros_like(domain)], axis=-1)
    weights = np.array([0.5, 0.3, 0.2])
    assert chi_square(domain, weights) == pytest.approx(1, abs=0.1)
    assert chi_square(rounds([marks, marks], 0), weights) == pytest.approx(2, abs=0.2)
    assert equal_batches([marks, marks]) == 1
    exact = np.tile([0] * 5 + [1] * 3 + [2] * 2, (7, 1))
    assert chi_square(exact, weights) == pytest.approx(0)


def test_what_a_resume_repeats_and_what_goes_on_in_order_is_counted_by_hand():
    from mixture_statistics import in_order, repeated

    order = np.array([[0, 1], [1, 7], [0, 2], [0, 3], [1, 8], [0, 4]])
    before, after = order[:2], np.array([[0, 2], [1, 8], [0, 1], [0, 4]])
    assert repeated(before, after) == pytest.approx(1 / 4)
    assert in_order(order, before, after) == pytest.approx(3 / 4)
    assert repeated(before, np.concatenate([after, after[:1]])) == pytest.approx(2 / 5)


@given(order=st.permutations(range(12)))
def test_open_shards_lie_between_one_and_all_and_one_only_without_a_shuffle(order):
    from mixture_statistics import most_shards_open

    marks = np.array([[0, row] for row in order])
    open_at_once = most_shards_open(marks, 4)
    places = [[order.index(row) for row in range(s, s + 4)] for s in (0, 4, 8)]
    by_hand = max(sum(min(p) <= t <= max(p) for p in places) for t in range(12))
    assert open_at_once == by_hand
    assert most_shards_open(np.sort(marks, axis=0), 4) == 1


def test_every_adapter_is_pinned_and_every_pin_has_an_adapter():
    from install import PINNED
    from peers import FLOORS, OURS, PEERS

    assert set(PINNED) == {*FLOORS, OURS, *PEERS}
    for name in PINNED:
        text = (BENCHMARKS / "peers" / f"{name}.py").read_text()
        assert "open_stream = " in text
        assert "def write(" in text
        assert len(text.splitlines()) < 130


def test_the_page_has_a_table_and_the_reasons_of_what_has_no_number():
    from page import section

    found = {
        "question": "shuffle",
        "command": "python x.py",
        "machine": {"grain_map": "grain==0.2.18"},
        "tables": [
            {"title": "T", "columns": ["a", "b"], "rows": [["x|y", 0.12345], [1234.5, None]]}
        ],
        "failures": {"energon: write": "why"},
    }
    text = section(found)
    assert "grain_map 0.2.18" in text
    assert "| x/y | 0.123 |\n| 1,234 |  |" in text
    assert "- energon: write: why" in text


def test_the_page_says_what_each_adapter_cannot_do():
    from page import limits
    from peers import FLOORS, OURS, PEERS

    assert {
        line[2:].partition(":")[0] for line in limits().splitlines() if line.startswith("- ")
    } == {
        *FLOORS,
        OURS,
        *PEERS,
    }


class Asked:
    """A contest whose measurements take as long as their names say."""

    def __init__(self, work):
        self.work, self.runs = work, []
        self.page = self

    def run(self, name, task, job, *, afresh=False, **arguments):
        self.runs.append((name, task, afresh))
        return {"seconds": float(name), "peak_bytes": 1 << 20}

    def add(self, *cells):
        self.runs.append(cells)


def test_who_takes_long_to_start_is_asked_once(tmp_path):
    from peers import Job
    from start import started

    contest = Asked(tmp_path)
    jobs = {
        name: Job(source=tmp_path, folder=tmp_path, weights={"a": 1.0}, num_steps=4)
        for name in ("1", "9")
    }
    assert started(contest, jobs, middle=False, rounds=3) == {"1": 1.0, "9": 9.0}
    asked = [run for run in contest.runs if len(run) == 3]
    assert asked == [
        ("1", "first_batch", True),
        ("9", "first_batch", True),
        ("1", "first_batch", False),
        ("1", "first_batch", False),
    ]
    assert contest.runs[-1] == (128, 1, "9", "the start", 9000.0, None, 1.0)
