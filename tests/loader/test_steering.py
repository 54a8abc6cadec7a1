"""Persons' requests beside the log of a running loader: what it takes, refuses and answers.

Run as a script, this file is one rank of a run under torch.distributed.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mixstream
from mixstream.errors import StateError
from mixstream.loader import steering
from mixstream.runlog import read_answer, request_weights
from tests.loader.conftest import rows_of, weights_of

FIRST, LATER = (5, 1, 1, 1, 9), (1, 1, 5, 0, 2)
STEER_EVERY, NUM_STEPS, ASKED_AFTER = 4, 24, 6


@pytest.fixture(autouse=True)
def always_look(monkeypatch):
    monkeypatch.setattr(steering, "_POLL_SECONDS", 0.0)


def take(loader, number):
    return [rows_of(batch) for batch in itertools.islice(loader, number)]


def started(corpus, path, **settings):
    settings = {"batch_size": 4, "run_log": path, "steerable": True} | settings
    loader = mixstream.Loader(corpus, weights_of(corpus, *FIRST), **settings)
    take(loader, 3)
    return loader


def test_a_request_is_felt_by_the_next_step_and_logged_as_a_persons(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = started(corpus, path)
    request = request_weights(path, weights_of(corpus, *LATER), "books look thin")
    assert read_answer(request) is None
    take(loader, 1)
    assert read_answer(request) == {"accepted": True, "step": 3, "row": 12}
    wanted = weights_of(corpus, *LATER) / sum(LATER)
    assert loader.weights == pytest.approx(wanted)
    (told,) = mixstream.read_run(path).of("weights")
    assert (told["step"], told["row"], told["source"]) == (3, 12, "person")
    assert told["reason"] == "books look thin"
    twin = mixstream.Loader(corpus, weights_of(corpus, *FIRST), batch_size=4)
    expected = take(twin, 3)
    twin.set_weights(told["weights"])
    expected += take(twin, 1)
    assert len(expected) == 4
    take(twin, 1)
    assert take(loader, 2)[1] == take(twin, 1)[0]


def test_of_several_requests_the_last_one_holds(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = started(corpus, path)
    request_weights(path, weights_of(corpus, *LATER), "first")
    last = request_weights(path, weights_of(corpus, 1, 1, 1, 1, 1), "second")
    take(loader, 1)
    assert read_answer(last)["accepted"]
    assert loader.weights == pytest.approx(weights_of(corpus, 1, 1, 1, 1, 1) / 5)
    assert [event["reason"] for event in mixstream.read_run(path).of("weights")] == [
        "first",
        "second",
    ]


def test_what_only_the_loader_can_know_is_refused_in_the_words_of_set_weights(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = started(corpus, path, max_epochs={"tiny": 1}, batch_size=40)
    tiny = np.eye(6)[corpus.domains.index("tiny")]
    before = loader.weights
    request = request_weights(path, tiny, "tiny alone")
    take(loader, 1)
    answer = read_answer(request)
    assert answer["error"] == "WeightsError"
    assert "every domain of positive weight has reached its max_epochs: tiny" in answer["message"]
    assert loader.weights.tolist() == before.tolist()
    assert mixstream.read_run(path).of("weights") == []


def test_a_request_that_was_written_by_hand_is_checked(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = started(corpus, path)
    request = tmp_path / "a.jsonl.requests" / "1.json"
    request.write_text(json.dumps({"weights": {"web": 1}, "reason": "by hand"}))
    take(loader, 1)
    assert "domain 'books' is missing in weights" in read_answer(request)["message"]


def test_a_loader_that_is_not_steerable_takes_nothing(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    started(corpus, path)
    request = request_weights(path, weights_of(corpus, *LATER), "soon")
    loader = started(corpus, path, steerable=False)
    take(loader, 5)
    assert read_answer(request) is None
    with pytest.raises(StateError, match="was not started with"):
        request_weights(path, weights_of(corpus, *LATER), "again")
    loader = started(corpus, path)
    assert read_answer(request)["accepted"]


def test_requests_are_looked_for_so_often(corpus, tmp_path):
    path = tmp_path / "a.jsonl"
    loader = started(corpus, path, steer_every=5)
    request = request_weights(path, weights_of(corpus, *LATER), "soon")
    take(loader, 2)
    assert read_answer(request) is None
    take(loader, 1)
    assert read_answer(request)["step"] == 5


def test_a_quick_loop_does_not_list_the_folder_at_every_step(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(steering, "_POLL_SECONDS", 1e9)
    path = tmp_path / "a.jsonl"
    loader = started(corpus, path)
    request = request_weights(path, weights_of(corpus, *LATER), "soon")
    take(loader, 50)
    assert read_answer(request) is None


def test_settings_that_have_no_effect_are_refused(corpus, tmp_path):
    with pytest.raises(StateError, match="steerable=True needs a run log"):
        mixstream.Loader(corpus, batch_size=1, steerable=True)
    with pytest.raises(StateError, match="steer_every is 5 with steerable=False"):
        mixstream.Loader(corpus, batch_size=1, steer_every=5, run_log=tmp_path / "a.jsonl")
    with pytest.raises(StateError, match="steer_every is 0 with steerable=True"):
        started(corpus, tmp_path / "b.jsonl", steer_every=0)
    with pytest.raises(StateError, match=r"world_size 2, but torch.distributed is not initialised"):
        started(corpus, tmp_path / "c.jsonl", rank=0, world_size=2)


@pytest.mark.slow
def test_all_ranks_take_a_request_at_the_same_step(corpus, corpus_path, tmp_path):
    command = [sys.executable, "-m", "tests.loader.test_steering", corpus_path, tmp_path]
    root = Path(__file__).parents[2]
    ranks = [subprocess.Popen([*map(str, command), str(rank)], cwd=root) for rank in range(2)]
    try:
        assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one["weights"] == other["weights"]
    assert one["fingerprint"] == other["fingerprint"]
    felt = (ASKED_AFTER // STEER_EVERY + 1) * STEER_EVERY
    assert one["answer"] == {"accepted": True, "step": felt, "row": felt * 6}
    assert "domain 'books' is missing" in one["refused"]["message"]
    steps = [weights == one["weights"][-1] for weights in one["weights"]]
    assert steps.index(True) == felt
    run = mixstream.read_run(tmp_path / "a.jsonl")
    assert [event["source"] for event in run.of("weights")] == ["person"]
    assert run.is_steerable


def one_rank(corpus_path, folder, rank):
    """Streams; rank 0 also plays the person."""
    import torch.distributed as dist

    steering._POLL_SECONDS = 0.0
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    corpus = mixstream.open_corpus(corpus_path)
    path = folder / "a.jsonl"
    loader = mixstream.Loader(
        corpus,
        weights_of(corpus, *FIRST),
        batch_size=3,
        run_log=path,
        steerable=True,
        steer_every=STEER_EVERY,
    )
    report, request = {"weights": []}, None
    by_hand = folder / "a.jsonl.requests" / "0.json"
    for step, _ in enumerate(loader):
        report["weights"].append(loader.weights.tolist())
        if step == ASKED_AFTER and rank == 0:
            request = request_weights(path, weights_of(corpus, *LATER), "a person says so")
            by_hand.write_text(json.dumps({"weights": {"web": 1}, "reason": ""}))
        if step + 1 == NUM_STEPS:
            break
    report["fingerprint"] = loader.fingerprint
    if request is not None:
        report["answer"], report["refused"] = read_answer(request), read_answer(by_hand)
    (folder / f"{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    one_rank(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
