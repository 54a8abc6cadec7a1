"""A run over a converted corpus that is appended to and loses domains: loader, state and log."""

from __future__ import annotations

import json
import random
import shutil
import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mixstream
from mixstream import StateError
from mixstream.corpus.drop import drop_domain
from mixstream.runlog import drawn_counts, read_run, seen_at
from mixstream.runlog.replay import check_corpus
from tests.loader.conftest import SEQ_LEN, make_ranks, next_rows, rows_of, write_raw

SIZES = {"web": 900, "code": 500, "books": 300}


def add_text(raw, name, size, file="z.txt"):
    letters = random.Random(size)
    (raw / name).mkdir(exist_ok=True)
    text = "".join(letters.choice(string.ascii_letters) for _ in range(size))
    (raw / name / file).write_text(text)


def convert(raw, out, **options):
    common = {"tokenizer": "bytes", "seq_len": SEQ_LEN, "shard_bytes": SEQ_LEN * 2 * 7}
    mixstream.convert(raw, out, **common, **options)
    return mixstream.open_corpus(out)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """The corpus before; with more shards of web and a new domain maths; without books then."""
    folder = tmp_path_factory.mktemp("growth")
    raw = write_raw(folder / "raw", SIZES)
    corpora = [convert(raw, folder / "0")]
    shutil.copytree(folder / "0", folder / "1")
    add_text(raw, "web", 400)
    add_text(raw, "maths", 350)
    corpora.append(convert(raw, folder / "1", append=True))
    shutil.copytree(folder / "1", folder / "2")
    drop_domain(folder / "2", "books")
    corpora.append(mixstream.open_corpus(folder / "2"))
    return corpora


def through_json(state):
    return json.loads(json.dumps(state))


def names_of(corpus, batch):
    return [(corpus.domains[domain], row) for domain, row in rows_of(batch)]


def in_order(rows, first, nodes):
    """The rows of a batch of all ranks in the order of the run; they come node by node."""
    place = np.argsort((first + np.arange(len(rows))) % nodes, kind="stable").tolist()
    return [row for _, row in sorted(zip(place, rows, strict=True))]


class Run:
    """A run over one corpus after the other, and what it delivered."""

    def __init__(self, path, corpus, **options):
        self.path, self.options = path, {"batch_size": 6, "seed": 5, "run_log": path, **options}
        self.corpus, self.delivered = corpus, []
        self.loader = mixstream.Loader(corpus, **self.options)

    def steps(self, number):
        for batch in self.loader:
            nodes = self.options.get("num_canonical_nodes", 1)
            self.delivered += in_order(names_of(self.corpus, batch), len(self.delivered), nodes)
            number -= 1
            if number == 0:
                return

    def go_on(self, corpus, state=None, *, on_retired="raise", **others):
        state = through_json(state or self.loader.state_dict())
        self.delivered = self.delivered[: state["batches"]["sampler"]["row"]]
        self.corpus, self.options = corpus, {**self.options, **others}
        self.loader = mixstream.Loader(corpus, **self.options)
        self.loader.load_state_dict(state, on_retired=on_retired)


def replayed(run, corpus, **what):
    """The rows of a replay, as `names_of` gives them; the corpus holds all domains."""
    names = read_run(run.path).domains
    return [
        (names[d], corpus.row(names[d], int(r)).astype(np.int64).tobytes())
        for d, r in mixstream.replay(run.path, **what)
    ]


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_run_goes_on_over_a_grown_corpus_and_its_log_gives_every_row_again(
    grown, tmp_path, nodes
):
    before, after, without = grown
    run = Run(tmp_path / "run.jsonl", before, num_canonical_nodes=nodes)
    undisturbed = mixstream.Loader(before, batch_size=6, seed=5, num_canonical_nodes=nodes)
    run.steps(5)
    run.loader.set_weights({"web": 5, "code": 1, "books": 2}, at_step=12)
    undisturbed.set_weights({"web": 5, "code": 1, "books": 2}, at_step=12)
    run.go_on(after)
    assert run.loader.weights[-1] == 0
    run.steps(10)
    whole = []
    for _, batch in zip(range(15), undisturbed, strict=False):
        whole += in_order(names_of(before, batch), len(whole), nodes)
    assert [name for name, _ in run.delivered] == [name for name, _ in whole]
    assert [r for r in run.delivered if r[0] != "web"] == [r for r in whole if r[0] != "web"]
    assert run.delivered[:30] == whole[:30]
    run.loader.set_weights({"web": 3, "code": 1, "books": 0, "maths": 2}, reason="there is maths")
    run.steps(9)
    state = run.loader.state_dict()
    run.steps(4)
    run.go_on(after, state, batch_size=3)  # a kill, and another batch size
    run.steps(30)
    run.go_on(without)
    run.steps(4)
    run.loader.set_weights({"web": 0, "code": 1, "maths": 1})
    run.steps(20)
    counts = Counter(run.delivered)
    assert {name for name, _ in counts} == {"web", "code", "books", "maths"}
    first = Counter(run.delivered[: 6 * 24])
    assert nodes > 1 or max(n for (name, _), n in first.items() if name == "web") <= 2
    last = read_run(run.path).last_row
    assert replayed(run, after, rows=(0, last)) == run.delivered[:last]
    assert last == len(run.delivered)
    for rows in ((28, 33), (29, 30), (30, 31), (85, 200), (last - 3, last)):
        assert replayed(run, after, rows=rows) == run.delivered[slice(*rows)]
    drawn = drawn_counts(run.path, [0, 40, last]).sum(axis=0)
    names = read_run(run.path).domains
    assert names == ("books", "code", "web", "maths")
    assert drawn.tolist() == [sum(n == name for n, _ in run.delivered) for name in names]
    seen = seen_at(run.path, "web", 3)
    row = ("web", after.row("web", 3).astype(np.int64).tobytes())
    assert seen.rows.tolist() == [i for i, each in enumerate(run.delivered) if each == row]
    check_corpus(read_run(run.path), without.fingerprint)
    with pytest.raises(StateError, match=f"fingerprint {without.fingerprint}"):
        check_corpus(read_run(run.path), before.fingerprint)
    with pytest.raises(StateError, match="went on over another corpus from row 30 on"):
        mixstream.Loader.from_log(before, run.path)


def test_a_grown_run_gives_the_same_rows_on_another_world_size(grown):
    before, after, _ = grown
    (single,) = make_ranks(before, batch_size=12, seed=3)
    iterator = iter(single)
    for _ in range(4):
        next(iterator)
    state = through_json(single.state_dict())
    expected = None
    for world_size in (1, 2, 4):
        ranks = make_ranks(after, batch_size=12 // world_size, world_size=world_size, seed=3)
        for loader in ranks:
            loader.load_state_dict(state)
            loader.set_weights({"web": 1, "code": 1, "books": 1, "maths": 2}, at_step=7)
        iterators = [iter(loader) for loader in ranks]
        rows = [next_rows(iterators) for _ in range(12)]
        assert expected in (None, rows)
        expected = rows


def test_a_run_that_went_back_to_before_the_growth_replays_what_it_then_did(grown, tmp_path):
    before, after, _ = grown
    run = Run(tmp_path / "run.jsonl", before)
    run.steps(4)
    state = run.loader.state_dict()
    run.go_on(after)
    run.loader.set_weights({"web": 0, "code": 1, "books": 1, "maths": 5})
    run.steps(6)
    run.go_on(before, state)
    run.loader.set_weights({"web": 0, "code": 1, "books": 1})
    run.steps(6)
    run.loader.state_dict()
    assert replayed(run, after, rows=(0, 60)) == run.delivered
    again = mixstream.Loader.from_log(before, run.path)
    assert [r for _, b in zip(range(10), again, strict=False) for r in names_of(before, b)] == (
        run.delivered
    )


def test_a_log_that_begins_over_a_grown_corpus_replays(grown, tmp_path):
    before, after, _ = grown
    run = Run(tmp_path / "first.jsonl", before)
    run.steps(20)
    run.go_on(after, run_log=tmp_path / "second.jsonl")
    run.path = tmp_path / "second.jsonl"
    run.steps(20)
    run.loader.state_dict()
    assert replayed(run, after, rows=(120, 240)) == run.delivered[120:]
    assert replayed(run, after, rows=(200, 220)) == run.delivered[200:220]


def test_a_fresh_run_over_a_grown_corpus_does_not_go_on_in_the_old_log(grown, tmp_path):
    before, after, _ = grown
    Run(tmp_path / "run.jsonl", before).steps(2)
    fresh = Run(tmp_path / "run.jsonl", after)
    with pytest.raises(StateError, match=r"is of a run with corpus .* give run_log another path"):
        fresh.steps(1)


def test_a_corpus_that_does_not_follow_is_refused_and_both_values_are_named(grown, tmp_path):
    before, after, without = grown
    state = through_json(mixstream.Loader(before, batch_size=6).state_dict())

    def refused(corpus, state, said):
        loader = mixstream.Loader(corpus, batch_size=6)
        place = loader.fingerprint
        prints = f"fingerprint {state['corpus']}, this one has {corpus.fingerprint}: "
        with pytest.raises(StateError, match=prints + said):
            loader.load_state_dict(state)
        assert loader.fingerprint == place

    newer = through_json(mixstream.Loader(after, batch_size=6).state_dict())
    refused(before, newer, r"domain 'web' had \d+ shards and has \d+ here, so this corpus is an")
    folders = {name: f"{before.path}/{name}" for name in before.domains}
    renamed = {"web": folders["web"], "code": folders["code"], "novels": folders["books"]}
    refused(mixstream.open_corpus(renamed), state, "domain 'books' is 'novels' here; the name is")
    swapped = {**folders, "code": folders["web"]}
    refused(mixstream.open_corpus(swapped), state, r"the first \d+ shards of domain 'code' are oth")
    other = mixstream.open_corpus({"page": folders["web"]})
    refused(other, state, "they have no domain in common")
    old = {key: state[key] for key in ("version", "corpus", "batches")} | {"version": 1}
    refused(after, old, "a state of version 1 does not tell which shards it knew")
    mixstream.Loader(before, batch_size=6).load_state_dict(old)
    loader = mixstream.Loader(without, batch_size=6)
    with pytest.raises(StateError, match=r"domain 'books', of weight .* on_retired='redistribute'"):
        loader.load_state_dict(state)
    loader.load_state_dict(state, on_retired="redistribute")
    assert loader.weights[-1] == 0
    assert "books" in loader.state_dict()["contents"], "what it held is known if it returns"


def test_folders_of_others_grow_by_a_folder(grown):
    before, _, _ = grown
    folders = {name: f"{before.path}/{name}" for name in before.domains}
    two = mixstream.open_corpus({name: folders[name] for name in ("code", "web")})
    old = mixstream.Loader(two, batch_size=6, seed=1)
    iterator = iter(old)
    next(iterator)
    new = mixstream.Loader(mixstream.open_corpus(folders), batch_size=6, seed=1)
    new.load_state_dict(through_json(old.state_dict()))
    for _, ours, theirs in zip(range(20), new, iterator, strict=False):
        assert names_of(new.corpus, ours) == names_of(two, theirs)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), nodes=st.sampled_from([1, 2, 3]), block=st.sampled_from([3, 1 << 18]))
def test_whatever_a_run_lived_through_its_log_gives_every_row_again(
    grown, tmp_path_factory, data, nodes, block
):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    run = Run(path, grown[0], num_canonical_nodes=nodes, shuffle_block_rows=block)
    states, now = [], 0
    for _ in range(data.draw(st.integers(2, 9))):
        what = data.draw(st.sampled_from(["steps", "weights", "save", "grow", "back"]))
        if what == "steps":
            run.steps(data.draw(st.integers(1, 12)))
        elif what == "weights":
            numbers = [data.draw(st.integers(0, 3)) for _ in run.corpus.domains]
            ahead = data.draw(st.integers(0, 9))
            run.loader.set_weights(
                [*numbers[:-1], 1 + numbers[-1]], at_step=run.loader.step + ahead
            )
        elif what == "save":
            states.append((now, run.loader.state_dict()))
        elif what == "grow":
            now = data.draw(st.integers(now, 2))
            state = run.loader.state_dict()
            run.go_on(grown[now], state, on_retired="redistribute")
        elif states:
            place = data.draw(st.integers(0, len(states) - 1))
            del states[place + 1 :]  # what was saved after it is of a run that is taken back
            saved, state = states[place]
            now = data.draw(st.integers(saved, 2))
            run.go_on(grown[now], state, on_retired="redistribute")
    run.steps(3)
    run.loader.state_dict()
    last = len(run.delivered)
    first, end = sorted(data.draw(st.tuples(*[st.integers(0, last)] * 2)))
    for rows in ((0, last), (first, end)):
        assert replayed(run, grown[1], rows=rows) == run.delivered[slice(*rows)]
