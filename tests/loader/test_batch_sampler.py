import itertools
import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

import mixstream
from mixstream.arrays import ADDRESS
from mixstream.errors import StateError, StepError, WeightsError
from tests.loader.conftest import contents_of, rows_of, weights_of

LAYOUT = {"web": np.array([40, 40, 20]), "code": np.array([30, 7]), "none": np.array([0])}


def make_batches(batch_size=4, *, rank=0, world_size=1, weights=None, **settings):
    own = {name: settings.pop(name) for name in ("max_marks",) if name in settings}
    sampler = mixstream.MixSampler(LAYOUT, weights, **settings)
    return mixstream.MixBatchSampler(sampler, batch_size, rank=rank, world_size=world_size, **own)


def first(batches, num_steps):
    return [batch.tolist() for batch in itertools.islice(iter(batches), num_steps)]


def test_a_batch_is_one_array_of_addresses():
    batch = next(iter(make_batches(5)))
    assert isinstance(batch, np.ndarray)
    assert (batch.dtype, batch.shape) == (ADDRESS, (5,))


def test_the_batches_of_one_rank_are_the_takes_of_the_sampler():
    sampler = mixstream.MixSampler(LAYOUT)
    assert first(make_batches(6), 8) == [sampler.take(6).tolist() for _ in range(8)]


@pytest.mark.parametrize("num_canonical_nodes", [1, 2, 3, 4, 7])
def test_ranks_share_out_each_global_batch(num_canonical_nodes):
    order = {"num_canonical_nodes": num_canonical_nodes}
    ranks = [first(make_batches(3, rank=r, world_size=4, **order), 9) for r in range(4)]
    whole = first(make_batches(12, **order), 9)
    for step in range(9):
        assert sorted(row for rank in ranks for row in rank[step]) == sorted(whole[step])


@pytest.mark.parametrize(
    ("batch_size", "rank", "world_size", "said"),
    [
        (0, 0, 1, "batch_size is 0"),
        (-3, 0, 1, "batch_size is -3"),
        (1, 1, 1, "rank is 1 with world_size 1"),
        (1, -1, 4, "rank is -1"),
        (1, 0, 0, "world_size 0"),
    ],
)
def test_sizes_that_make_no_batch_are_refused(batch_size, rank, world_size, said):
    with pytest.raises(ValueError, match=said):
        make_batches(batch_size, rank=rank, world_size=world_size)


@pytest.mark.parametrize("sizes", [{"batch_size": 2.5}, {"rank": 0.0}, {"world_size": "1"}])
def test_sizes_that_are_no_integers_are_refused(sizes):
    with pytest.raises(TypeError, match="integer"):
        make_batches(**{"batch_size": 2} | sizes)


@pytest.mark.parametrize("name", ["batch_size", "rank", "world_size"])
def test_sizes_cannot_be_changed_behind_the_back_of_batches_computed_ahead(name):
    batches = make_batches(4)
    first(batches, 3)
    with pytest.raises(AttributeError):
        setattr(batches, name, 2)


def test_two_batch_samplers_may_take_turns_at_one_sampler():
    sampler, whole = mixstream.MixSampler(LAYOUT), mixstream.MixSampler(LAYOUT)
    iterators = [iter(mixstream.MixBatchSampler(sampler, size)) for size in (3, 5)]
    for turn in (0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 1):
        assert next(iterators[turn]).tolist() == whole.take((3, 5)[turn]).tolist()


def test_a_sampler_steered_or_moved_by_its_owner_is_heeded_by_the_next_batch():
    batches = make_batches(4, weights={"web": 1, "code": 0, "none": 0})
    first(batches, 5)
    batches.sampler.set_weights({"web": 0, "code": 1, "none": 0})
    assert {domain for domain, _ in first(batches, 1)[0]} == {1}
    whole = mixstream.MixSampler(LAYOUT, {"web": 1, "code": 0, "none": 0})
    whole.take(20)
    whole.set_weights({"web": 0, "code": 1, "none": 0})
    whole.take(4 + 7)
    batches.sampler.take(7)
    assert first(batches, 1) == [whole.take(4).tolist()]


def test_a_plain_loop_saves_its_own_count_of_steps():
    batches = make_batches(4)
    iterator = iter(batches)
    drawn = [next(iterator).tolist() for _ in range(10)]
    state = json.loads(json.dumps(batches.state_dict(step=6)))  # four are in flight
    resumed = make_batches(4)
    resumed.load_state_dict(state)
    assert resumed.step == 6
    assert first(resumed, 4) == drawn[6:]
    assert batches.state_dict() == batches.state_dict(step=10)


def test_a_plain_loop_goes_back_to_what_was_delivered():
    batches = make_batches(4)
    drawn = first(batches, 10)
    batches.rewind(6)
    assert batches.step == 6
    assert first(batches, 4) == drawn[6:]
    with pytest.raises(StepError, match="no place is kept for step 11"):
        batches.rewind(11)


def test_places_given_up_are_refused_and_the_others_stay():
    batches = make_batches(4)
    drawn = first(batches, 5)
    batches.forget(3)
    with pytest.raises(StepError, match=r"step 2; there is one for each of the steps 3 to 5"):
        batches.state_dict(step=2)
    batches.rewind(3)
    assert first(batches, 2) == drawn[3:]


def test_no_more_places_are_kept_than_were_asked_for():
    batches = make_batches(4, max_marks=3)
    first(batches, 50)
    assert batches.state_dict(step=48)["step"] == 48
    with pytest.raises(StepError, match="steps 48 to 50"):
        batches.state_dict(step=47)


def test_changes_keep_their_steps_when_a_loop_goes_back():
    weights = {"web": 1, "code": 0, "none": 0}
    batches = make_batches(4, weights=weights)
    first(batches, 6)
    change = batches.set_weights({"web": 0, "code": 1, "none": 0})
    assert (change.at_step, change.at_row) == (6, 24)
    later = batches.set_weights(weights, at_step=8)
    assert (later.at_step, later.at_row) == (8, 32)
    batches.rewind(4)
    domains = [{domain for domain, _ in batch} for batch in first(batches, 6)]
    assert domains == [{0}, {0}, {1}, {1}, {0}, {0}]


def test_iterating_again_goes_on_with_the_next_undrawn_step():
    batches, whole = make_batches(4), make_batches(4)
    assert first(batches, 3) + first(batches, 3) == first(whole, 6)


@pytest.mark.parametrize("on_exhausted", ["stop", "redistribute"])
def test_the_end_of_the_domains_ends_the_iteration_without_a_partial_batch(on_exhausted):
    batches = make_batches(10, max_epochs=1, on_exhausted=on_exhausted)
    drawn = first(batches, 100)
    assert {len(batch) for batch in drawn} == {10}
    if on_exhausted == "redistribute":
        assert len(drawn) == 13, "of 137 rows"
    rows = [row for batch in drawn for row in batch]
    assert len(set(rows)) == len(rows)
    assert batches.state_dict()["sampler"]["row"] == len(rows)
    assert not batches.has_next()
    assert first(batches, 1) == []


def test_an_exhausted_domain_raises_again_and_again_until_the_weights_change():
    batches = make_batches(10, max_epochs={"code": 1}, on_exhausted="raise")
    drawn = []
    with pytest.raises(WeightsError, match="'code' has reached its max_epochs of 1"):
        drawn.extend(batches)
    assert batches.step == len(drawn)
    with pytest.raises(WeightsError, match="'code'"):
        next(iter(batches))
    with pytest.raises(WeightsError, match="'code'"):
        batches.has_next()
    batches.set_weights({"web": 1, "code": 0, "none": 0})
    assert batches.has_next()
    assert {domain for domain, _ in first(batches, 1)[0]} == {0}


def test_asking_for_the_next_batch_draws_nothing():
    asked, silent = make_batches(4), make_batches(4)
    iterator = iter(asked)
    drawn = []
    for _ in range(5):
        assert asked.has_next()
        drawn.append(next(iterator).tolist())
    assert drawn == first(silent, 5)
    assert asked.state_dict() == silent.state_dict()


def test_a_state_of_another_layout_or_seed_is_refused():
    state = make_batches().state_dict()
    other = mixstream.MixBatchSampler(mixstream.MixSampler({"web": np.array([3])}), 4)
    with pytest.raises(StateError, match="layout"):
        other.load_state_dict(state)
    with pytest.raises(StateError, match=r"seed=0.*seed=5"):
        make_batches(seed=5).load_state_dict(state)


@pytest.mark.parametrize("collate_fn", [None, default_collate])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stock_dataloader_over_the_two_halves_gives_the_batches_of_the_loader(
    corpus, num_workers, collate_fn
):
    weights = weights_of(corpus, 1, 2, 3, 4, 5)
    sampler = mixstream.MixSampler(corpus.layout, weights, seed=17)
    batches = mixstream.MixBatchSampler(sampler, batch_size=8, rank=1, world_size=2)
    extras = {"labels": True, "position_ids": True, "cu_seqlens": True}
    stock = DataLoader(
        mixstream.RowDataset(corpus, **extras),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate_fn,
    )
    loader = mixstream.Loader(
        corpus, weights, batch_size=8, seed=17, rank=1, world_size=2, **extras
    )
    for _, theirs, ours in zip(range(6), stock, loader, strict=False):
        assert type(theirs) is dict
        assert list(theirs) == list(ours)
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_stock_dataloader_run_resumes_from_its_count_of_steps(corpus):
    def make():
        sampler = mixstream.MixSampler(corpus.layout, seed=3)
        batches = mixstream.MixBatchSampler(sampler, batch_size=8)
        return batches, DataLoader(
            mixstream.RowDataset(corpus), batch_sampler=batches, num_workers=2
        )

    batches, stock = make()
    seen = []
    for step, batch in enumerate(stock):
        seen.append(rows_of(batch))
        if step == 2:
            state = json.loads(json.dumps(batches.state_dict(step + 1)))
            assert batches.step == 7, "four are in flight"
        if step == 5:
            break
    batches, stock = make()
    batches.load_state_dict(state)
    resumed = [rows_of(batch) for _, batch in zip(range(3), stock, strict=False)]
    assert resumed == seen[3:]
    expected = mixstream.MixSampler(corpus.layout, seed=3).take(8)
    assert seen[0] == contents_of(corpus, expected)


def test_the_steps_that_are_computed_are_those_that_come():
    batches = make_batches(4, rank=1, world_size=2, weights=[0.5, 0.5, 0])
    steps, told = [], {}
    for step, batch in zip(range(60), batches, strict=False):
        steps.append(batch.tolist())
        told[step] = batches.computed(12).tolist()
    assert all(len(found) <= 12 and found[:4] == steps[step] for step, found in told.items())
    assert {len(found) for found in told.values()} == {4, 8, 12}
    for step, found in told.items():
        assert found == [row for each in steps[step:] for row in each][: len(found)] or step > 57
    assert len(batches.computed(1)) == 4, "always this step"
