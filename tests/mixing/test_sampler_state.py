"""Marks, states and fingerprints: what is kept, what is refused, what differs."""

import json

import numpy as np
import pytest

from mixstream import MixSampler, StateError, StepError
from tests.mixing.support import LAYOUT, rows_of


def test_a_rewind_draws_the_same_rows_again_but_for_changes_decided_since():
    sampler = MixSampler(LAYOUT, seed=9)
    mark = sampler.mark()
    first = rows_of(sampler.take(50))
    sampler.set_weights([1, 0, 0])
    second = rows_of(sampler.take(20))
    sampler.rewind(mark)
    assert sampler.row == 0
    assert rows_of(sampler.take(70)) == first + second
    sampler.rewind(mark)
    sampler.take(10)
    sampler.set_weights([0, 1, 0])
    steered = sampler.take(60)
    assert (steered["domain"][:40] == 1).all()
    assert (steered["domain"][40:] == 0).all()


def test_forgetting_drops_no_change_that_a_later_place_needs():
    sampler, remembers = MixSampler(LAYOUT, [1, 0, 0]), MixSampler(LAYOUT, [1, 0, 0])
    for one in (sampler, remembers):
        one.take(10)
        one.set_weights([0, 1, 0])
        one.take(10)
        one.set_weights([0, 0, 1], at_row=30)
        one.set_weights([1, 0, 0], at_row=35)
    mark = sampler.mark()
    sampler.forget(mark)
    sampler.forget(mark)
    assert rows_of(sampler.take(5)) == rows_of(remembers.take(5))
    sampler.rewind(mark)
    assert sampler.take(20)["domain"].tolist() == [1] * 10 + [2] * 5 + [0] * 5


def test_forgetting_an_older_place_after_a_newer_one_drops_nothing():
    sampler = MixSampler(LAYOUT, [1, 0, 0])
    older = sampler.mark()
    sampler.take(20)
    sampler.set_weights([0, 1, 0])
    sampler.set_weights([0, 0, 1], at_row=30)
    sampler.set_weights([1, 0, 0], at_row=40)
    sampler.forget(sampler.mark())
    sampler.forget(older)
    assert [change.at_row for change in sampler.planned] == [30, 40]
    assert sampler.take(30)["domain"].tolist() == [1] * 10 + [2] * 10 + [0] * 10


def test_a_forgotten_place_is_refused_rather_than_drawn_by_other_weights():
    sampler = MixSampler(LAYOUT, [1, 0, 0])
    older = sampler.mark()
    sampler.take(10)
    sampler.set_weights([0, 1, 0])
    sampler.take(10)
    sampler.forget(sampler.mark())
    try:
        sampler.rewind(older)
    except (StepError, StateError):
        return
    assert sampler.take(10)["domain"].tolist() == [0] * 10


def test_a_state_of_a_forgotten_place_is_refused_rather_than_given_other_weights():
    sampler = MixSampler(LAYOUT, [1, 0, 0])
    older = sampler.mark()
    sampler.take(10)
    sampler.set_weights([0, 1, 0])
    sampler.forget(sampler.mark())
    sampler.set_weights([0, 0, 1], at_row=99)
    try:
        state = sampler.state_dict(older)
    except (StepError, StateError):
        return
    assert state["weights"] == {"web": 1.0, "code": 0.0, "books": 0.0}


def test_a_place_from_before_a_loaded_state_is_refused_rather_than_drawn_by_other_weights():
    sampler = MixSampler(LAYOUT, [1, 0, 0])
    older = sampler.mark()
    sampler.take(10)
    sampler.set_weights([0, 1, 0])
    sampler.load_state_dict(sampler.state_dict())
    try:
        sampler.rewind(older)
    except (StepError, StateError):
        return
    assert sampler.take(10)["domain"].tolist() == [0] * 10


def test_state_is_json_and_about_the_place_asked_for():
    sampler = MixSampler(LAYOUT, [1, 0, 0], seed=2**64 - 1, max_epochs={"code": 2})
    sampler.take(7)
    mark = sampler.mark()
    sampler.take(5)
    sampler.set_weights([0, 1, 0], reason="später")
    sampler.set_weights([1, 1, 0], at_row=99)
    state = sampler.state_dict(mark)
    assert state["row"] == 7
    assert state["weights"] == {"web": 1.0, "code": 0.0, "books": 0.0}
    assert [(c["at_row"], c["reason"]) for c in state["changes"]] == [(12, "später"), (99, "")]
    assert sum(map(sum, state["counts"])) == 7
    assert json.loads(json.dumps(state)) == state
    twin = MixSampler(LAYOUT, seed=2**64 - 1, max_epochs={"code": 2})
    twin.load_state_dict(json.loads(json.dumps(state)))
    assert (
        rows_of(twin.take(5)) == rows_of(MixSampler(LAYOUT, [1, 0, 0], seed=2**64 - 1).take(12))[7:]
    )
    assert rows_of(twin.take(50)) == rows_of(sampler.take(50))
    assert twin.fingerprint == sampler.fingerprint


def test_the_size_of_a_state_does_not_grow_with_the_run():
    sampler = MixSampler(LAYOUT, seed=1)
    sampler.take(1)
    before = len(json.dumps(sampler.state_dict()))
    for step in range(200):
        sampler.set_weights([1, 1 + step, 1])
        sampler.take(3)
    assert len(json.dumps(sampler.state_dict())) < before + 100


def test_a_loaded_state_replaces_whatever_was_drawn_and_planned_before():
    sampler, used = MixSampler(LAYOUT, seed=3), MixSampler(LAYOUT, [0, 1, 0], seed=3)
    sampler.take(20)
    used.take(77)
    used.set_weights([0, 0, 1], at_row=90)
    used.load_state_dict(sampler.state_dict())
    assert used.fingerprint == sampler.fingerprint
    assert used.planned == ()
    assert rows_of(used.take(100)) == rows_of(sampler.take(100))


@pytest.mark.parametrize(
    ("name", "saved", "here"),
    [
        ("seed", 1, 2),
        ("num_canonical_nodes", 1, 2),
        ("shuffle", True, False),
        ("shuffle_block_rows", 10, 11),
        ("max_epochs", None, 3),
        ("max_epochs", {"web": 1}, {"web": 2}),
    ],
)
def test_a_state_of_other_settings_is_refused_naming_both_values(name, saved, here):
    state = MixSampler(LAYOUT, **{name: saved}).state_dict()
    sampler = MixSampler(LAYOUT, **{name: here})
    before = sampler.fingerprint
    with pytest.raises(StateError, match=f"saved with {name}=.*this run has {name}=") as caught:
        sampler.load_state_dict(json.loads(json.dumps(state)))
    if not isinstance(here, dict) and name != "max_epochs":
        assert f"{name}={saved!r}" in str(caught.value)
        assert f"{name}={here!r}" in str(caught.value)
    assert sampler.fingerprint == before


def test_a_state_of_another_sampling_stratum_or_policy_is_refused():
    stratified = {"sampling": "stratified", "stratum": 8}
    state = MixSampler(LAYOUT, **stratified).state_dict()
    with pytest.raises(StateError, match=r"sampling='stratified'.*sampling='independent'"):
        MixSampler(LAYOUT).load_state_dict(state)
    with pytest.raises(StateError, match=r"sampling='stratified'.*sampling='independent'"):
        MixSampler(LAYOUT).load_state_dict(state, adopt_stratum=True)
    wider = MixSampler(LAYOUT, sampling="stratified", stratum=16)
    with pytest.raises(StateError, match=r"stratum=8, this run has stratum=16"):
        wider.load_state_dict(state)
    wider.load_state_dict(state, adopt_stratum=True)
    assert rows_of(wider.take(30)) == rows_of(MixSampler(LAYOUT, **stratified).take(30))
    stops = MixSampler(LAYOUT, max_epochs=2, on_exhausted="stop").state_dict()
    with pytest.raises(StateError, match=r"on_exhausted='stop'.*on_exhausted='raise'"):
        MixSampler(LAYOUT, max_epochs=2, on_exhausted="raise").load_state_dict(stops)


def test_a_state_of_another_version_is_refused_naming_both():
    state = MixSampler(LAYOUT).state_dict()
    with pytest.raises(StateError, match=r"has version 99, this mixstream reads version 1"):
        MixSampler(LAYOUT).load_state_dict({**state, "version": 99})
    with pytest.raises(StateError, match="no 'version' in the sampler's state, which is dict of"):
        MixSampler(LAYOUT).load_state_dict({})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"row": 9}, "counts, of shape .* add up to 10, but its row is 9"),
        ({"row": -5}, "add up to 10, but its row is -5"),
        ({"counts": [[11, 0, -1]]}, "add up to 10"),
        ({"counts": [[10]]}, r"of shape \(1, 1\)"),
        ({"counts": "x"}, "not what state_dict returned"),
        ({"weights": {"web": -1.0, "code": 1.0, "books": 1.0}}, r"weights \[-1.0, 1.0, 1.0\]"),
        ({"weights": {"web": 1.0}}, "not what state_dict returned"),
        ({"changes": [{"at_row": 99, "weights": [1.0], "reason": ""}]}, r"weights \[1.0\]"),
        ({"changes": [{"at_row": 99}]}, "not what state_dict returned: KeyError"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage, said):
    sampler = MixSampler(LAYOUT, [1, 1, 0])
    sampler.take(10)
    before = sampler.fingerprint
    with pytest.raises(StateError, match=said):
        sampler.load_state_dict({**sampler.state_dict(), **damage})
    assert sampler.fingerprint == before


@pytest.mark.parametrize(
    "other",
    [
        {"web": [40, 25], "code": [30], "books": [7, 0, 5]},
        {"web": [25, 40], "code": [30], "books": [7, 0, 4]},
        {"web": [40, 25], "code": [30], "book": [7, 0, 4]},
        {"code": [30], "web": [40, 25], "books": [7, 0, 4]},
        {"web": [40, 25], "code": [30]},
        {"web": [40, 25], "code": [30], "books": [7, 4]},
        {"web": [65], "code": [30], "books": [7, 0, 4]},
    ],
    ids=["rows", "shards swapped", "name", "order", "missing", "no empty shard", "one shard"],
)
def test_a_state_of_another_layout_is_refused_and_its_fingerprint_differs(other):
    sampler = MixSampler({name: np.array(rows) for name, rows in other.items()})
    state = MixSampler(LAYOUT).state_dict()
    with pytest.raises(StateError, match=r"layout [0-9a-f]{16} with domains web, code, books; .*"):
        sampler.load_state_dict(state)
    assert sampler.fingerprint != MixSampler(LAYOUT).fingerprint


def test_layout_digests_do_not_depend_on_the_integer_type():
    small = {name: rows.astype(np.uint32) for name, rows in LAYOUT.items()}
    lists = {name: rows.tolist() for name, rows in LAYOUT.items()}
    assert MixSampler(small).fingerprint == MixSampler(LAYOUT).fingerprint
    assert MixSampler(lists).fingerprint == MixSampler(LAYOUT).fingerprint


def test_fingerprints_are_equal_where_the_rows_to_come_are_equal_and_differ_otherwise():
    def sampler(taken=10, weights=(1, 2, 3), planned=(), reason="", **options):
        one = MixSampler(LAYOUT, [1, 1, 1], **options)
        one.take(taken)
        one.set_weights(weights, reason=reason)
        for at_row, later in planned:
            one.set_weights(later, at_row=at_row)
        return one.fingerprint

    assert sampler() == sampler() == sampler(reason="words") == sampler(weights=(2, 4, 6))
    variants = [
        sampler(),
        sampler(taken=11),
        sampler(weights=(1, 2, 3.0000001)),
        sampler(planned=[(50, (1, 0, 0))]),
        sampler(planned=[(51, (1, 0, 0))]),
        sampler(planned=[(50, (1, 0, 0)), (60, (1, 0, 0))]),
        sampler(seed=1),
        sampler(num_canonical_nodes=2),
        sampler(shuffle=False),
        sampler(shuffle_block_rows=7),
        sampler(sampling="stratified", stratum=5),
        sampler(sampling="stratified", stratum=6),
        sampler(max_epochs=5),
        sampler(max_epochs={"web": 5}),
        sampler(max_epochs=5, on_exhausted="stop"),
    ]
    assert len(set(variants)) == len(variants)
    assert all(len(bytes.fromhex(digest)) == 8 for digest in variants)


def test_samplers_that_drew_other_rows_differ_though_row_and_weights_are_equal():
    first, second = MixSampler(LAYOUT, [1, 0, 0]), MixSampler(LAYOUT, [0, 1, 0])
    for one in (first, second):
        one.take(10)
        one.set_weights([1, 1, 1])
    assert first.fingerprint != second.fingerprint
