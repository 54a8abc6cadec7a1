"""The run log of a Loader: what it says, and that the run can be had again from it alone."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import mixstream
from mixstream.errors import ShardError, StateError, WeightsError
from mixstream.loader.recorded import signal_values
from tests.loader.conftest import (
    SHAPES,
    contents_of,
    flat,
    make_ranks,
    next_rows,
    rows_of,
    through_json,
    weights_of,
)
from tests.loader.test_promises import NUM_FILLED, ORDERS
from tests.strategies import simplexes

FIRST, LATER = (5, 1, 1, 1, 9), (1, 1, 5, 0, 2)


def take(loader, number):
    return [rows_of(batch) for batch in itertools.islice(loader, number)]


def recorded(corpus, path, weights=FIRST, *, batch_size=4, **settings):
    weights = weights_of(corpus, *weights) if isinstance(weights, tuple) else weights
    return mixstream.Loader(corpus, weights, batch_size=batch_size, run_log=path, **settings)


def kinds(path):
    return [event["event"] for event in mixstream.read_run(path).events]


class RecordedRun(RuleBasedStateMachine):
    """A run that is steered, killed and resumed on other ranks; its log must know all of it."""

    corpus: mixstream.Corpus
    folder: Path
    number = itertools.count()

    @initialize(data=st.data(), order=ORDERS, shape=st.sampled_from(SHAPES))
    def start(self, data, order, shape):
        self.order = order
        self.path = self.folder / f"{next(self.number)}.jsonl"
        self.weights = weights_of(self.corpus, *data.draw(simplexes(NUM_FILLED)))
        self.delivered, self.states = [], []
        self.rows = 0
        self.begin(shape)

    def begin(self, shape):
        world_size, batch_size, _ = shape
        self.ranks = make_ranks(
            self.corpus,
            self.weights,
            batch_size=batch_size,
            world_size=world_size,
            run_log=self.path,
            **self.order,
        )
        self.iterators = [iter(rank) for rank in self.ranks]

    @rule(num_steps=st.integers(1, 12))
    def go_on(self, num_steps):
        for _ in range(num_steps):
            rows = next_rows(self.iterators)
            if rows is None:
                self.iterators = [iter(rank) for rank in self.ranks]
                return
            self.delivered.append((self.ranks[0].step - 1, self.rows, rows))
            self.rows += len(rows)

    @rule(data=st.data(), ahead=st.none() | st.integers(0, 9))
    def change_the_weights(self, data, ahead):
        weights = weights_of(self.corpus, *data.draw(simplexes(NUM_FILLED)))
        at_step = None if ahead is None else self.ranks[0].step + ahead
        for rank in self.ranks:
            try:
                rank.set_weights(weights, at_step=at_step)
            except WeightsError:  # all of their domains are used up
                continue

    @rule()
    def measure(self):
        self.ranks[0].log_signal("loss", self.weights)

    @rule()
    def save(self):
        states = [rank.state_dict() for rank in self.ranks]
        assert all(state == states[0] for state in states)
        self.states.append((through_json(states[0]), list(self.delivered), self.rows))

    @precondition(lambda self: self.states)
    @rule(data=st.data(), shape=st.sampled_from(SHAPES), torn=st.sampled_from([b"", b'{"eve']))
    def kill_and_resume(self, data, shape, torn):
        state, self.delivered, self.rows = data.draw(st.sampled_from(self.states))
        self.delivered = list(self.delivered)
        with self.path.open("ab") as file:
            file.write(torn)
        world_size, batch_size, _ = shape
        self.ranks = make_ranks(
            self.corpus,
            batch_size=batch_size,
            world_size=world_size,
            run_log=self.path,
            **self.order,
        )
        for rank in self.ranks:
            rank.load_state_dict(state)
        self.iterators = [iter(rank) for rank in self.ranks]

    @invariant()
    def the_log_alone_gives_what_was_delivered(self):
        if not hasattr(self, "delivered"):
            return
        run = mixstream.read_run(self.path)
        found = contents_of(self.corpus, mixstream.replay(run, rows=(0, self.rows)))
        for step, row, rows in self.delivered:
            assert sorted(found[row : row + len(rows)]) == rows
            assert (run.row_of(step), run.row_of(step + 1)) == (row, row + len(rows))
            assert run.step_of(row) == step
        place = self.ranks[0].batches.row(self.ranks[0].step)
        assert place == self.rows
        assert run.last_row <= place
        sampler = self.ranks[0].batches.sampler
        planned = {change.at_row: change.weights.tolist() for change in sampler.planned}
        told = {c.row: c.weights.tolist() for c in run.changes if c.row > sampler.row}
        assert told == planned
        assert run.weights_at(sampler.row).tolist() == sampler.weights.tolist()


def test_log_and_replay_agree_through_changes_kills_and_resumes(corpus, tmp_path_factory):
    RecordedRun.corpus, RecordedRun.folder = corpus, tmp_path_factory.mktemp("runs")
    machine = RecordedRun.TestCase()
    machine.settings = settings(
        max_examples=15,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine.runTest()


def test_the_log_says_what_happened_in_order(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = recorded(corpus, path, seed=9, num_canonical_nodes=2, max_epochs={"web": 3})
    assert path.stat().st_size == 0  # where the run starts is not known before it does
    take(loader, 5)
    loader.set_weights(weights_of(corpus, *LATER), reason="eval")
    loader.set_weights(weights_of(corpus, *FIRST), at_step=50, reason="planned")
    loader.log_signal("loss", {"web": 2.5}, unit="nats per token")
    state = loader.state_dict()
    take(loader, 3)
    run = mixstream.read_run(path)
    start = run.start
    assert start["corpus"] == corpus.fingerprint
    assert start["settings"]["seed"] == 9
    assert start["settings"]["max_epochs"] == {"web": 3}
    assert (start["settings"]["batch_size"], start["settings"]["world_size"]) == (4, 1)
    assert set(start["versions"]) >= {"mixstream", "python", "numpy", "torch"}
    assert start["weights"] == weights_of(corpus, *FIRST / np.sum(FIRST)).tolist()
    assert run.layout.keys() == corpus.layout.keys()
    now, planned = run.of("weights")
    assert (now["step"], now["row"], now["decided_step"]) == (5, 20, 5)
    assert (now["reason"], now["source"]) == ("eval", "code")
    assert (planned["step"], planned["row"], planned["decided_step"]) == (50, 200, 5)
    (signal_event,) = run.of("signal")
    assert signal_event["unit"] == "nats per token"
    web = corpus.domains.index("web")
    assert signal_event["values"] == [2.5 if k == web else None for k in range(6)]
    (checkpoint,) = run.of("checkpoint")
    assert (checkpoint["step"], checkpoint["row"]) == (5, 20)
    assert checkpoint["counts"] == state["batches"]["sampler"]["counts"]
    assert (run.last_step, run.last_row) == (8, 32)


def test_what_is_planned_by_a_schedule_is_told_before_it_happens(corpus, tmp_path):
    names = [name for name in corpus.domains if name != "none"]
    base = dict.fromkeys(names, 1.0) | {"none": 0.0}
    plan = mixstream.Schedule.constant(base).stage(3, base | {"web": 9.0}, reason="more web")
    plan = plan.ramp(10, 14, base, reason="back")
    loader = recorded(corpus, tmp_path / "a.jsonl", plan)
    iter(loader)
    told = mixstream.read_run(tmp_path / "a.jsonl").of("weights")
    assert [event["step"] for event in told] == [3, 11, 12, 13, 14]
    assert {event["source"] for event in told} == {"schedule"}
    assert told[0]["reason"] == "more web"
    assert loader.weights == pytest.approx(weights_of(corpus, 1, 1, 1, 1, 1) / 5)
    take(loader, 12)
    assert loader.weights.tolist() == told[2]["weights"]


def test_a_resume_does_not_apply_a_schedule_twice(corpus, tmp_path):
    web = corpus.domains.index("web")
    base = np.eye(6)[web]
    even = weights_of(corpus, 1, 1, 1, 1, 1)
    plan = mixstream.Schedule.constant(base).ramp(2, 8, even)
    whole = take(recorded(corpus, tmp_path / "whole.jsonl", plan), 20)
    path = tmp_path / "a.jsonl"
    loader = recorded(corpus, path, plan)
    found = take(loader, 5)
    loader.set_weights(even, at_step=7, reason="instead")
    loader.set_weights(plan.at(7), at_step=7, reason="after all")
    state = json.loads(json.dumps(loader.state_dict()))
    take(loader, 5)
    resumed = recorded(corpus, path, plan, batch_size=2)
    resumed.load_state_dict(state)
    rest = take(resumed, 30)
    assert flat(found) + flat(rest) == flat(whole)
    run = mixstream.read_run(path)
    assert contents_of(corpus, mixstream.replay(run, rows=(0, 80))) == flat(whole)


def test_a_run_that_starts_anew_takes_all_of_its_log_back(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    first = recorded(corpus, path)
    take(first, 3)
    first.set_weights(weights_of(corpus, *LATER))
    take(first, 3)
    again = take(recorded(corpus, path, LATER, batch_size=2), 5)
    run = mixstream.read_run(path)
    assert run.num_rolled_back >= 1
    assert (run.last_step, run.last_row) == (5, 10)
    assert contents_of(corpus, mixstream.replay(run)) == flat(again)


def test_a_log_may_start_in_the_middle_of_a_run(corpus, tmp_path):
    order = {"seed": 4, "shuffle_block_rows": 10}
    loader = mixstream.Loader(corpus, weights_of(corpus, *FIRST), batch_size=4, **order)
    take(loader, 6)
    loader.set_weights(weights_of(corpus, *LATER), at_step=9)
    state = loader.state_dict()
    path = tmp_path / "late.jsonl"
    late = recorded(corpus, path, **order)
    late.load_state_dict(state)
    rows = take(late, 8)
    run = mixstream.read_run(path)
    assert (run.first_row, run.start["step"]) == (24, 6)
    assert contents_of(corpus, mixstream.replay(run, rows=(24, 56))) == flat(rows)
    with pytest.raises(StateError, match="tells of the run from row 24 on"):
        mixstream.replay(run, rows=(0, 10))


def test_a_loader_that_is_looked_at_before_its_state_comes_tells_from_there(corpus, tmp_path):
    loader = recorded(corpus, tmp_path / "whole.jsonl")
    take(loader, 6)
    loader.set_weights(weights_of(corpus, *LATER))
    state = loader.state_dict()
    path = tmp_path / "late.jsonl"
    late = recorded(corpus, path)
    late.state_dict()  # some trainers ask first
    iter(late)
    late.load_state_dict(state)
    rows = take(late, 3)
    run = mixstream.read_run(path)
    assert run.first_row == 24
    assert contents_of(corpus, mixstream.replay(run)) == flat(rows)


def test_the_log_of_another_run_is_refused(corpus, other_corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    take(recorded(corpus, path), 1)
    with pytest.raises(StateError, match="is of a run with seed 0, this one has seed 1"):
        recorded(corpus, path, seed=1)
    with pytest.raises(StateError, match="is of a run with corpus"):
        mixstream.Loader(other_corpus, batch_size=4, run_log=path)


def test_a_stratum_that_is_not_the_logs_is_refused_unless_the_state_brings_it(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = recorded(corpus, path, sampling="stratified")
    take(loader, 2)
    state = loader.state_dict()
    with pytest.raises(StateError, match="stratum 4, this one has stratum 6"):
        take(recorded(corpus, path, sampling="stratified", batch_size=6), 1)
    resumed = recorded(corpus, path, sampling="stratified", batch_size=6)
    resumed.load_state_dict(state)
    take(resumed, 1)


def test_ranks_other_than_0_write_nothing(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = recorded(corpus, path, rank=1, world_size=2)
    take(loader, 2)
    loader.set_weights(weights_of(corpus, *LATER))
    loader.log_signal("loss", np.ones(6))
    loader.state_dict()
    assert not path.exists()


def test_passes_over_a_domain_are_told(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = recorded(corpus, path)
    tiny = corpus.domains.index("tiny")
    loader.set_weights(np.eye(6)[tiny])
    take(loader, 3)  # 12 rows of a domain of 2
    loader.state_dict()
    loader.state_dict()
    told = mixstream.read_run(path).of("epoch")
    assert [(event["domain"], event["epoch"]) for event in told][-1] == ("tiny", 6)
    assert len(told) == len({event["row"] for event in told})


def test_the_log_keeps_up_with_a_slow_loop(corpus, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loader = recorded(corpus, path)
    for step, _ in enumerate(loader, 1):
        told = mixstream.read_run(path).last_step
        assert step - 2 <= told < step
        now[0] += 3.0
        if step == 12:
            break


def test_a_quick_loop_is_told_of_about_once_a_second(corpus, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for step, _ in enumerate(recorded(corpus, path), 1):
        now[0] += 0.001
        if step == 4000:
            break
    assert 3 <= len(mixstream.read_run(path).of("progress")) <= 6


def test_the_end_of_a_run_is_told(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = recorded(corpus, path, max_epochs=1, on_exhausted="stop")
    steps = len(take(loader, 10**6))
    *_, last = mixstream.read_run(path).events
    assert (last["event"], last["reason"], last["step"]) == ("end", "exhausted", steps)


def test_a_row_that_cannot_be_read_is_told(corpus_path, tmp_path):
    shutil.copytree(corpus_path, tmp_path / "corpus")
    corpus = mixstream.open_corpus(tmp_path / "corpus")
    for shard in (tmp_path / "corpus" / "web").glob("*.mds"):
        shard.write_bytes(shard.read_bytes()[:50])
    path = tmp_path / "a.jsonl"
    with pytest.raises(ShardError):
        take(recorded(corpus, path), 50)
    fault = mixstream.read_run(path).of("fault")[-1]
    assert "shard" in fault["detail"]
    assert issubclass(getattr(mixstream.errors, fault["kind"]), ShardError)


def test_signals_that_do_not_fit_are_refused(corpus, tmp_path):
    loader = recorded(corpus, tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"signal 'loss' has shape \(2,\); give one number"):
        loader.log_signal("loss", [1.0, 2.0])
    with pytest.raises(ValueError, match="unknown domain 'wiki' in signal 'loss'"):
        loader.log_signal("loss", {"wiki": 1.0})
    with pytest.raises(StateError, match="signal 'loss' has no log to go to"):
        mixstream.Loader(corpus, batch_size=1).log_signal("loss", np.ones(6))


@pytest.mark.parametrize(
    "values",
    ["abc", None, object(), [None, 1], ["1", "2"], [[1], [2, 3]], [[1, 2], [3, 4]], [1, 10**400],
     np.array(["a", "b"]), np.array([1j, 2]), {"web": "1.5"}, {"web": None}, {"web": [1, 2]}],
)  # fmt: skip
def test_a_signal_that_is_not_numbers_is_refused_by_name_and_value(values):
    said = r"signal 'x' (is .*, which is not one number a domain: |has shape \(2, 2\); give one)"
    with pytest.raises(ValueError, match=said) as refused:
        signal_values("x", values, ["web", "code"])
    assert "web, code" in str(refused.value) or "shape (2,)" in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [[1, 2], (1.0, np.float32(2)), np.array([1, 2], np.int8), {"web": 1, "code": torch.tensor([2])},
     [torch.tensor(1.0, requires_grad=True), 2], torch.tensor([1, 2], dtype=torch.bfloat16)],
)  # fmt: skip
def test_a_signal_may_come_as_any_numbers(values):
    assert signal_values("x", values, ["web", "code"]).tolist() == [1, 2]


def test_a_signal_by_name_may_leave_domains_out():
    np.testing.assert_array_equal(signal_values("x", {"code": 2}, ["web", "code"]), [np.nan, 2])


def test_workers_and_broken_loops_replay_too(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = recorded(corpus, path, num_workers=2, prefetch_factor=2)
    rows = take(loader, 3)
    change = loader.set_weights(weights_of(corpus, *LATER))
    assert change.at_step > 3
    rows += take(loader, 6)
    loader.set_weights(weights_of(corpus, *FIRST))
    rows += take(loader, 6)
    run = mixstream.read_run(path)
    assert contents_of(corpus, mixstream.replay(run, rows=(0, 60))) == flat(rows)


KILLED = """
import sys, mixstream, numpy as np
corpus = mixstream.open_corpus(sys.argv[1])
loader = mixstream.Loader(corpus, batch_size=4, run_log=sys.argv[2])
for step, batch in enumerate(loader):
    weights = np.where(corpus.num_rows > 0, 1.0 + np.arange(6) * (step % 7), 0.0)
    loader.set_weights(weights, reason="step")
    rows = zip(batch["domain_ids"].tolist(), batch["input_ids"].numpy())
    rows = [(domain, row.tobytes().hex()) for domain, row in rows]
    print(rows, flush=True)
"""


def test_a_log_survives_a_kill(corpus, corpus_path, tmp_path):
    path = tmp_path / "a.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(corpus_path), str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    printed = [process.stdout.readline() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    printed += process.stdout.readlines()
    process.wait(timeout=30)
    process.stdout.close()
    rows = [
        (d, bytes.fromhex(content))
        for line in printed
        if line.endswith("]\n")
        for d, content in eval(line)
    ]
    run = mixstream.read_run(path)
    found = contents_of(corpus, mixstream.replay(run, rows=(0, len(rows))))
    assert found == rows
    assert os.path.exists(path)


def test_a_log_that_is_cut_at_any_byte_replays_up_to_its_last_whole_event(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = recorded(corpus, path)
    rows = []
    for number in range(6):
        rows += take(loader, 3)
        loader.set_weights(weights_of(corpus, *np.roll(LATER, number)), at_step=loader.step + 2)
    log = path.read_bytes()
    seen = set()
    for cut in range(log.index(b"\n") + 1, len(log) + 1, 7):
        (tmp_path / "cut.jsonl").write_bytes(log[:cut])
        run = mixstream.read_run(tmp_path / "cut.jsonl")
        if run.last_row not in seen:
            seen.add(run.last_row)
            found = contents_of(corpus, mixstream.replay(run))
            assert found == flat(rows)[: run.last_row]
    assert len(seen) >= 6
