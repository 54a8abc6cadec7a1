"""Real processes under torch.distributed (gloo, a file as store): what the ranks agree on.

Run as a script, this file is one rank: it plays the scenario once and writes what it saw as JSON.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mixstream
from mixstream.errors import StateError, WeightsError
from mixstream.loader.ranks import rank_and_world_size
from tests.loader.conftest import contents_of, flat, rows_of, through_json, weights_of

FIRST = (5, 1, 1, 1, 9)
THIRD = 1 / 3
BATCH_SIZE = 3
TIMEOUT_SECONDS = 120
ORDER = {"seed": 17, "num_canonical_nodes": 2}


class Rank:
    """One process of the run: its loader, and what it reports."""

    def __init__(self, corpus, rank):
        self.corpus, self.rank = corpus, rank
        self.loader = mixstream.Loader(
            corpus, weights_of(corpus, *FIRST), batch_size=BATCH_SIZE, **ORDER
        )
        self.iterator = iter(self.loader)
        self.seen, self.report = [], {}

    def steps(self, num_steps):
        for _ in range(num_steps):
            rows = rows_of(next(self.iterator))
            self.seen.append([[domain, content.hex()] for domain, content in rows])

    def change(self, name, weights, **settings):
        """set_weights, reported: the change, or the error that it ended in."""
        start = time.monotonic()
        try:
            change = self.loader.set_weights(weights, **settings)
            said = [change.at_row, change.at_step, change.weights.tobytes().hex()]
        except (WeightsError, StateError, ValueError, NotImplementedError) as error:
            said = [type(error).__name__, str(error)]
        self.report[name] = said
        self.report[f"{name} state"] = self.loader.state_dict()
        self.report[f"{name} fingerprint"] = self.loader.fingerprint
        self.report[f"{name} seconds"] = time.monotonic() - start


def drifted(corpus, rank):
    """A run in which rank 2 steers by itself, until the loader notices at a thousandth step."""
    loader = mixstream.Loader(corpus, batch_size=1)
    try:
        for _ in loader:
            if rank == 2 and loader.step == 900:
                loader.batches.set_weights(weights_of(corpus, *FIRST))
            if loader.step == 1001:
                return "unnoticed"
    except StateError as error:
        return [loader.step, str(error)]


def alone(corpus, rank):
    """The steps of a loader that rank 1 alone has and steers."""
    if rank != 1:
        return None
    loader = mixstream.Loader(corpus, batch_size=1, rank=0, world_size=1, synced=False)
    next(iter(loader))
    return loader.set_weights(weights_of(corpus, *FIRST)).at_step


def play(corpus, rank):
    """The scenario: every rank gives its own numbers wherever it can."""
    one = Rank(corpus, rank)
    one.report["who"] = [one.loader.batches.rank, one.loader.batches.world_size]
    one.steps(4)
    thirds = (THIRD, np.nextafter(THIRD, 1), np.float32(THIRD), 0.333)  # as four ranks may round
    mine = weights_of(corpus, 1, 1, 1, 0, thirds[rank])
    one.change("rounded", mine)
    one.steps(2)
    different = np.roll(weights_of(corpus, 1, 2, 3, 4, 5), rank)  # legal on rank 0 alone
    one.change("different", different, reason=f"rank {rank} says so", at_step=8 if rank == 0 else 3)
    one.steps(4)
    wrong = dict.fromkeys(corpus.domains, -1.0 if rank == 0 else 1.0)
    one.change("invalid on rank 0", wrong)
    one.change("too late", weights_of(corpus, *FIRST), at_step=1)
    import torch

    meta = torch.ones(len(corpus.domains), device="meta")
    one.change("unreadable on rank 0", meta if rank == 0 else weights_of(corpus, *FIRST))
    one.steps(2)
    one.report["state"] = one.loader.state_dict()
    one.report["drift"] = drifted(corpus, rank)
    one.report["alone"] = alone(corpus, rank)
    if rank in (1, 3):
        one.steps(1)
    one.change("other steps", weights_of(corpus, *FIRST))
    if rank in (0, 2):
        one.steps(1)
    one.change("same step again", weights_of(corpus, *FIRST))
    one.steps(1)
    one.report["seen"] = one.seen
    return one.report


def resume(corpus, rank, state):
    one = Rank(corpus, rank)
    one.loader.load_state_dict(state)
    one.iterator = iter(one.loader)
    one.steps(4)
    one.change("after resume", weights_of(corpus, 1, 0, 0, 0, rank))
    one.steps(2)
    return one.report | {"seen": one.seen, "state": one.loader.state_dict()}


def one_rank(rank, world_size, folder, corpus_path, state=None):
    """What a process of `launched` does."""
    import datetime

    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=int(rank),
        world_size=int(world_size),
        timeout=datetime.timedelta(seconds=60),
    )
    corpus = mixstream.open_corpus(corpus_path)
    if state is None:
        report = play(corpus, int(rank))
    else:
        with open(state) as file:
            report = resume(corpus, int(rank), json.load(file))
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(report, file)
    dist.barrier()
    dist.destroy_process_group()


def launched(world_size, folder, *arguments):
    """The reports of all ranks; every process ends within the time limit or is killed."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.loader.test_ranks"]
    processes = [
        subprocess.Popen(
            [*command, *map(str, (rank, world_size, folder, *arguments))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(world_size)
    ]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        for process in processes:
            output, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]


@pytest.fixture(scope="module")
def ranks(corpus_path, tmp_path_factory):
    """The reports of four processes."""
    return launched(4, tmp_path_factory.mktemp("ranks") / "four", corpus_path)


def single_run(corpus, num_steps):
    """The same run in this process: rank 0's numbers at the same rows, no distribution."""
    sampler = mixstream.MixSampler(corpus.layout, weights_of(corpus, *FIRST), **ORDER)
    sampler.set_weights(weights_of(corpus, 1, 1, 1, 0, THIRD), at_row=4 * 12)
    sampler.set_weights(weights_of(corpus, 1, 2, 3, 4, 5), at_row=8 * 12)
    sampler.set_weights(weights_of(corpus, *FIRST), at_row=13 * 12)
    return [
        sorted((d, c.hex()) for d, c in contents_of(corpus, sampler.take(12)))
        for _ in range(num_steps)
    ]


def together(reports):
    """The sorted rows of each step of all ranks."""
    per_rank = [report["seen"] for report in reports]
    return [sorted(tuple(row) for row in flat(step)) for step in zip(*per_rank, strict=True)]


def test_rank_and_world_size_come_from_torch_distributed(ranks):
    assert [report["who"] for report in ranks] == [[rank, 4] for rank in range(4)]


def test_four_processes_see_disjoint_rows_whose_union_is_the_single_process(corpus, ranks):
    steps = together(ranks)
    assert len(steps) == 14
    assert steps == single_run(corpus, 14)
    first = [row for step in steps[:2] for row in step if row[0] == corpus.domains.index("web")]
    assert len(set(first)) == len(first), "no row comes twice while its domain has others"


@pytest.mark.parametrize("name", ["rounded", "different", "same step again"])
def test_rank_0s_numbers_are_taken_to_the_last_bit_on_every_rank(ranks, name):
    assert len({tuple(report[name]) for report in ranks}) == 1
    assert len({report[f"{name} fingerprint"] for report in ranks}) == 1


def test_rank_0s_step_is_taken_too(ranks):
    assert ranks[3]["different"][:2] == [8 * 12, 8]


def test_the_state_is_equal_on_all_ranks_after_every_change(ranks):
    names = [name for name in ranks[0] if name.endswith("state")]
    assert len(names) == 8
    for name in names:
        if name != "other steps state":
            assert all(report[name] == ranks[0][name] for report in ranks), name
        assert len(json.dumps(ranks[0][name])) < 3000
    (planned,) = ranks[2]["different state"]["batches"]["sampler"]["changes"]
    assert planned["reason"] == "rank 0 says so"


def test_invalid_weights_of_rank_0_are_an_error_on_every_rank_at_once(ranks):
    for report in ranks:
        kind, message = report["invalid on rank 0"]
        assert kind == "WeightsError"
        assert "'books' in weights is -1.0" in message
        assert report["invalid on rank 0 seconds"] < 20


def test_a_step_that_is_drawn_is_an_error_on_every_rank(ranks):
    assert {report["too late"][0] for report in ranks} == {"StepError"}


def test_weights_that_rank_0_cannot_even_read_leave_no_rank_waiting(ranks):
    kinds = [report["unreadable on rank 0"][0] for report in ranks]
    assert kinds[0] in ("NotImplementedError", "WeightsError")
    assert kinds[1:] == ["WeightsError"] * 3
    assert max(report["unreadable on rank 0 seconds"] for report in ranks) < 20


def test_ranks_at_different_steps_are_named_on_every_rank(ranks):
    for report in ranks:
        kind, message = report["other steps"]
        assert kind == "StateError"
        assert "ranks [1, 3] differ from rank 0, which has drawn 12 steps" in message
        assert "rank 1 has drawn 13 steps" in message


def test_a_rank_that_drifts_away_is_named_on_every_rank_at_the_next_thousandth_step(ranks):
    for report in ranks:
        step, message = report["drift"]
        assert step == 1000
        assert "ranks [2] differ from rank 0" in message


def test_a_loader_that_is_not_synced_is_steered_by_its_process_alone(ranks):
    assert [report["alone"] for report in ranks] == [None, 1, None, None]


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_run_goes_on_with_the_same_rows_on_another_world_size(
    corpus, corpus_path, ranks, tmp_path, world_size
):
    (tmp_path / "state.json").write_text(json.dumps(ranks[3]["state"]))
    reports = launched(world_size, tmp_path / "resumed", corpus_path, tmp_path / "state.json")
    sampler = mixstream.MixSampler(corpus.layout, **ORDER)
    sampler.load_state_dict(ranks[0]["state"]["batches"]["sampler"])
    assert sampler.row == 12 * 12
    num_rows = BATCH_SIZE * world_size
    expected = [sampler.take(num_rows) for _ in range(4)]
    sampler.set_weights(weights_of(corpus, 1, 0, 0, 0, 0))
    expected += [sampler.take(num_rows) for _ in range(2)]
    assert together(reports) == [
        sorted((d, c.hex()) for d, c in contents_of(corpus, rows)) for rows in expected
    ]
    assert all(report["state"] == reports[0]["state"] for report in reports)


def test_one_process_without_torch_distributed_goes_on_with_the_same_rows(corpus, ranks):
    loader = mixstream.Loader(corpus, batch_size=12, **ORDER)
    loader.load_state_dict(through_json(ranks[1]["state"]))
    assert loader.step == 12
    loader.set_weights(weights_of(corpus, *FIRST), at_step=13)
    steps = [
        sorted((d, c.hex()) for d, c in rows_of(batch))
        for _, batch in zip(range(2), loader, strict=False)
    ]
    assert steps == together(ranks)[12:14]


def test_without_torch_distributed_there_is_one_rank():
    assert rank_and_world_size(None, None) == (0, 1)
    assert rank_and_world_size(2, 8) == (2, 8)
    for half in [(1, None), (None, 2)]:
        with pytest.raises(ValueError, match="give both, or neither"):
            rank_and_world_size(*half)


if __name__ == "__main__":
    one_rank(*sys.argv[1:])
