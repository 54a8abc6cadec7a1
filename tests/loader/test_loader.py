"""What users do to a Loader: leave it, copy it, kill its workers, ask for its end."""

import copy
import gc
import itertools
import json
import operator
import os
import pickle
import random
import signal
import threading
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import mixstream
from mixstream.errors import ShardError, StateError, WeightsError
from tests.corpus.shards import write_domain, write_stock
from tests.loader.conftest import SEQ_LEN, contents_of, flat, rows_of, through_json, weights_of

WORKERS = [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]


def first(loader, num_steps):
    return [rows_of(batch) for _, batch in zip(range(num_steps), loader, strict=False)]


@pytest.fixture
def expected(corpus):
    """The rows of the first steps of a Loader of batch_size 6 with all defaults."""
    sampler = mixstream.MixSampler(corpus.layout)
    return [contents_of(corpus, sampler.take(6)) for _ in range(40)]


# batches


def test_a_batch_is_a_plain_dict_of_int64_tensors(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6)
    batch = next(iter(loader))
    assert type(batch) is dict
    assert list(batch) == ["input_ids", "domain_ids"]
    assert batch["input_ids"].shape == (6, SEQ_LEN)
    assert batch["domain_ids"].shape == (6,)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert rows_of(batch) == expected[0]
    assert loader.domains == corpus.domains


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_is_a_dataloader_that_carries_what_was_asked_for(corpus, num_workers):
    asked = {"labels": True, "position_ids": True, "cu_seqlens": True}
    loader = mixstream.Loader(corpus, batch_size=3, num_workers=num_workers, **asked)
    assert isinstance(loader, DataLoader)
    batch = next(iter(loader))
    assert list(batch) == ["input_ids", "domain_ids", *asked, "max_seqlen"]
    assert batch["cu_seqlens"][-1] == 3 * SEQ_LEN


@pytest.mark.parametrize("workers", WORKERS)
def test_batches_are_pinned_where_there_is_a_device_to_pin_them_for(corpus, expected, workers):
    loader = mixstream.Loader(corpus, batch_size=6, pin_memory=True, **workers)
    batch = next(iter(loader))
    assert batch["input_ids"].is_pinned() == torch.cuda.is_available()
    assert rows_of(batch) == expected[0]


@pytest.mark.parametrize("workers", WORKERS)
def test_iterating_leaves_the_global_random_numbers_alone(corpus, workers):
    loader = mixstream.Loader(corpus, batch_size=6, **workers)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 (users' code has it)
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first(loader, 3)
    loader.set_weights(weights_of(corpus, 1, 1, 1, 1, 1))
    loader.probe("web", 4)
    first(loader, 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.parametrize("seed", [0, 1, 99])
def test_the_global_seeds_do_not_move_the_order(corpus, expected, seed):
    torch.manual_seed(seed)
    assert first(mixstream.Loader(corpus, batch_size=6, num_workers=2), 2) == expected[:2]


# leaving the loop, and coming back


@pytest.mark.parametrize("workers", WORKERS)
def test_a_loop_that_was_left_goes_on_with_the_next_batch(corpus, expected, workers):
    loader = mixstream.Loader(corpus, batch_size=6, **workers)
    seen = []
    for _ in range(3):
        for step, batch in enumerate(loader):
            seen.append(rows_of(batch))
            if step == 2:
                break
    assert loader.step == 9
    assert seen == expected[:9]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_loop_body_costs_no_batch(corpus, expected, workers, error):
    loader = mixstream.Loader(corpus, batch_size=6, **workers)
    seen = []

    def body():
        for batch in loader:
            seen.append(rows_of(batch))
            if len(seen) % 3 == 0:
                raise error("of the body")

    for _ in range(2):
        with pytest.raises(error, match="of the body"):
            body()
    seen += first(loader, 2)
    assert seen == expected[:8]


@pytest.mark.parametrize("workers", WORKERS)
def test_an_older_iterator_is_refused_and_costs_no_batch(corpus, expected, workers):
    loader = mixstream.Loader(corpus, batch_size=6, **workers)
    old = iter(loader)
    seen = [rows_of(next(old))]
    new = iter(loader)
    with pytest.raises(StateError, match=r"go on with iter\(loader\)"):
        next(old)
    seen += [rows_of(next(new)), rows_of(next(new))]
    assert next(old, "over") == "over"
    seen.append(rows_of(next(new)))
    assert seen == expected[:4]


def test_making_iterators_without_using_them_draws_nothing(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6, num_workers=2)
    for _ in range(3):
        iter(loader)
    before = loader.state_dict()
    assert first(loader, 2) == expected[:2]
    assert before["batches"]["step"] == 0


def test_loops_within_loops_over_one_loader_end_in_an_error_not_in_lost_rows(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6)
    seen = []

    def nested():
        for outer in loader:
            seen.extend([rows_of(outer), *first(loader, 2)])
            assert len(seen) < 9, "the outer loop goes on"

    with pytest.raises(StateError, match="iterated again"):
        nested()
    assert loader.step == len(seen)
    assert seen == expected[: len(seen)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_loaders_over_one_corpus_do_not_know_each_other(corpus, expected, num_workers):
    loaders = [mixstream.Loader(corpus, batch_size=6, num_workers=num_workers) for _ in range(2)]
    web_alone = weights_of(corpus, 0, 0, 0, 0, 1)
    other = mixstream.Loader(corpus, web_alone, batch_size=6, num_workers=num_workers)
    iterators = [iter(loader) for loader in loaders]
    for step, batch in zip(range(4), other, strict=False):
        other.set_weights(web_alone)
        assert set(batch["domain_ids"].tolist()) == {corpus.domains.index("web")}
        for iterator in iterators:
            assert rows_of(next(iterator)) == expected[step]


def test_a_loader_may_be_read_in_another_thread(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6, num_workers=1)
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(first(loader, 5)))
    thread.start()
    thread.join(60)
    assert seen + first(loader, 1) == expected[:6]


# state


@pytest.mark.parametrize("workers", WORKERS)
def test_a_state_loaded_in_the_middle_of_a_loop_ends_that_loop(corpus, expected, workers):
    loader = mixstream.Loader(corpus, batch_size=6, **workers)
    state = through_json(loader.state_dict())
    seen = []

    def body():
        for batch in loader:
            seen.append(rows_of(batch))
            if len(seen) == 3:
                loader.load_state_dict(state)
            assert len(seen) < 9, "the loop goes on"

    with pytest.raises(StateError, match="loaded a state"):
        body()
    assert loader.step == 0
    assert first(loader, 4) == expected[:4]
    assert seen == expected[:3]


def test_a_loaded_state_brings_its_weights_and_plans(corpus):
    loader = mixstream.Loader(corpus, weights_of(corpus, 5, 4, 3, 2, 1), batch_size=6)
    first(loader, 2)
    loader.set_weights(weights_of(corpus, 1, 1, 1, 1, 1), at_step=4, reason="stage 2")
    resumed = mixstream.Loader(corpus, weights_of(corpus, 0, 0, 0, 0, 1), batch_size=6)
    assert resumed.fingerprint != loader.fingerprint
    resumed.load_state_dict(through_json(loader.state_dict()))
    assert (resumed.weights == loader.weights).all()
    assert resumed.fingerprint == loader.fingerprint
    assert first(resumed, 5) == first(loader, 5)
    assert resumed.state_dict() == loader.state_dict()


def test_a_state_goes_through_torch_save(corpus, expected, tmp_path):
    loader = mixstream.Loader(corpus, batch_size=6)
    first(loader, 3)
    torch.save({"data": loader.state_dict()}, tmp_path / "checkpoint.pt")
    resumed = mixstream.Loader(corpus, batch_size=6)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["data"])
    assert first(resumed, 2) == expected[3:5]


def test_a_state_goes_through_a_json_that_makes_1_of_1_point_0(corpus):
    def whole(value):
        if isinstance(value, dict):
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list):
            return [whole(each) for each in value]
        return int(value) if isinstance(value, float) and value in (0, 1) else value

    one = mixstream.Loader(corpus, weights_of(corpus, 1, 0, 0, 0, 0), batch_size=6)
    first(one, 2)
    other = mixstream.Loader(corpus, batch_size=6)
    other.load_state_dict(whole(one.state_dict()))
    assert first(other, 3) == first(one, 3)


def test_a_state_is_not_a_view_of_the_loader(corpus):
    loader = mixstream.Loader(corpus, batch_size=6)
    first(loader, 1)
    state = loader.state_dict()
    kept = json.dumps(state)
    first(loader, 5)
    loader.set_weights(weights_of(corpus, 1, 1, 1, 1, 1))
    assert json.dumps(state) == kept


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 5}, r"seed=0.*seed=5"),
        ({"num_canonical_nodes": 2}, r"num_canonical_nodes=1.*num_canonical_nodes=2"),
        ({"shuffle": False}, r"shuffle=True.*shuffle=False"),
        ({"sampling": "stratified"}, r"sampling='independent'.*sampling='stratified'"),
        ({"max_epochs": 3}, r"max_epochs=None.*max_epochs=\{"),
    ],
)
def test_a_state_of_other_settings_is_refused_with_both_values(corpus, expected, settings, said):
    state = mixstream.Loader(corpus, batch_size=6).state_dict()
    loader = mixstream.Loader(corpus, batch_size=6, **settings)
    iterator = iter(loader)
    next(iterator)
    before = loader.state_dict()
    with pytest.raises(StateError, match=said):
        loader.load_state_dict(state)
    assert loader.state_dict() == before
    next(iterator)  # and the loop goes on


def test_a_state_of_another_corpus_is_refused_with_both_fingerprints(corpus, other_corpus):
    state = mixstream.Loader(other_corpus, batch_size=6).state_dict()
    said = f"{other_corpus.fingerprint}.*{corpus.fingerprint}"
    with pytest.raises(StateError, match=said):
        mixstream.Loader(corpus, batch_size=6).load_state_dict(state)


@pytest.mark.parametrize("version", [None, 0, 3, "1"])
def test_a_state_of_another_version_is_refused_with_both(corpus, version):
    loader = mixstream.Loader(corpus, batch_size=6)
    state = loader.state_dict() | {"version": version}
    with pytest.raises(StateError, match=f"version {version!r}.* version 1"):
        loader.load_state_dict(state)


def test_what_is_no_state_is_refused(corpus):
    loader = mixstream.Loader(corpus, batch_size=6)
    for state in ({}, None, loader.batches.state_dict()):
        with pytest.raises(StateError, match="no 'version' in the loader's state"):
            loader.load_state_dict(state)
    state = loader.state_dict()
    damaged = {**state, "batches": {**state["batches"], "step": "x"}}
    with pytest.raises(StateError, match=f"id {state['id']} and now has .* lost or changed"):
        loader.load_state_dict(damaged)
    damaged["batches"]["sampler"] = {"counts": np.zeros(3)}
    with pytest.raises(StateError, match="ndarray is not JSON serializable, in the loader's state"):
        loader.load_state_dict(damaged)
    damaged["batches"]["sampler"] = state["batches"]["sampler"]
    del damaged["id"]  # as of a mixstream that wrote none
    with pytest.raises(StateError, match="the state's step is 'x'"):
        loader.load_state_dict(damaged)


# weights


def test_weights_may_be_a_mapping_a_list_an_array_or_a_tensor(corpus):
    numbers = [1.0, 2.0, 4.0, 0.0, 8.0, 1.0]
    expected = np.array(numbers) / sum(numbers)
    ways = [
        dict(zip(corpus.domains, numbers, strict=True)),
        dict(reversed(list(zip(corpus.domains, numbers, strict=True)))),
        numbers,
        tuple(numbers),
        np.array(numbers),
        np.array(numbers, np.float16),
        torch.tensor(numbers),
        torch.tensor(numbers, dtype=torch.float64),
        torch.tensor(numbers, dtype=torch.bfloat16),
        torch.tensor(numbers, requires_grad=True),
        torch.tensor(numbers).int(),
        torch.nn.Parameter(torch.tensor(numbers)),
        {name: torch.tensor(w) for name, w in zip(corpus.domains, numbers, strict=True)},
    ]
    fingerprints = set()
    for weights in ways:
        loader = mixstream.Loader(corpus, weights, batch_size=2)
        assert loader.weights == pytest.approx(expected, abs=0)
        other = mixstream.Loader(corpus, batch_size=2)
        assert other.set_weights(weights).weights == pytest.approx(expected, abs=0)
        fingerprints |= {loader.fingerprint, other.fingerprint}
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"web": 1.0}, "'books' is missing"),
        ([1, 1, 1, 0, 1], r"shape \(5,\)"),
        (np.array([[1, 1, 1, 0, 1, 1]]), r"shape \(1, 6\)"),
        ([1, 1, 1, 1, 1, 1], "'none'.* holds no rows"),
        ([0, 0, 0, 0, 0, 0], "all weights"),
        ([1, 1, 1, 0, 1, -1], "'web'.* -1.0"),
        (torch.tensor([1, 1, 1, 0, 1, float("nan")]), "'web'.* nan"),
        (np.array([1, 1, 1, 0, 1, np.inf]), "'web'.* inf"),
        (None, "None, which is not one number a domain"),
        ("uniform", "not one number a domain"),
    ],
)
def test_weights_that_are_none_leave_the_old_ones(corpus, expected, weights, said):
    loader = mixstream.Loader(corpus, batch_size=6)
    assert first(loader, 1) == expected[:1]
    before = loader.state_dict(), loader.fingerprint
    for at_step in (None, 3):
        with pytest.raises(WeightsError, match=said):
            loader.set_weights(weights, at_step=at_step)
    assert (loader.state_dict(), loader.fingerprint) == before
    assert first(loader, 4) == expected[1:5]


def test_unknown_domains_are_named_with_those_that_exist(corpus):
    with pytest.raises(WeightsError, match=r"'wbe'.*books, code, maths, none, tiny, web"):
        mixstream.Loader(corpus, {"wbe": 1.0}, batch_size=6)


def test_the_weights_of_a_loader_are_a_copy(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6)
    loader.weights[:] = 0
    assert first(loader, 3) == expected[:3]


def test_a_caller_may_write_to_the_vector_that_it_gave(corpus):
    vector = weights_of(corpus, 0, 0, 0, 0, 1.0)
    loader = mixstream.Loader(corpus, vector, batch_size=6)
    loader.set_weights(vector, at_step=2)
    vector[:] = [1, 0, 0, 0, 0, 0]
    web = corpus.domains.index("web")
    assert {domain for rows in first(loader, 4) for domain, _ in rows} == {web}


# the end of a run


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("on_exhausted", ["stop", "redistribute"])
def test_a_run_ends_before_the_first_batch_that_is_not_whole(corpus, workers, on_exhausted):
    settings = {"max_epochs": 1, "on_exhausted": on_exhausted}
    loader = mixstream.Loader(corpus, batch_size=25, **settings, **workers)
    sampler = mixstream.MixSampler(corpus.layout, **settings)
    rows = contents_of(corpus, sampler.take(10_000))
    seen = [rows_of(batch) for batch in loader]
    assert {len(batch) for batch in seen} == {25}
    assert flat(seen) == rows[: len(rows) // 25 * 25]
    if on_exhausted == "redistribute":
        assert len(rows) == corpus.num_rows.sum()
    state = through_json(loader.state_dict())
    assert state["batches"]["step"] == len(seen)
    assert state["batches"]["sampler"]["row"] == 25 * len(seen)
    assert list(loader) == [], "and it has ended for good"
    assert loader.state_dict() == state


@pytest.mark.parametrize("workers", WORKERS)
def test_a_stopped_run_goes_on_with_other_weights(corpus, workers):
    loader = mixstream.Loader(
        corpus,
        weights_of(corpus, 0, 0, 0, 1, 0),
        batch_size=2,
        max_epochs={"tiny": 4},
        on_exhausted="stop",
        **workers,
    )
    tiny, web = corpus.domains.index("tiny"), corpus.domains.index("web")
    assert [batch["domain_ids"].tolist() for batch in loader] == [[tiny] * 2] * 4
    change = loader.set_weights(weights_of(corpus, 0, 0, 0, 0, 1))
    assert (change.at_step, change.at_row, change.num_batches_in_flight) == (4, 8, 0)
    domains = [batch["domain_ids"].tolist() for _, batch in zip(range(9), loader, strict=False)]
    assert domains == [[web] * 2] * 9


@pytest.mark.parametrize("workers", WORKERS)
def test_weights_given_while_the_last_batches_are_in_flight_keep_the_loop_going(corpus, workers):
    loader = mixstream.Loader(
        corpus,
        weights_of(corpus, 0, 0, 0, 1, 0),
        batch_size=2,
        max_epochs={"tiny": 4},
        on_exhausted="stop",
        **workers,
    )
    tiny, web = corpus.domains.index("tiny"), corpus.domains.index("web")
    domains = []
    for step, batch in enumerate(loader):
        domains.append(batch["domain_ids"].unique().tolist())
        if step == 2:
            change = loader.set_weights(weights_of(corpus, 0, 0, 0, 0, 1))
            assert change.at_step == (4 if workers else 3)
        if step == 6:
            break
    assert domains == [[tiny]] * change.at_step + [[web]] * (7 - change.at_step)


@pytest.mark.parametrize("workers", WORKERS)
def test_an_exhausted_domain_raises_after_the_same_batch_with_and_without_workers(corpus, workers):
    loader = mixstream.Loader(
        corpus,
        weights_of(corpus, 1, 1, 1, 1, 1),
        batch_size=2,
        max_epochs={"tiny": 3},
        on_exhausted="raise",
        **workers,
    )
    sampler = mixstream.MixSampler(
        corpus.layout,
        weights_of(corpus, 1, 1, 1, 1, 1),
        max_epochs={"tiny": 3},
        on_exhausted="stop",
    )
    rows = contents_of(corpus, sampler.take(10_000))
    seen = []
    with pytest.raises(WeightsError, match=f"'tiny' has reached.* before row {len(rows)}"):
        seen.extend(rows_of(batch) for batch in loader)
    assert flat(seen) == rows[: len(rows) // 2 * 2]
    assert loader.step == len(seen)
    with pytest.raises(WeightsError, match="'tiny'"):
        next(iter(loader))
    loader.set_weights(weights_of(corpus, 1, 1, 1, 0, 1))
    assert len(first(loader, 9)) == 9


def test_a_loop_that_has_ended_leaves_no_worker_behind(corpus):
    loader = mixstream.Loader(
        corpus, batch_size=30, max_epochs=1, on_exhausted="stop", num_workers=2
    )
    list(loader)
    gc.collect()
    assert torch.multiprocessing.active_children() == []


# what users will try


def test_a_loader_has_no_length_and_says_why(corpus):
    loader = mixstream.Loader(corpus, batch_size=6)
    with pytest.raises(TypeError, match=r"no length.*max_steps"):
        len(loader)
    assert operator.length_hint(loader, 7) == 7, "list() and tqdm() ask so"
    assert len(list(zip(range(3), loader, strict=False))) == 3


def test_slices_of_a_loader_come_from_itertools(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6)
    assert [rows_of(batch) for batch in itertools.islice(loader, 3)] == expected[:3]
    assert [rows_of(batch) for batch in itertools.islice(loader, 2)] == expected[3:5]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))]
)
def test_a_copy_goes_its_own_way_from_the_same_place(corpus, expected, copied):
    loader = mixstream.Loader(corpus, batch_size=6)
    first(loader, 2)
    twin = copied(loader)
    loader.set_weights(weights_of(corpus, 0, 0, 0, 0, 1))
    first(loader, 3)
    assert twin.step == 2
    assert first(twin, 3) == expected[2:5]
    assert loader.step == twin.step == 5
    assert loader.fingerprint != twin.fingerprint


def test_a_copy_made_with_batches_in_flight_goes_on_after_the_delivered_one(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6, num_workers=2)
    iterator = iter(loader)
    next(iterator)
    twin = pickle.loads(pickle.dumps(loader))
    assert first(twin, 2) == expected[1:3]
    assert rows_of(next(iterator)) == expected[1]


@pytest.mark.parametrize("workers", [{"num_workers": 2}, {"num_workers": 1, "prefetch_factor": 1}])
def test_more_batches_in_flight_than_rows_in_the_corpus_are_no_trouble(corpus, workers):
    tiny = weights_of(corpus, 0, 0, 0, 1, 0)
    loader = mixstream.Loader(corpus, tiny, batch_size=5, **workers)
    rows = flat(first(loader, 4))
    assert len(rows) == 20
    assert len(set(rows)) == 2
    assert all(rows[i] != rows[i + 1] for i in range(0, 20, 2)), "each epoch has both rows"


def test_a_thousand_batches_in_flight_keep_their_places(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6, num_workers=1, prefetch_factor=1500)
    assert first(loader, 2) == expected[:2]
    assert loader.state_dict()["batches"]["step"] == 2
    assert first(loader, 1) == expected[2:3]


def test_a_batch_may_be_larger_than_the_corpus(corpus):
    num_rows = int(corpus.num_rows.sum())
    loader = mixstream.Loader(corpus, batch_size=3 * num_rows, sampling="stratified")
    for rows in first(loader, 2):
        counts = np.bincount([domain for domain, _ in rows], minlength=len(corpus.domains))
        assert (np.abs(counts - 3 * corpus.num_rows) <= 1).all()
    capped = mixstream.Loader(corpus, batch_size=num_rows + 1, max_epochs=1)
    assert list(capped) == []


def test_a_corpus_of_one_domain_and_one_row_is_a_corpus(tmp_path):
    write_domain(tmp_path / "only", np.array([[1, 2, 3]], np.uint16))
    corpus = mixstream.open_corpus(tmp_path / "only")
    for sampling in ("independent", "stratified"):
        loader = mixstream.Loader(corpus, batch_size=2, sampling=sampling, num_canonical_nodes=4)
        batch = next(iter(loader))
        assert batch["input_ids"].tolist() == [[1, 2, 3]] * 2
        loader.set_weights({"only": 17})
        assert loader.weights.tolist() == [1.0]
        assert loader.probe("only", 3)["input_ids"].tolist() == [[1, 2, 3]] * 3


def test_a_domain_without_rows_is_there_and_never_drawn(corpus):
    loader = mixstream.Loader(corpus, batch_size=50)
    none = corpus.domains.index("none")
    assert loader.weights[none] == 0
    seen = {domain for rows in first(loader, 10) for domain, _ in rows}
    assert seen == set(range(len(corpus.domains))) - {none}
    with pytest.raises(WeightsError, match="'none'"):
        loader.set_weights(dict.fromkeys(corpus.domains, 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 1}, "give both, or neither"),
        ({"world_size": 2}, "give both, or neither"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"sampling": "random"}, "sampling is 'random'"),
        ({"on_exhausted": "stop"}, "no effect without max_epochs"),
        ({"max_epochs": {"wbe": 1}}, "unknown domain 'wbe'"),
        ({"prefetch_factor": 2}, "prefetch_factor"),
        ({"persistent_workers": True}, "persistent_workers"),
        ({"multiprocessing_context": "fork"}, "multiprocessing_context"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_at_once(corpus, settings, said):
    with pytest.raises(ValueError, match=said):
        mixstream.Loader(corpus, **{"batch_size": 6} | settings)


# workers


def test_a_damaged_shard_raises_in_the_loop_and_the_batch_can_be_asked_for_again(tmp_path):
    rows = np.arange(80).reshape(20, 4)
    write_domain(tmp_path / "d", rows.astype(np.uint16))
    corpus = mixstream.open_corpus(tmp_path / "d")
    for num_workers in (0, 2):
        shard = tmp_path / "d" / "shard.00002.mds"
        whole = shard.read_bytes()
        shard.unlink()
        corpus = mixstream.open_corpus(tmp_path / "d")
        loader = mixstream.Loader(corpus, batch_size=5, shuffle=False, num_workers=num_workers)
        seen = []
        with pytest.raises(ShardError, match=r"shard\.00002\.mds"):
            seen.extend(batch["input_ids"][:, 0].tolist() for batch in loader)
        assert len(seen) == loader.step == 2, "two batches lie before the hole"
        shard.write_bytes(whole)
        seen += [b["input_ids"][:, 0].tolist() for _, b in zip(range(2), loader, strict=False)]
        assert flat(seen) == list(range(0, 80, 4))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_is_an_error_and_the_next_loop_goes_on(corpus, expected, sent):
    loader = mixstream.Loader(corpus, batch_size=6, num_workers=2)
    seen = []

    def body():
        for batch in loader:
            seen.append(rows_of(batch))
            if len(seen) == 2:
                for worker in torch.multiprocessing.active_children():
                    os.kill(worker.pid, sent)

    with pytest.raises(mixstream.WorkerError, match=f"exit code -{sent.value}"):
        body()
    assert loader.step == len(seen)
    seen += first(loader, 2)
    assert seen == expected[: len(seen)]


@pytest.mark.slow
def test_a_stock_dataloader_with_spawned_workers_needs_no_collate_fn(corpus, expected):
    batches = mixstream.MixBatchSampler(mixstream.MixSampler(corpus.layout), 6)
    stock = DataLoader(
        mixstream.RowDataset(corpus),
        batch_sampler=batches,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    assert first(stock, 2) == expected[:2]


# probes


def test_probes_never_move_the_order(corpus, expected):
    loader = mixstream.Loader(corpus, batch_size=6)
    seen = []
    for batch in loader:
        seen.append(rows_of(batch))
        before = loader.state_dict(), loader.fingerprint
        for domain in ("web", "tiny", 0):
            loader.probe(domain, 3)
        assert (loader.state_dict(), loader.fingerprint) == before
        if len(seen) == 5:
            break
    assert seen == expected[:5]


def test_a_probe_is_a_function_of_seed_step_rank_and_draw(corpus):
    def probed(*, seed=0, steps=1, rank=0, num_workers=0, batch_size=6, draw=0, iterating=False):
        loader = mixstream.Loader(
            corpus,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=12 // batch_size,
            num_workers=num_workers,
        )
        iterator = iter(loader)
        for _ in range(steps):
            next(iterator)
        return rows_of(loader.probe("web", 20, draw=draw))

    one = probed()
    assert one == probed() == probed(num_workers=2) == probed(batch_size=4)
    others = [probed(**{name: 1}) for name in ("seed", "rank", "draw")] + [probed(steps=2)]
    for other in others:
        assert other != one
        assert len(set(other) & set(one)) < 15


def test_probes_of_all_ranks_together_have_distinct_rows_of_the_domain(corpus):
    num_rows = int(corpus.num_rows[corpus.domains.index("books")])
    rows = []
    for rank in range(4):
        loader = mixstream.Loader(corpus, batch_size=3, rank=rank, world_size=4)
        rows += rows_of(loader.probe("books", num_rows // 4))
    assert len(rows) == len(set(rows)) == num_rows // 4 * 4
    assert {domain for domain, _ in rows} == {corpus.domains.index("books")}


def test_a_probe_of_more_rows_than_there_are_starts_anew(corpus):
    loader = mixstream.Loader(corpus, batch_size=3)
    rows = rows_of(loader.probe("tiny", 5))
    assert rows[:2] == rows[2:4]
    assert rows[4] == rows[0]
    assert len(set(rows)) == 2


def test_a_probe_takes_names_and_indices_and_gives_whole_batches(corpus):
    loader = mixstream.Loader(corpus, batch_size=3, labels=True, position_ids=True)
    index = corpus.domains.index("maths")
    by_name = loader.probe("maths", 4)
    for given in (index, np.int32(index)):
        assert rows_of(loader.probe(given, 4)) == rows_of(by_name)
    assert list(by_name) == ["input_ids", "domain_ids", "labels", "position_ids"]
    assert loader.probe("maths", 0)["input_ids"].shape == (0, SEQ_LEN)


@pytest.mark.parametrize(
    ("domain", "said"), [("wbe", "'wbe'.*web"), ("none", "no rows"), (-1, "-1"), (6, "6 of 6")]
)
def test_a_probe_of_no_domain_is_a_weights_error(corpus, domain, said):
    with pytest.raises(WeightsError, match=said):
        mixstream.Loader(corpus, batch_size=3).probe(domain, 4)


@pytest.mark.parametrize("wrong", [{"num_rows": -1}, {"num_rows": 1, "draw": -1}])
def test_a_probe_of_negative_counts_is_refused(corpus, wrong):
    with pytest.raises(ValueError, match="at least 0"):
        mixstream.Loader(corpus, batch_size=3).probe("web", **wrong)


# corpora that others wrote


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Three folders of the stock writer, and the rows that went into them."""
    folder = tmp_path_factory.mktemp("foreign")
    encodings = {"u16": (np.uint16, "ndarray:uint16:24"), "i64": (np.int64, "ndarray:int64:24")}
    encodings["foundry"] = (np.int64, "bytes")
    rows = {}
    for seed, (name, (dtype, encoding)) in enumerate(encodings.items()):
        numbers = np.random.default_rng(seed).integers(0, 50_000, (30 + seed, 24))
        rows[name] = numbers.astype(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # streaming's own imports
            write_stock(folder / name, rows[name], {"tokens": encoding}, size_limit=1000)
    return {name: folder / name for name in rows}, rows


@pytest.mark.parametrize("names", [["u16"], ["i64"], ["foundry"], ["u16", "i64", "foundry"]])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_corpora_of_the_stock_writer_stream_as_their_source_rows(foreign, names, num_workers):
    folders, rows = foreign
    corpus = mixstream.open_corpus({name: folders[name] for name in names})
    assert corpus.domains == tuple(names)
    assert all(len(shards) > 1 for shards in corpus.layout.values())
    loader = mixstream.Loader(corpus, batch_size=1, max_epochs=1, num_workers=num_workers)
    seen = {name: [] for name in names}
    for batch in loader:
        seen[names[batch["domain_ids"].item()]].append(batch["input_ids"][0].tolist())
    for name in names:
        assert sorted(seen[name]) == sorted(rows[name].tolist())


def test_foreign_rows_come_in_the_writers_order_without_shuffling(foreign):
    folders, rows = foreign
    corpus = mixstream.open_corpus({"foundry": folders["foundry"]})
    loader = mixstream.Loader(corpus, batch_size=8, shuffle=False, labels=True)
    batches = [batch for _, batch in zip(range(4), loader, strict=False)]
    ids = torch.cat([batch["input_ids"] for batch in batches]).tolist()
    assert ids == rows["foundry"].tolist()
    assert all((batch["labels"][:, :-1] == batch["input_ids"][:, 1:]).all() for batch in batches)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_change_that_flushes_is_felt_by_the_next_batch_and_loses_no_row(corpus, workers):
    first_weights, then = weights_of(corpus, 5, 1, 1, 1, 9), weights_of(corpus, 1, 2, 3, 4, 5)
    loader = mixstream.Loader(corpus, first_weights, batch_size=4, seed=3, **workers)
    twin = mixstream.Loader(corpus, first_weights, batch_size=4, seed=3)
    seen, expected = [], []
    for batch in loader:
        seen.append(rows_of(batch))
        if loader.step in (3, 4, 9):
            change = loader.set_weights(then, flush=True)
            assert (change.at_step, change.num_batches_in_flight) == (loader.step, 0)
        if loader.step == 14:
            break
    for batch in twin:
        expected.append(rows_of(batch))
        if twin.step == 3:
            twin.set_weights(then)
        if twin.step == 14:
            break
    assert seen == expected
    assert loader.state_dict() == twin.state_dict()


def plus_noise(batch):
    return batch | {"noise": torch.rand(2), "twice": batch["input_ids"] * 2}


@pytest.mark.parametrize("workers", [*WORKERS, {"num_workers": 1, "persistent_workers": True}])
def test_a_transform_is_called_on_every_batch_wherever_it_is_made(corpus, workers):
    loader = mixstream.Loader(corpus, batch_size=4, seed=3, transform=plus_noise, **workers)
    plain = mixstream.Loader(corpus, batch_size=4, seed=3)
    for _, batch, other in zip(range(5), loader, plain, strict=False):
        assert torch.equal(batch["input_ids"], other["input_ids"])
        assert torch.equal(batch["twice"], 2 * other["input_ids"])
        assert batch["noise"].shape == (2,)


def test_a_transforms_random_numbers_do_not_depend_on_the_worker(corpus):
    runs = []
    for num_workers in (1, 2):
        loader = mixstream.Loader(
            corpus, batch_size=4, seed=3, transform=plus_noise, num_workers=num_workers
        )
        runs.append([b["noise"].tolist() for _, b in zip(range(6), loader, strict=False)])
    assert runs[0] == runs[1]


def test_document_ids_come_on_request(corpus):
    batch = next(iter(mixstream.Loader(corpus, batch_size=4, document_ids=True)))
    assert batch["document_ids"].shape == batch["input_ids"].shape


@pytest.mark.parametrize("num_workers", [0, 1])
def test_native_ids_are_the_same_ids_as_they_are_stored(corpus, num_workers):
    asked = {"batch_size": 4, "seed": 5, "labels": True}
    wide = mixstream.Loader(corpus, **asked)
    native = mixstream.Loader(corpus, **asked, native=True, num_workers=num_workers)
    for _, one, other in zip(range(4), wide, native, strict=False):
        assert other["input_ids"].dtype == torch.from_numpy(np.empty(0, corpus.dtype)).dtype
        assert other["input_ids"].dtype != torch.int64
        assert torch.equal(other["input_ids"].long(), one["input_ids"])
        assert torch.equal(other["labels"], one["labels"]), "what a loss compares with stays int64"


@pytest.mark.parametrize("asked", [{}, {"native": True}, {"labels": True, "cu_seqlens": True}])
def test_rows_gathered_for_coming_steps_are_given_up_whenever_somebody_moves_the_order(
    corpus, asked
):
    def rows(batch):
        return [(name, value.tolist()) for name, value in batch.items()]

    loader = mixstream.Loader(corpus, batch_size=3, seed=3, **asked)
    steps, moves = random.Random(1), ["weights", "plan", "rewind"]
    seen, drawn = [], mixstream.MixSampler(corpus.layout, seed=3)
    for place, batch in enumerate(loader):
        assert place == len(seen)
        addresses = drawn.take(3)
        seen.append(rows(batch))
        assert seen[-1] == rows(mixstream.RowDataset(corpus, **asked).batch(addresses))
        if place == 300:
            break
        if steps.random() < 0.1:
            move = steps.choice(moves)
            weights = weights_of(corpus, *(steps.random() for _ in range(5)))
            if move == "weights":
                loader.set_weights(weights)
                drawn.set_weights(weights)
            elif move == "plan":
                loader.set_weights(weights, at_step=loader.step + 7)
                drawn.set_weights(weights, at_row=drawn.row + 21)
            else:  # a place of its own, to which it returns
                mark = loader.batches.sampler.mark()
                loader.batches.sampler.take(5)
                loader.batches.sampler.rewind(mark)
    assert drawn.state_dict() == loader.state_dict()["batches"]["sampler"]


def test_a_gather_for_coming_steps_waits_for_no_shard_but_those_of_this_one(tmp_path):
    rows = np.arange(64, dtype=np.uint16).reshape(64, 1) * np.ones(SEQ_LEN, np.uint16)
    write_domain(tmp_path / "web", rows, rows_per_shard=8)
    corpus = mixstream.open_corpus(tmp_path / "web")
    loader = mixstream.Loader(corpus, batch_size=1, shuffle=False, shards_ahead=0)
    for step, _ in zip(range(20), loader, strict=False):
        assert corpus.pool.num_maps == step // 8 + 1


def test_a_batch_is_of_its_own_addresses_even_if_somebody_else_draws_a_step(corpus):
    loader = mixstream.Loader(corpus, batch_size=3, seed=3)
    drawn = mixstream.MixSampler(corpus.layout, seed=3)
    for place, batch in zip(range(80), loader, strict=False):
        assert rows_of(batch) == contents_of(corpus, drawn.take(3))
        if place % 20 == 19:
            next(iter(loader.batches))
            drawn.take(3)


def test_counts_that_are_told_cannot_be_written_to(corpus):
    loader = mixstream.Loader(corpus, batch_size=3)
    next(iter(loader))
    for counts in (loader.batches.counts(1), loader.batches.sampler.mark().counts):
        with pytest.raises(ValueError, match="read-only"):
            counts += 1


def test_a_copy_holds_no_step_that_is_not_drawn(corpus):
    loader = mixstream.Loader(corpus, batch_size=8)
    for _ in zip(range(300), loader, strict=False):
        pass
    assert len(pickle.dumps(loader.batches)) < 20_000
