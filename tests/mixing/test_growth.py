"""A corpus that grows and loses domains while a run goes on: what moves, and what does not."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mixstream import MixSampler, StateError, WeightsError
from mixstream.mixing.growth import GrownOrder, Leg, grown_legs
from mixstream.mixing.settings import OrderSettings
from tests.mixing.support import LAYOUT, rows_of
from tests.strategies import layout_weights, layouts, sampler_settings, shard_rows

FAST = settings(deadline=None, max_examples=40)


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state, sort_keys=True))  # no meaning in the order of keys


def grown(layout, **more):
    """A layout with more shards behind those of its domains, and new domains behind them."""
    found = {name: np.array(rows, dtype=np.int64) for name, rows in layout.items()}
    for name, rows in more.items():
        found[name] = np.append(found.get(name, np.array([], dtype=np.int64)), rows)
    return found


def loaded(layout, state, *, on_retired="raise", **options):
    sampler = MixSampler(layout, **options)
    sampler.load_state_dict(through_json(state), on_retired=on_retired)
    return sampler


def named(sampler, addresses):
    return [(sampler.domains[domain], row) for domain, row in addresses.tolist()]


@FAST
@given(data=st.data(), first=st.integers(0, 200))
def test_new_domains_move_nothing_and_are_not_drawn_before_they_are_named(data, first):
    layout = data.draw(layouts(max_domains=4))
    options = data.draw(sampler_settings(layout))
    if isinstance(options.get("max_epochs"), int):
        options["max_epochs"] = dict.fromkeys(layout, options["max_epochs"])
    old = MixSampler(layout, data.draw(layout_weights(layout)), **options)
    try:
        old.take(first)
        old.set_weights(data.draw(layout_weights(layout)), at_row=old.row + 30)
    except WeightsError:
        pass  # exhausted
    names = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True))
    more = {name: np.array([5, 9]) for name in names if name not in layout}
    new = loaded({**layout, **more}, old.state_dict(), **options)
    assert [new.weights[len(layout) :].sum(), new.row] == [0, old.row]
    try:
        undisturbed = rows_of(old.take(100))
    except WeightsError:
        with pytest.raises(WeightsError):
            new.take(100)
        return
    assert rows_of(new.take(40)) == undisturbed[:40]
    again = loaded({**layout, **more}, new.state_dict(), **options)  # and after a kill
    assert again.fingerprint == new.fingerprint
    assert rows_of(again.take(60)) == undisturbed[40:]
    if more:
        again.set_weights([*[0] * len(layout), *[1] * len(more)])
        assert again.take(1)["domain"][0] >= len(layout)


@FAST
@given(data=st.data(), num_nodes=st.sampled_from([1, 1, 2, 3, 5]))
def test_every_row_comes_once_an_epoch_on_all_nodes_together_however_often_a_domain_grows(
    data, num_nodes
):
    run = OrderSettings(
        seed=data.draw(st.integers(0, 9)), num_canonical_nodes=num_nodes, sampling="independent",
        stratum=None, shuffle=data.draw(st.booleans()),
        shuffle_block_rows=data.draw(st.sampled_from([1, 7, 1 << 18])), max_epochs=None,
        on_exhausted="redistribute",
    )  # fmt: skip
    rows = data.draw(shard_rows(5, 20).filter(lambda found: found.sum() > 0))
    legs: dict[str, Any] = {}
    for _ in range(data.draw(st.integers(1, 3))):
        order = GrownOrder({"web": rows}, legs, run)
        size = order.slices.num_rows
        most = size * data.draw(st.integers(0, 2)) + order.start
        counts = np.array([[data.draw(st.integers(0, int(each[0])))] for each in most])
        if rows.sum() < num_nodes:
            counts[1:] = 0
        behind = data.draw(shard_rows(3, 15).filter(lambda found: found.sum() > 0))
        legs = grown_legs({"web": rows}, legs, counts, {"web": len(rows) + len(behind)}, run)
        rows = np.append(rows, behind)
    order = GrownOrder({"web": rows}, legs, run)
    nodes = range(num_nodes if rows[: (legs.get("web") or [Leg(0, len(rows), 0)])[0].end_shard]
                  .sum() >= num_nodes else 1)  # fmt: skip
    edges = [np.zeros(num_nodes, int), *(part.end for part in order._parts)]
    edges.append(order.start.ravel() + order.slices.num_rows.ravel())
    wanted = [*legs.get("web", ()), Leg(0, len(rows), 1)]
    first_row = np.append(0, np.cumsum(rows))
    for leg, (begin, end) in zip(wanted, itertools.pairwise(edges), strict=True):
        seen: Counter[int] = Counter()
        for node in nodes:
            ordinal = np.arange(begin[node], end[node])
            full = np.zeros_like(ordinal)
            seen.update(order.rows(full, full + node, ordinal).tolist())
        in_leg = range(int(first_row[leg.first_shard]), int(first_row[leg.end_shard]))
        assert seen == Counter({row: leg.epochs for row in in_leg if leg.epochs})


def test_shards_that_come_in_the_middle_of_an_epoch_are_its_end():
    layout = {"web": np.array([4, 4]), "code": np.array([5])}
    old = MixSampler(layout, [1, 0], shuffle=False)
    assert old.take(11)["row"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]
    new = loaded(grown(layout, web=[3]), old.state_dict(), shuffle=False)
    taken = new.take(18)["row"].tolist()
    assert taken[:5] == [3, 4, 5, 6, 7], "the epoch goes on as it was"
    assert taken[5:8] == [8, 9, 10], "the new rows end it"
    assert taken[8:] == list(range(10)), "the next epoch has all"


def test_a_domain_that_was_not_drawn_yet_takes_its_new_shards_as_if_it_had_always_had_them():
    layout = {"web": np.array([4, 4]), "code": np.array([5, 2])}
    old = MixSampler(layout, [1, 0], seed=4)
    old.take(9)
    new = loaded(grown(layout, code=[6]), old.state_dict(), seed=4)
    new.set_weights([0, 1])
    fresh = MixSampler(grown(layout, code=[6]), [0, 1], seed=4)
    assert new.take(20)["row"].tolist() == fresh.take(20)["row"].tolist()
    assert new.state_dict()["legs"] == {}


def test_no_meaning_lies_in_the_order_of_a_states_keys():
    def went_on(layout, state):
        new = MixSampler(layout)
        new.load_state_dict(state)
        return new

    layout = {"b": np.array([9]), "a": np.array([9])}
    first = MixSampler(layout)
    first.take(8)
    layout = {name: np.array([9, 3]) for name in layout}
    grown_run = went_on(layout, first.state_dict())
    state = grown_run.state_dict()
    assert list(state["legs"]) == ["b", "a"]
    assert went_on(layout, through_json(state)).fingerprint == grown_run.fingerprint


def test_a_cap_of_epochs_counts_the_new_rows_once_in_the_running_epoch():
    layout = {"web": np.array([4, 4]), "code": np.array([5])}
    options = {"max_epochs": {"web": 2}, "on_exhausted": "stop"}
    old = MixSampler(layout, [1, 0], **options)
    old.take(11)
    new = loaded(grown(layout, web=[3]), old.state_dict(), **options)
    left = new.take(100)["row"].tolist()
    assert Counter([*old_rows(layout, 11), *left]) == {
        **dict.fromkeys(range(8), 2),
        **dict.fromkeys(range(8, 11), 1),
    }
    early = MixSampler(layout, [1, 0], **options)
    first = early.take(3)["row"].tolist()
    new = loaded(grown(layout, web=[3]), early.state_dict(), **options)
    assert Counter([*first, *new.take(100)["row"].tolist()]) == dict.fromkeys(range(11), 2)


@pytest.mark.parametrize("nodes", [1, 9])
@pytest.mark.parametrize("cap", [None, 3])
@pytest.mark.parametrize("first", [3, 8, 13])
def test_what_is_left_of_a_grown_domain_is_what_it_takes_to_end_it(nodes, cap, first):
    layout = {"web": np.array([4, 4]), "code": np.array([5])}
    options = {"num_canonical_nodes": nodes}
    if cap:
        options |= {"max_epochs": {"web": cap}, "on_exhausted": "stop"}
    old = MixSampler(layout, [1, 0], **options)
    rows = old.take(first)["row"].tolist()
    new = loaded(grown(layout, web=[3, 4]), old.state_dict(), **options)
    left = int(new.num_draws[0]) - first
    if cap:
        assert len(new.take(1000)) == left
    else:
        assert set(rows + new.take(left - 1)["row"].tolist()) < set(range(15))
        assert new.take(1)["row"][0] in range(8, 15), "a new row, which ends the epoch"


def old_rows(layout, number):
    return MixSampler(layout, [1, 0]).take(number)["row"].tolist()


def test_caps_of_new_and_lost_domains_may_differ_and_those_of_others_may_not():
    old = MixSampler(LAYOUT, [1, 1, 0], max_epochs={"web": 3, "books": 2})
    old.take(20)
    state = old.state_dict()
    layout = grown({name: LAYOUT[name] for name in ("web", "code")}, maths=[9])
    new = loaded(layout, state, max_epochs={"web": 3, "maths": 1})
    assert new.settings.max_epochs == {"web": 3, "maths": 1}
    with pytest.raises(
        StateError, match=r"saved with max_epochs=.*'books': 2.*, this run has .*'web': 4"
    ):
        loaded(layout, state, max_epochs={"web": 4, "maths": 1})


def test_a_lost_domain_of_weight_0_moves_nothing_and_returns_where_it_was():
    old = MixSampler(LAYOUT, [1, 1, 1], seed=5)
    before = old.take(40)
    old.set_weights([1, 0, 2])
    without = {name: LAYOUT[name] for name in ("web", "books")}
    middle = loaded(without, old.state_dict(), seed=5)
    assert named(middle, middle.take(50)) == named(old, old.take(50))
    assert middle.counts.sum() < middle.row == 90
    back = loaded({**without, "code": LAYOUT["code"]}, middle.state_dict(), seed=5)
    assert back.counts[2] == (before["domain"] == 1).sum() == old.counts[1]
    for one, weights in ((old, [0, 1, 0]), (back, [0, 0, 1])):
        one.set_weights(weights)
    assert named(back, back.take(50)) == named(old, old.take(50))
    assert back.state_dict()["retired"] == {}
    both = loaded(LAYOUT, old.state_dict(), seed=5)
    assert both.fingerprint == old.fingerprint


def test_a_lost_domain_of_positive_weight_is_refused_unless_its_weight_is_given_to_the_others():
    old = MixSampler(LAYOUT, [2, 1, 1])
    old.take(10)
    old.set_weights([0, 1, 0], at_row=60)
    without = {name: LAYOUT[name] for name in ("web", "books")}
    with pytest.raises(
        StateError, match=r"domain 'code', of weight 0.25 from row 10 on, is gone \(new: none\)"
    ):
        loaded(without, old.state_dict())
    with pytest.raises(StateError, match="no domain of positive weight is left from row 60 on"):
        loaded(without, old.state_dict(), on_retired="redistribute")
    old.set_weights([0, 3, 1], at_row=60)
    with pytest.raises(ValueError, match="on_retired is 'drop'; choose 'raise' or 'redistribute'"):
        loaded(without, old.state_dict(), on_retired="drop")
    new = loaded(without, old.state_dict(), on_retired="redistribute")
    assert new.weights.tolist() == [2 / 3, 1 / 3]
    assert [change.weights.tolist() for change in new.planned] == [[0, 1]]
    assert set(new.take(50)["domain"].tolist()) == {0, 1}
    assert set(new.take(50)["domain"].tolist()) == {1}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"web": [40, 26]}, r"the first 2 shards of domain 'web' are others: their rows have digest"
                            r" [0-9a-f]{16}, those of the run [0-9a-f]{16}"),
        ({"web": [40]}, r"domain 'web' had 2 shards and has 1 here, so this corpus is an older"),
        ({"web": [40, 25], "page": [30]}, r"'code', of weight 0.25 .* is gone \(new: page\)"),
        ({"books": [7, 0, 4], "web": [40, 25], "code": [30]},
         r"they stood in the order web, code, books and stand in the order books, web, code here"),
        ({"page": [3]}, r"web, code, books; .* with domains page: they have no domain in common"),
    ],
)  # fmt: skip
def test_a_layout_that_does_not_follow_is_refused_and_the_difference_named(other, said):
    state = MixSampler(LAYOUT, [2, 1, 1]).state_dict()
    sampler = MixSampler({name: np.array(rows) for name, rows in other.items()})
    before = sampler.fingerprint
    with pytest.raises(StateError, match=said):
        sampler.load_state_dict(through_json(state))
    assert sampler.fingerprint == before


def test_the_state_of_a_grown_corpus_is_refused_by_the_old_one():
    new = MixSampler(grown(LAYOUT, code=[4]))
    with pytest.raises(StateError, match=r"domain 'code' had 2 shards and has 1 here"):
        loaded(LAYOUT, new.state_dict())
    named_ = MixSampler(grown(LAYOUT, maths=[4]))
    with pytest.raises(StateError, match=r"domain 'maths', of weight .* is gone"):
        loaded(LAYOUT, named_.state_dict())


def test_a_returning_domain_with_other_shards_is_refused():
    old = MixSampler(LAYOUT, [1, 0, 1])
    middle = loaded({name: LAYOUT[name] for name in ("web", "books")}, old.state_dict())
    with pytest.raises(StateError, match="the first 1 shards of domain 'code' are others"):
        loaded({**middle._layout, "code": np.array([31])}, middle.state_dict())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"shards": {"web": 3}}, "not what state_dict returned: TypeError"),
        ({"shards": {"page": [3, "00"]}}, "legs .* of domain 'page' with 3 shards"),
        ({"legs": {"web": [[0, "x", 1]]}}, "not what state_dict returned: TypeError"),
        ({"legs": {"web": [[0, 9, 1]]}}, r"of domain 'web' with 2 shards"),
        ({"legs": 5}, "not what state_dict returned: AttributeError"),
        ({"retired": {"page": {"counts": [1, 2], "shards": [1, "0"], "legs": []}}}, "'page' with"),
        ({"retired": {"page": {}}}, "not what state_dict returned: KeyError"),
        ({"retired": {"page": {"counts": [2], "shards": [1, "0"], "legs": []}}}, "add up to 12"),
        ({"among": 4}, "not what state_dict returned: TypeError"),
    ],
)
def test_a_damaged_state_of_a_grown_run_is_refused_and_changes_nothing(damage, said):
    sampler = MixSampler(LAYOUT, [1, 1, 0])
    sampler.take(10)
    before = sampler.fingerprint
    with pytest.raises(StateError, match=said):
        sampler.load_state_dict({**sampler.state_dict(), **damage})
    assert sampler.fingerprint == before


def of_version_1(state):
    keys = ("settings", "layout", "row", "weights", "counts", "changes")
    return {"version": 1, **{key: state[key] for key in keys}}


def test_a_state_of_version_1_loads_into_its_own_layout_alone():
    old = MixSampler(LAYOUT, [1, 2, 3], seed=3)
    old.take(30)
    old.set_weights([3, 2, 1], at_row=40)
    state = of_version_1(old.state_dict())
    assert rows_of(loaded(LAYOUT, state, seed=3).take(60)) == rows_of(old.take(60))
    with pytest.raises(StateError, match="a state of version 1 does not tell which shards it knew"):
        loaded(grown(LAYOUT, maths=[4]), state, seed=3)


def test_blocks_that_come_are_those_that_are_drawn():
    layout = {"web": np.array([9, 8, 7]), "code": np.array([5])}
    options = {"seed": 3, "shuffle_block_rows": 8, "num_canonical_nodes": 2}
    old = MixSampler(layout, [1, 0], **options)
    old.take(30)
    new = loaded(grown(layout, web=[6, 5]), old.state_dict(), **options)
    first = new.mark().counts[:, 0].tolist()
    rows = new.take(80)["row"]
    for node in (0, 1):
        coming: list[int] = []
        while len(coming) < 40:
            block = new.coming_block(0, node, first[node] + len(coming))
            begin = first[node] + len(coming) - block.first_draw
            coming += block.rows(begin, block.num_rows).tolist()
        assert rows[node::2].tolist() == coming[:40]


class GrowingRun(RuleBasedStateMachine):
    """A run that is steered, killed and grown at will, against one by fewer and larger steps."""

    @initialize(data=st.data(), layout=layouts(max_domains=3))
    def start(self, data: st.DataObject, layout: Any) -> None:
        self.layout, self.lost = dict(layout), {}
        self.options = data.draw(sampler_settings(layout, limits=False))
        self.first = data.draw(layout_weights(layout))
        self.sampler = MixSampler(layout, self.first, **self.options)
        self.rows: list[tuple[str, int]] = []
        self.done: list[tuple[int, Any]] = []  # what happened at which row
        self.begun = dict(layout)
        self.counts: dict[str, list[int]] = {name: [0] * r.sum() for name, r in layout.items()}
        self.named = set(layout)

    @rule(number=st.integers(0, 60))
    def take(self, number: int) -> None:
        taken = named(self.sampler, self.sampler.take(number))
        self.rows += taken
        for name, row in taken:
            assert name in self.named
            self.counts[name][row] += 1
            if self.options["num_canonical_nodes"] == 1:
                assert max(self.counts[name]) - min(self.counts[name]) <= 1

    @rule(data=st.data(), ahead=st.integers(0, 40))
    def set_weights(self, data: st.DataObject, ahead: int) -> None:
        weights = data.draw(layout_weights(self.layout))
        at_row = len(self.rows) + ahead
        self.sampler.set_weights(weights, at_row=at_row)
        self.done.append((len(self.rows), ("weights", at_row, weights)))
        self.named |= {n for n, w in zip(self.layout, weights, strict=True) if w > 0}

    @rule()
    def kill(self) -> None:
        state = self.sampler.state_dict()
        self.sampler = loaded(self.layout, state, **self.options)
        assert self.sampler.state_dict() == state

    @rule(data=st.data(), behind=shard_rows(3, 15))
    def append(self, data: st.DataObject, behind: Any) -> None:
        name = data.draw(st.sampled_from(list(self.layout)))
        seen = self.counts[name]
        virtual = max(max(seen, default=0) - 1, 0)  # of the running epoch the new rows are the end
        self.counts[name] = seen + [virtual] * int(behind.sum())
        self.now(grown(self.layout, **{name: behind}))

    @precondition(lambda self: len(self.layout) < 5)
    @rule(rows=shard_rows(3, 15))
    def add(self, rows: Any) -> None:
        name = f"new{len(self.done)}"
        self.counts[name] = [0] * int(rows.sum())
        self.now({**self.layout, name: rows})

    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        weights = [self.sampler.weights, *(c.weights for c in self.sampler.planned)]
        idle = np.flatnonzero(np.max(weights, axis=0) == 0).tolist()
        left = {n: r for n, r in self.layout.items() if self.layout and r.sum()}
        if idle:
            name = list(self.layout)[data.draw(st.sampled_from(idle))]
            if set(left) - {name}:
                self.lost[name] = self.layout[name]
                self.now({n: rows for n, rows in self.layout.items() if n != name})

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def let_return(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.lost)))
        self.now({**self.layout, name: self.lost.pop(name)})

    def now(self, layout: Any) -> None:
        """The run goes on over another layout, in which nothing moves for the others."""
        old, self.layout = self.sampler, layout
        self.sampler = loaded(layout, old.state_dict(), **self.options)
        self.done.append((len(self.rows), ("layout", layout)))
        place, before = self.sampler.mark(), old.mark()
        same = [name for name, rows in layout.items() if name in old._layout
                and len(rows) == len(old._layout[name])]  # fmt: skip
        new_rows, old_rows = named(self.sampler, self.sampler.take(50)), named(old, old.take(50))
        assert [name for name, _ in new_rows] == [name for name, _ in old_rows]
        assert [r for r in new_rows if r[0] in same] == [r for r in old_rows if r[0] in same]
        self.sampler.rewind(place)
        old.rewind(before)

    def teardown(self) -> None:
        if not hasattr(self, "sampler"):
            return
        twin, drawn, layout = MixSampler(self.begun, self.first, **self.options), [], self.begun
        for at_row, (kind, *what) in self.done:
            drawn += named(twin, twin.take(at_row - len(drawn)))
            if kind == "weights":
                twin.set_weights(what[1], at_row=what[0])
            else:
                (layout,) = what
                twin = loaded(layout, twin.state_dict(), **self.options)
        assert drawn + named(twin, twin.take(len(self.rows) - len(drawn))) == self.rows
        assert twin.fingerprint == self.sampler.fingerprint


TestGrowingRun = GrowingRun.TestCase
TestGrowingRun.settings = settings(deadline=None, max_examples=30, stateful_step_count=20)
