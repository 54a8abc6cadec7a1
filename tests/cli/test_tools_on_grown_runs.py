"""What the tools for run logs do where the corpus of a run grew, or lost domains, in its middle."""

import itertools
import json
import shutil
import threading

import numpy as np
import pytest

import mixstream
from mixstream.cli import main
from mixstream.corpus.drop import drop_domain
from mixstream.errors import WeightsError
from mixstream.plot.charts import charts_of
from mixstream.plot.drawn import DrawnBins
from mixstream.runlog import drawn_counts, read_run
from mixstream.watch.live import LiveRun
from tests.raw_text import random_corpus

BEFORE, AFTER = ("books", "code", "old", "web"), ("books", "code", "web", "new")
SIZES = {"books": 900, "code": 1600, "old": 800, "web": 4000, "new": 1200}
PLANNED = {"books": 1, "code": 1, "old": 0, "web": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of all five domains."""
    return random_corpus(tmp_path_factory.mktemp("grown"), SIZES, seed=5, letters="abcdefgh ")


def opened(folder, names):
    return mixstream.open_corpus({name: folder / name for name in names})


def made(corpus, log, **others):
    others = {"run_log": log, "steerable": True} | others
    return mixstream.Loader(corpus, batch_size=4, seed=3, **others)


def domains_of(loader, num_steps):
    """The names of the domains of the next rows."""
    batches = itertools.islice(loader, num_steps)
    return [loader.domains[index] for batch in batches for index in batch["domain_ids"].tolist()]


@pytest.fixture(params=["independent", "stratified", "micro_batch"])
def run(request, folder, tmp_path):
    """The log of a run that lost `old`, gained `new`, and had planned a change before that."""
    log, order = tmp_path / "run.jsonl", {"sampling": request.param}
    first = made(opened(folder, BEFORE), log, **order)
    drawn = domains_of(first, 20)
    first.set_weights(PLANNED, at_step=40, reason="planned")
    state = json.loads(json.dumps(first.state_dict()))
    second = made(opened(folder, AFTER), log, **order)
    second.load_state_dict(state, on_retired="redistribute")
    drawn += domains_of(second, 60)
    second.set_weights([1, 1, 1, 7], reason="new is in")
    drawn += domains_of(second, 20)
    second.state_dict()
    return log, drawn, second


def test_drawn_shares_are_those_of_the_delivered_rows(run):
    log, drawn, _ = run
    found, edges = read_run(log), np.arange(0, 401, 40)
    assert found.domains == (*BEFORE, "new")
    expected = [[drawn[a:b].count(name) for name in found.domains]
                for a, b in itertools.pairwise(edges.tolist())]  # fmt: skip
    assert drawn_counts(found, edges).tolist() == expected
    assert DrawnBins().counts(found, edges).tolist() == expected


@pytest.mark.parametrize("planned", [1, 2])
@pytest.mark.parametrize("then", [(*BEFORE, "new"), AFTER])
def test_a_log_that_begins_over_a_grown_corpus_replays_what_was_planned_before(
    folder, tmp_path, then, planned
):
    first = mixstream.Loader(opened(folder, BEFORE), PLANNED, batch_size=4, seed=3)
    domains_of(first, 10)
    later = {**PLANNED, "web": 3}
    for number in range(planned):
        first.set_weights(later, at_step=20 + 10 * number, reason="planned")
    log = tmp_path / "run.jsonl"
    second = made(opened(folder, then), log)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    drawn = domains_of(second, 15)
    if planned == 2:  # the same again, now among all domains: other draws
        again = [later.get(name, 0) for name in then]
        second.set_weights(again, at_step=30, reason="planned")
    drawn += domains_of(second, 35)
    second.state_dict()
    found = read_run(log)
    replayed = mixstream.replay(found, rows=(40, 240))["domain"].tolist()
    assert [found.domains[index] for index in replayed] == drawn
    edges = np.array([40, 80, 90, 240])
    assert (DrawnBins().counts(found, edges) == drawn_counts(found, edges)).all()


def test_a_change_that_a_lost_domain_made_says_so(run):
    marks = [(mark.step, mark.source, mark.reason) for mark in charts_of(read_run(run[0])).marks]
    assert marks == [
        (20, "resume", "old left the corpus"),
        (40, "code", "planned"),
        (80, "code", "new is in"),
    ]


def test_passes_start_at_what_was_drawn_before_the_log(folder, tmp_path):
    log, corpus = tmp_path / "run.jsonl", opened(folder, AFTER)
    domains_of(made(corpus, log), 5)
    other = mixstream.Loader(corpus, batch_size=4, seed=3)
    domains_of(other, 40)
    going_on = made(corpus, log)
    going_on.load_state_dict(json.loads(json.dumps(other.state_dict())))
    domains_of(going_on, 10)
    charts = charts_of(read_run(log))
    assert charts.first_step == 40
    passes = going_on.consumed().rows / corpus.num_rows
    assert charts.passes[-1] == pytest.approx(passes)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (dict.fromkeys(BEFORE, 1), "unknown domain 'old' in weights"),
        ({"books": 1, "code": 1, "web": 1}, "domain 'new' is missing in weights; name every dom"),
        ([1, 1, 1, 1, 1], r"has shape \(5,\); the corpus holds 4 domains: books, code, web, new"),
    ],
)
def test_weights_that_do_not_fit_the_corpus_of_today_are_refused_at_once(run, weights, message):
    with pytest.raises(WeightsError, match=message):
        mixstream.request_weights(run[0], weights, "why not")


def test_set_steers_a_run_over_a_corpus_that_changed(run, capsys):
    log, _, loader = run
    weights = ["books=1", "code=1", "web=0", "new=2"]
    end = threading.Event()

    def go_on():
        for _ in loader:
            if end.wait(0.01):
                return

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        code = main(["set", str(log), *weights, "--reason", "by hand", "--wait", "60"])
    finally:
        end.set()
        thread.join()
    assert code == 0
    assert "taken: felt from step" in capsys.readouterr().out
    assert loader.weights.tolist() == [0.25, 0.25, 0, 0.5]


def test_the_page_gives_sliders_to_the_domains_of_today_alone(run):
    picture = LiveRun(run[0]).picture("all", "")
    assert [(each["name"], each["weight"]) for each in picture["domains"]] == [
        ("books", 0.1), ("code", 0.1), ("web", 0.1), ("new", 0.7)
    ]  # fmt: skip
    assert {group["label"] for group in picture["groups"]} == {*BEFORE, "new"}


def test_replay_and_plot_tell_of_all_domains_that_there_were(run, tmp_path, capsys):
    log, drawn, _ = run
    assert main(["replay", str(log), "--steps", "18:22"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == drawn[72:88]
    assert main(["plot", str(log), "-o", str(tmp_path / "mix.svg")]) == 0
    picture = (tmp_path / "mix.svg").read_text()
    assert "old left the corpus" in picture


def test_text_is_replayed_as_far_as_the_corpus_that_is_given_has_it(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "corpus")
    log, less = tmp_path / "run.jsonl", str(tmp_path / "corpus")
    first = made(mixstream.open_corpus(less), log)
    drawn = domains_of(first, 10)
    state = first.state_dict()
    drop_domain(tmp_path / "corpus", "old")
    second = made(mixstream.open_corpus(less), log)
    second.load_state_dict(state, on_retired="redistribute")
    drawn += domains_of(second, 10)
    second.state_dict()
    row = mixstream.replay(log, rows=(drawn.index("old"), drawn.index("old") + 1))[0]["row"]
    said = "(domain 'old' has no such row in the corpus that is given)"
    for corpus, has_old in ((less, False), (str(folder), True)):
        options = ["--corpus", corpus, "--text"]
        assert main(["replay", str(log), "--rows", "0:80", *options]) == 0
        printed = capsys.readouterr().out
        assert printed.count(said) == (0 if has_old else drawn.count("old"))
        assert printed.count("\t") == 3 * 80
        assert main(["replay", str(log), "--where", f"old:{row}", *options]) == 0
        assert (said in capsys.readouterr().out) is not has_old
