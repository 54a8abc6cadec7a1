"""P1, P2, P3 and P8 at the loader: what the ranks of a run get, whatever they are and do."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import mixstream
from mixstream.errors import StepError, WeightsError
from tests.loader.conftest import (
    GLOBAL_ROWS,
    SHAPES,
    all_addresses,
    contents_of,
    flat,
    make_ranks,
    next_rows,
    rows_of,
    through_json,
    weights_of,
)
from tests.strategies import seeds, simplexes

NUM_FILLED = 5
ORDERS = st.fixed_dictionaries(
    {
        "seed": seeds(),
        "num_canonical_nodes": st.sampled_from([1, 2, 4]),
        "shuffle": st.sampled_from([True, True, False]),
        "shuffle_block_rows": st.sampled_from([1, 10, 1 << 18]),
    },
    optional={
        "sampling": st.just("stratified"),
        "max_epochs": st.sampled_from([1, 2, {"web": 1, "tiny": 3}]),
    },
)
"""Keyword arguments of a Loader that the order depends on."""


def make_sampler(corpus, weights, order, stratum=GLOBAL_ROWS):
    """The draws of one process that never stops: what every rank of every run is held against."""
    if "sampling" in order:
        order = order | {"stratum": stratum}
    return mixstream.MixSampler(corpus.layout, weights, **order)


def taken(corpus, sampler, num_rows):
    """The next rows of the sampler, sorted; None, and nothing drawn, where fewer are left."""
    start = sampler.mark()
    addresses = sampler.take(num_rows)
    if len(addresses) < num_rows:
        sampler.rewind(start)
        return None
    return sorted(contents_of(corpus, addresses))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    order=ORDERS,
    shapes=st.lists(st.sampled_from(SHAPES), min_size=2, max_size=3, unique=True),
)
def test_a_step_holds_one_set_of_rows_for_every_world_size_batch_size_and_accumulation(
    corpus, data, order, shapes
):
    first = weights_of(corpus, *data.draw(simplexes(NUM_FILLED)))
    later = weights_of(corpus, *data.draw(simplexes(NUM_FILLED)))
    change_at = data.draw(st.integers(0, 7))
    runs = []
    for world_size, batch_size, accumulation in shapes:
        # the stratum is the global batch at the start of the run, so it is the same run only then
        if "sampling" in order and accumulation > 1:
            continue
        ranks = make_ranks(corpus, first, batch_size=batch_size, world_size=world_size, **order)
        iterators = [iter(rank) for rank in ranks]
        steps = []
        for step in range(8):
            if step == change_at:
                with_change = [outcome_of(rank, later) for rank in ranks]
                assert len(set(with_change)) == 1
            micro = [next_rows(iterators) for _ in range(accumulation)]
            if None in micro:
                break
            steps.append(sorted(row for rows in micro for row in rows))
        runs.append(steps)
    assert all(run == runs[0] for run in runs[1:])


def outcome_of(loader, weights):
    try:
        return loader.set_weights(weights).at_row
    except WeightsError as error:  # all domains of these weights may have been used up
        return str(error)


class Run(RuleBasedStateMachine):
    """A run that is stopped, broken off, moved to other ranks and steered at will."""

    corpus: mixstream.Corpus

    @initialize(data=st.data(), order=ORDERS, shape=st.sampled_from(SHAPES))
    def start(self, data, order, shape):
        weights = weights_of(self.corpus, *data.draw(simplexes(NUM_FILLED)))
        self.order, self.weights = order, weights
        world_size, batch_size, _ = shape
        self.twin = make_sampler(self.corpus, weights, order, world_size * batch_size)
        self.ranks = make_ranks(
            self.corpus, weights, batch_size=batch_size, world_size=world_size, **order
        )
        self.iterators = [iter(rank) for rank in self.ranks]
        self.steps = 0

    @property
    def num_rows(self):
        return self.ranks[0].batches.batch_size * len(self.ranks)

    @rule(num_steps=st.integers(1, 12))
    def go_on(self, num_steps):
        for _ in range(num_steps):
            expected = taken(self.corpus, self.twin, self.num_rows)
            assert next_rows(self.iterators) == expected
            if expected is None:
                self.iterators = [iter(rank) for rank in self.ranks]
                return
            self.steps += 1

    @rule(data=st.data(), ahead=st.none() | st.integers(0, 5))
    def change_the_weights(self, data, ahead):
        weights = weights_of(self.corpus, *data.draw(simplexes(NUM_FILLED)))
        at_step = None if ahead is None else self.steps + ahead
        at_row = self.twin.row + (ahead or 0) * self.num_rows
        try:
            self.twin.set_weights(weights, at_row=at_row)
        except WeightsError:
            for rank in self.ranks:
                with pytest.raises(WeightsError, match="max_epochs"):
                    rank.set_weights(weights, at_step=at_step)
            return
        for rank in self.ranks:
            change = rank.set_weights(weights, at_step=at_step, reason="a whim")
            assert (change.at_row, change.at_step) == (at_row, self.steps + (ahead or 0))

    @rule(wrong=st.sampled_from([-1.0, float("nan"), float("inf")]))
    def give_wrong_weights(self, wrong):
        for rank in self.ranks:
            with pytest.raises(WeightsError, match="finite number"):
                rank.set_weights(dict.fromkeys(self.corpus.domains, wrong))

    @precondition(lambda self: self.steps > 0)
    @rule(data=st.data())
    def come_too_late(self, data):
        at_step = data.draw(st.integers(0, self.steps - 1))
        for rank in self.ranks:
            with pytest.raises(StepError, match=f"step {at_step} come too late"):
                rank.set_weights(self.weights, at_step=at_step)

    @rule(num_rows=st.integers(0, 30))
    def probe(self, num_rows):
        for rank in self.ranks:
            assert rank.probe("books", num_rows)["domain_ids"].tolist() == [0] * num_rows

    @rule()
    def leave_the_loop(self):
        self.iterators = [iter(rank) for rank in self.ranks]

    @rule(
        shape=st.sampled_from([*SHAPES, (1, 5, 1), (2, 4, 1), (2, 1, 1)]), seed=st.integers(0, 99)
    )
    def kill_and_resume(self, shape, seed):
        state = through_json(self.ranks[seed % len(self.ranks)].state_dict())
        world_size, batch_size, _ = shape
        self.ranks = make_ranks(
            self.corpus, None, batch_size=batch_size, world_size=world_size, **self.order
        )
        for rank in self.ranks:
            rank.load_state_dict(state)
        self.iterators = [iter(rank) for rank in self.ranks]

    @invariant()
    def every_rank_says_the_same(self):
        if not hasattr(self, "ranks"):
            return
        states = [rank.state_dict() for rank in self.ranks]
        assert all(state == states[0] for state in states)
        assert {rank.step for rank in self.ranks} == {self.steps}
        assert {rank.fingerprint for rank in self.ranks} == {self.ranks[0].fingerprint}
        assert states[0]["batches"]["sampler"]["row"] == self.twin.row
        assert (self.ranks[0].weights == self.twin.weights).all()


def test_any_run_gets_the_rows_of_one_process_that_never_stops(corpus):
    class RunOnCorpus(Run):
        pass

    assert corpus.domains[0] == "books"
    RunOnCorpus.corpus = corpus
    case = RunOnCorpus.TestCase
    case.settings = settings(
        max_examples=80,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    case("runTest").runTest()


def steered_run(corpus, shape, order, *, num_steps, kill_every=None, changes_at=(), **settings):
    """Checks a run with workers, step by step, against the twin that its own changes steer."""
    world_size, batch_size, _ = shape
    weights = weights_of(corpus, 5, 1, 1, 3, 1)
    twin = make_sampler(corpus, weights, order)

    def ranks_and_iterators(state):
        ranks = make_ranks(
            corpus, weights, batch_size=batch_size, world_size=world_size, **order, **settings
        )
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        return ranks, [iter(rank) for rank in ranks]

    ranks, iterators = ranks_and_iterators(None)
    changes = []
    for step in range(num_steps):
        if kill_every and step and step % kill_every == 0:
            ranks, iterators = ranks_and_iterators(through_json(ranks[-1].state_dict()))
        if step in changes_at:
            new = np.roll(weights, len(changes) + 1)
            new[corpus.num_rows == 0] = 0
            made = [rank.set_weights(new, reason=f"at {step}") for rank in ranks]
            assert len({(c.at_row, c.at_step, c.num_batches_in_flight) for c in made}) == 1
            twin.set_weights(new, at_row=made[0].at_row)
            changes.append((step, made[0]))
        assert next_rows(iterators) == taken(corpus, twin, batch_size * world_size)
    return changes


@pytest.mark.parametrize("shape", [(1, 12, 1), (2, 6, 1)])
@pytest.mark.parametrize("order", [{"seed": 1}, {"sampling": "stratified", "seed": 2}])
def test_with_forked_workers_the_rows_are_those_of_one_process(corpus, shape, order):
    changes = steered_run(
        corpus,
        shape,
        order | {"num_canonical_nodes": 2},
        num_steps=14,
        kill_every=5,
        changes_at=(0, 3, 4, 11),
        num_workers=2,
        multiprocessing_context="fork",
    )
    for step, change in changes:
        assert change.num_batches_in_flight == 4
        assert change.at_step == step + 4
        assert change.at_row == change.at_step * GLOBAL_ROWS


@pytest.mark.slow
def test_with_spawned_workers_the_rows_are_those_of_one_process(corpus):
    changes = steered_run(
        corpus,
        (1, 12, 1),
        {"num_canonical_nodes": 4, "max_epochs": 2},
        num_steps=12,
        kill_every=8,
        changes_at=(2, 9),
        num_workers=2,
        prefetch_factor=1,
        multiprocessing_context="spawn",
    )
    assert [change.at_step for _, change in changes] == [4, 11]


@pytest.mark.parametrize("num_canonical_nodes", [1, 2, 4])
@pytest.mark.parametrize("sampling", ["independent", "stratified"])
def test_ranks_are_disjoint_within_an_epoch_and_their_union_is_the_single_process(
    corpus, num_canonical_nodes, sampling
):
    web_alone = weights_of(corpus, 0, 0, 0, 0, 1)
    order = {"num_canonical_nodes": num_canonical_nodes, "sampling": sampling}
    num_steps = 12  # the smallest of four slices of web holds 12 * 12 / 4 rows and more
    (single,) = make_ranks(corpus, web_alone, batch_size=12, **order)
    ranks = make_ranks(corpus, web_alone, batch_size=3, world_size=4, **order)
    seen = [
        [row for _, batch in zip(range(num_steps), rank, strict=False) for row in rows_of(batch)]
        for rank in ranks
    ]
    together = [row for rows in seen for row in rows]
    assert len(together) == len(set(together)) == num_steps * GLOBAL_ROWS
    alone = [
        row for _, batch in zip(range(num_steps), single, strict=False) for row in rows_of(batch)
    ]
    assert sorted(alone) == sorted(together)


@pytest.mark.parametrize(
    ("num_nodes", "num_canonical_nodes", "world_size", "batch_size"),
    [
        (2, 2, 4, 3),
        (2, 4, 4, 3),
        (4, 4, 4, 3),
        (2, 2, 2, 1),
        (2, 4, 2, 6),
        (4, 4, 8, 2),
        (1, 4, 3, 4),
    ],
)
def test_a_node_reads_its_own_slices_and_no_shard_is_read_by_two(
    corpus, num_nodes, num_canonical_nodes, world_size, batch_size
):
    ranks = make_ranks(
        corpus,
        batch_size=batch_size,
        world_size=world_size,
        num_canonical_nodes=num_canonical_nodes,
        sampling="stratified",
    )
    address_of = dict(
        zip(contents_of(corpus, all_addresses(corpus)), all_addresses(corpus), strict=True)
    )
    num_steps = 3 * len(address_of) // (world_size * batch_size)
    read = [set() for _ in range(num_nodes)]
    for index, rank in enumerate(ranks):
        node = index * num_nodes // world_size
        for _, batch in zip(range(num_steps), rank, strict=False):
            read[node].update(address_of[row] for row in rows_of(batch))
    assert set.union(*read) == set(all_addresses(corpus)), "in three epochs all rows come"
    for domain, name in enumerate(corpus.domains):
        rows = [{row for d, row in node if d == domain} for node in read]
        if corpus.num_rows[domain] >= num_canonical_nodes:
            assert sum(map(len, rows)) == len(set.union(*rows)), name
        ends = np.cumsum(corpus.layout[name])
        shards = [set(np.searchsorted(ends, sorted(r), side="right").tolist()) for r in rows]
        if len(ends) >= num_canonical_nodes:
            assert sum(map(len, shards)) == len(set.union(*shards)) == len(ends), name


def test_a_stratified_run_keeps_its_stratum_on_another_world_size(corpus):
    weights = weights_of(corpus, 1, 1, 1, 1, 8)
    twin = make_sampler(corpus, weights, {"sampling": "stratified"}, 12)
    ranks = make_ranks(corpus, weights, batch_size=6, world_size=2, sampling="stratified")
    iterators = [iter(rank) for rank in ranks]
    for _ in range(3):
        assert next_rows(iterators) == taken(corpus, twin, 12)
    state = through_json(ranks[1].state_dict())
    for world_size, batch_size in [(4, 1), (1, 30), (3, 4)]:
        ranks = make_ranks(
            corpus, batch_size=batch_size, world_size=world_size, sampling="stratified"
        )
        for rank in ranks:
            rank.load_state_dict(state)
        iterators = [iter(rank) for rank in ranks]
        for _ in range(4):
            assert next_rows(iterators) == taken(corpus, twin, world_size * batch_size)
        state = through_json(ranks[0].state_dict())
    assert state["batches"]["sampler"]["settings"]["stratum"] == 12


@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=seeds())
def test_weights_change_the_interleaving_and_never_the_order_inside_a_domain(corpus, data, seed):
    first, later = (weights_of(corpus, *data.draw(simplexes(NUM_FILLED))) for _ in range(2))
    kept, changed = (mixstream.Loader(corpus, first, batch_size=7, seed=seed) for _ in range(2))
    sequences = []
    for loader, steered in [(kept, False), (changed, True)]:
        rows = [[] for _ in corpus.domains]
        for step, batch in enumerate(loader):
            for domain, content in rows_of(batch):
                rows[domain].append(content)
            if steered and step == 3:
                loader.set_weights(later)
            if step == 12:
                break
        sequences.append(rows)
    for one, other in zip(*sequences, strict=True):
        num = min(len(one), len(other))
        assert one[:num] == other[:num]


@pytest.mark.parametrize("at_step", [None, 4, 9])
def test_without_workers_a_change_is_felt_by_exactly_the_step_that_it_names(corpus, at_step):
    loader = mixstream.Loader(corpus, weights_of(corpus, 0, 0, 0, 0, 1), batch_size=5)
    web, books = corpus.domains.index("web"), corpus.domains.index("books")
    for step, batch in enumerate(loader):
        if step == 3:
            change = loader.set_weights(weights_of(corpus, 1, 0, 0, 0, 0), at_step=at_step)
            assert change.at_step == (at_step or 4), "None is the very next batch"
            assert change.at_row == 5 * change.at_step
            assert change.num_batches_in_flight == 0
        felt = step > 3 and step >= change.at_step
        assert batch["domain_ids"].tolist() == [books if felt else web] * 5
        if step == 12:
            break


@pytest.mark.parametrize(("num_workers", "prefetch_factor"), [(1, 1), (2, None), (2, 3)])
def test_with_workers_the_lag_is_the_batches_in_flight(corpus, num_workers, prefetch_factor):
    loader = mixstream.Loader(
        corpus,
        weights_of(corpus, 0, 0, 0, 0, 1),
        batch_size=5,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
    )
    lag = num_workers * (prefetch_factor or 2)
    domains = []
    for step, batch in enumerate(loader):
        domains.append(batch["domain_ids"].unique().tolist())
        if step == 2:
            change = loader.set_weights(weights_of(corpus, 1, 0, 0, 0, 0))
            assert change.num_batches_in_flight == lag
            assert change.at_step == 3 + lag
            with pytest.raises(StepError, match="step 3 "):
                loader.set_weights(weights_of(corpus, 1, 0, 0, 0, 0), at_step=3)
        if step == 4 + lag:
            break
    web, books = corpus.domains.index("web"), corpus.domains.index("books")
    assert domains == [[web]] * (3 + lag) + [[books]] * 2


def test_a_planned_change_survives_a_kill_and_acts_at_its_row_on_another_batch_size(corpus):
    loader = mixstream.Loader(corpus, weights_of(corpus, 0, 0, 0, 0, 1), batch_size=6)
    loader.set_weights(weights_of(corpus, 1, 0, 0, 0, 0), at_step=3, reason="stage 2")
    next(iter(loader))
    resumed = mixstream.Loader(corpus, batch_size=4)
    resumed.load_state_dict(through_json(loader.state_dict()))
    domains = [next(iter(resumed))["domain_ids"].tolist() for _ in range(4)]
    web, books = corpus.domains.index("web"), corpus.domains.index("books")
    assert flat(domains) == [web] * 12 + [books] * 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_state_is_of_what_was_delivered_not_of_what_was_drawn(corpus, num_workers):
    loader = mixstream.Loader(corpus, batch_size=6, num_workers=num_workers)
    batches = {}
    for step, batch in enumerate(loader):
        batches[step] = rows_of(batch)
        state = loader.state_dict()
        assert loader.step == state["batches"]["step"] == step + 1
        assert state["batches"]["sampler"]["row"] == 6 * (step + 1)
        assert sum(map(sum, state["batches"]["sampler"]["counts"])) == 6 * (step + 1)
        if step == 2:
            at_3 = through_json(state)
        if step == 5:
            break
    resumed = mixstream.Loader(corpus, batch_size=6)
    resumed.load_state_dict(at_3)
    for step, batch in zip(range(3, 6), resumed, strict=False):
        assert rows_of(batch) == batches[step]


def test_a_state_holds_the_changes_that_the_batches_in_flight_do_not_feel(corpus):
    loader = mixstream.Loader(
        corpus, weights_of(corpus, 0, 0, 0, 0, 1), batch_size=2, num_workers=2
    )
    iterator = iter(loader)
    next(iterator)
    loader.set_weights(weights_of(corpus, 1, 0, 0, 0, 0), reason="now")
    state = through_json(loader.state_dict())
    (planned,) = state["batches"]["sampler"]["changes"]
    assert (planned["at_row"], planned["reason"]) == (10, "now")
    resumed = mixstream.Loader(corpus, batch_size=2)  # and no workers: the lag stays
    resumed.load_state_dict(state)
    domains = [batch["domain_ids"].tolist() for _, batch in zip(range(5), resumed, strict=False)]
    web, books = corpus.domains.index("web"), corpus.domains.index("books")
    assert domains == [[web] * 2] * 4 + [[books] * 2]


def test_states_stay_small_however_long_the_run_and_its_log(corpus):
    loader = mixstream.Loader(corpus, batch_size=2)
    sizes = []
    for step, _ in enumerate(loader):
        loader.set_weights(weights_of(corpus, 1, 2, 3, 4, step % 5 + 1), reason="every step")
        sizes.append(len(json.dumps(loader.state_dict())))
        if step == 300:
            break
    assert max(sizes) < 1500
    assert max(sizes[200:]) <= max(sizes[:100]) + 50


def test_numpy_integers_from_a_users_arithmetic_leave_the_state_json(corpus):
    (four,) = np.array([4])
    loader = mixstream.Loader(
        corpus, batch_size=four, rank=four - 4, world_size=four - 2, sampling="stratified"
    )
    loader.set_weights(weights_of(corpus, 1, 1, 1, 1, 1), at_step=four)
    assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()
    with pytest.raises(TypeError, match="float"):
        loader.set_weights(weights_of(corpus, 1, 1, 1, 1, 1), at_step=4.5)
