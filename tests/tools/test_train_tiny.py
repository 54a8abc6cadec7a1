"""The worked example: every method runs, steers, resumes, and is the same on two ranks.

Run as a script, this file is one rank of two (gloo, a file as store).
"""

import json
import random
import string
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mixstream
from mixstream import algorithms
from mixstream.errors import WeightsError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from tiny_methods import METHODS, PHASES  # noqa: E402 (tools are scripts beside each other)
from tiny_rows import split  # noqa: E402
from tiny_run import Run  # noqa: E402
from tiny_settings import Settings  # noqa: E402
from tiny_swarm import relative_utilities, warn_of_degenerate  # noqa: E402
from train_tiny import main, train  # noqa: E402

ONLINE = ("odm", "ado", "dga", "skillit", "pike", "grape", "rnb", "aioli")
OFFLINE = ("regmix", "mixing_laws", "olmix", "utilimax", "autoscale", "mixmin", "chameleon")
STEPS = 30
ON_RANKS = ("dga", "doremi", "odm", "doge", "pike", "grape", "aioli", "utilimax", "chameleon")
WORLD_SIZE = 2
TIMEOUT_SECONDS = 150


def write_raw(raw, sizes, seed):
    """Domains of other alphabets, so that one is easier than the next."""
    letters = random.Random(seed)
    for (name, size), many in zip(sizes.items(), (4, 12, 40), strict=True):
        (raw / name).mkdir(parents=True)
        text = "".join(letters.choice(string.ascii_letters[:many]) for _ in range(size))
        (raw / name / "0.txt").write_text(text)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """A corpus, and a target whose domains have the same names."""
    folder = tmp_path_factory.mktemp("tiny")
    write_raw(folder / "raw", {"few": 6000, "some": 4000, "many": 9000}, 1)
    write_raw(folder / "raw-target", {"few": 300, "some": 2000, "many": 100}, 2)
    for name in ("", "-target"):
        mixstream.convert(
            folder / f"raw{name}", folder / f"corpus{name}", tokenizer="bytes", seq_len=16
        )
    return folder / "corpus", folder / "corpus-target"


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings_of(corpora, method, **changes):
    corpus, target = map(str, corpora)
    tiny = Settings(
        corpus=corpus,
        method=method,
        target=target if method in ("dga", "importance", "doge", "mixmin") else None,
        weights="[3, 1, 1]" if method == "fixed" else None,
        steps=STEPS,
        batch_size=8,
        width=32,
        layers=1,
        eval_rows=8,
        update_every=5,
        probe_rows=4,
        graph_steps=2,
        proxy_runs=5,
        proxy_steps=3,
        rounds=3,
        log_every=5,
    )
    return replace(tiny, **changes)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_to_the_end_and_its_weights_reach_the_loader(corpora, method):
    seen = []

    def on_step(run):
        loader, algorithm = run.loader.weights, run.method.algorithm
        assert loader.sum() == pytest.approx(1)
        assert (loader >= 0).all()
        if method in OFFLINE:
            np.testing.assert_allclose(loader, run.earlier["mixture"], rtol=1e-12)
            assert not np.allclose(loader, 1 / 3), "the short runs told something"
        if run.method.steer is not None:
            np.testing.assert_allclose(loader, algorithm.weights, rtol=1e-12)
        if run.method.weigh is not None:
            np.testing.assert_array_equal(loader, run.method.weights)
            assert not np.array_equal(algorithm.weights, loader)
        seen.append((run.phase, loader))

    report = train(settings_of(corpora, method), on_step)
    assert len(seen) == STEPS * (len(PHASES.get(method, {})) + 1)
    moved = [weights for phase, weights in seen if phase == "main"]
    assert (len({weights.tobytes() for weights in moved}) > 1) == (method in ONLINE)
    assert list(report["losses"]) == report["domains"] == ["few", "many", "some"]
    assert np.isfinite(list(report["losses"].values())).all()
    assert report["losses"]["few"] < 5.5 < np.log(257) + 0.1, "it has learned something"
    json.dumps(report)


def test_loss_weights_are_apart_from_sampling_weights_and_become_those_of_the_main_run(corpora):
    proxies, starts = {}, {}

    def on_step(run):
        if run.phase == "proxy":
            proxies[run.step] = run.method.algorithm.average_weights
        if run.phase == "main":
            starts[run.step] = run.loader.weights

    train(settings_of(corpora, "doremi"), on_step)
    np.testing.assert_allclose(starts[1], proxies[STEPS], rtol=1e-12)
    np.testing.assert_array_equal(starts[1], starts[STEPS])


def test_importance_samples_by_the_targets_histogram_and_dga_moves_towards_it(corpora):
    target = mixstream.open_corpus(corpora[1])
    report = train(settings_of(corpora, "importance", smoothing=0.0, steps=1))
    np.testing.assert_allclose(report["weights"], target.num_rows / target.num_rows.sum())
    assert target.domains[2] == "some"
    report = train(settings_of(corpora, "dga", step_size=20.0, ema=0.5))
    assert np.argmax(report["weights"]) == 2


def test_all_classes_of_the_library_have_a_name_here():
    classes = {name for name in algorithms.__all__ if hasattr(getattr(algorithms, name), "update")}
    names = {name.replace("_", "") for name in METHODS}
    renamed = {
        "DataMixingLaws": "mixinglaws",
        "ImportanceSampling": "importance",
        "TemperatureSampling": "temperature",
    }
    classes -= {"Algorithm", "State"}  # a protocol and a dict
    assert {renamed.get(name, name.lower()) for name in classes} <= names


def test_a_short_run_leaves_the_model_and_the_order_as_they_were(corpora):
    run = Run(settings_of(corpora, "uniform"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    first, again = (run.short_run(np.eye(3)[1], 4, run.bench.probe_losses) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first < run.bench.probe_losses()).all(), "it has learned, and forgotten it"
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert run.loader.step == 0


def test_aioli_probes_each_mixture_in_a_round_then_trains_by_what_it_found(corpora):
    weights = []
    train(
        settings_of(corpora, "aioli", probe_steps=1, sweeps=2),
        lambda run: weights.append(run.loader.weights),
    )
    after = [each.tolist() for each in weights]  # element i: what step i + 1 is drawn by
    for start in (10, 20):
        probes = [tuple(each) for each in after[start - 1 : start + 5]]
        assert sorted(probes) == sorted(2 * [tuple(row) for row in np.eye(3).tolist()])
        training = after[start + 5 : start + 9]
        assert training == [training[0]] * 4
        assert 0 < min(training[0]) < max(training[0]) < 1


def test_laws_that_explain_too_little_are_told_of(corpora, capsys):
    bench = Run(settings_of(corpora, "uniform")).bench
    known = {"floor": np.zeros(2), "slope": np.zeros((2, 3)), "spread": np.ones(2)}
    warn_of_degenerate(bench, algorithms.MixingLaws(error=np.array([0.3, 0.3]), **known))
    assert capsys.readouterr().err == ""
    warn_of_degenerate(bench, algorithms.MixingLaws(error=np.array([0.3, 0.4]), **known))
    assert "1 of 2 laws leave more than a tenth of the variance" in capsys.readouterr().err


def test_a_tasks_best_run_has_all_its_utility_and_its_worst_none():
    found = relative_utilities(np.array([[2.0, 3.5], [3.0, 3.5], [6.0, 3.5]]))
    np.testing.assert_allclose(found, [[1.0, 0.0], [0.75, 0.0], [0.0, 0.0]])


def test_skillit_follows_the_loss_of_a_target_where_there_is_one(corpora, tmp_path):
    graph = tmp_path / "graph.json"
    graph.write_text("[[1, 0, 0], [0, 0, 0], [0, 0, 0]]")
    few, some = (
        train(settings_of(corpora, "skillit", target=target, graph=str(graph), step_size=1.0))
        for target in (corpora[1], None)
    )
    assert few["history"][-1][2] != some["history"][-1][2], "other rows were measured"
    graph.write_text("[[0], [0], [1]]")
    with pytest.raises(WeightsError, match=r"losses has shape \(3,\)"):
        train(settings_of(corpora, "skillit", target=corpora[1], graph=str(graph)))
    report = train(settings_of(corpora, "fixed"))
    assert report["weights"] == pytest.approx([0.6, 0.2, 0.2])


def test_forward_mode_steers_as_backward_does(corpora):
    both = [
        train(settings_of(corpora, "dga", forward=forward, dtype="float64", step_size=5.0))
        for forward in (False, True)
    ]
    np.testing.assert_allclose(both[1]["weights"], both[0]["weights"], rtol=1e-6)
    assert both[0]["weights"] != [1 / 3] * 3


def test_a_run_is_a_function_of_its_settings(corpora):
    reports = [
        without_times(train(settings_of(corpora, "dga", steps=10, seed=s))) for s in (0, 0, 1)
    ]
    assert reports[0] == reports[1]
    assert reports[0]["losses"] != reports[2]["losses"]


class KilledError(Exception):
    """What stands for a kill."""


def without_times(report):
    kept = {key: value for key, value in report.items() if key != "cost"}
    return kept | {"settings": kept["settings"] | {"checkpoint": None}}


@pytest.mark.parametrize(
    ("method", "kills"),
    [
        ("dga", [("main", 13)]),
        ("odm", [("main", 11)]),
        pytest.param("ado", [("main", 23), ("main", 27)], marks=pytest.mark.slow),
        ("skillit", [("main", 12)]),
        ("aioli", [("main", 3), ("main", 18), ("main", 29)]),
        ("pike", [("main", 14)]),
        ("grape", [("main", 14)]),
        ("rnb", [("main", 14)]),
        ("utilimax", [("main", 1), ("main", 14)]),
        ("doremi", [("reference", 12), ("proxy", 4), ("proxy", 17), ("main", 30)]),
        ("doge", [("proxy", 30), ("main", 6)]),
    ],
)
def test_killed_and_resumed_is_as_never_stopped(corpora, tmp_path, method, kills):
    plain = train(settings_of(corpora, method, checkpoint_every=5))
    file = str(tmp_path / "checkpoint.pt")
    settings = settings_of(corpora, method, checkpoint_every=5, checkpoint=file)
    for kill in kills:

        def on_step(run, kill=kill):
            if (run.phase, run.step) == kill:
                raise KilledError

        with pytest.raises(KilledError):
            train(settings, on_step)
    assert without_times(train(settings)) == without_times(plain)
    with pytest.raises(SystemExit, match="of a run with other settings"):
        train(replace(settings, seed=5))


def test_a_recorded_run_tells_its_weights_losses_and_rows_after_a_kill_too(corpora, tmp_path):
    log, rows = str(tmp_path / "a.jsonl"), {}
    settings = settings_of(
        corpora, "dga", run_log=log, checkpoint=str(tmp_path / "c.pt"), checkpoint_every=10
    )

    def on_step(run):
        rows[run.step] = run.loader.batches.row(run.step)
        if run.step == 17 and not rows.get("killed"):
            rows["killed"] = True
            raise KilledError

    with pytest.raises(KilledError):
        train(settings, on_step)
    report = train(settings, on_step)
    run = mixstream.read_run(log)
    assert run.last_step == STEPS
    np.testing.assert_allclose(run.weights_at(rows[STEPS]), report["weights"], rtol=1e-12)
    signals = [event for event in run.of("signal") if event["name"] == "training loss"]
    assert [event["step"] for event in signals] == list(range(5, STEPS + 1, 5))
    assert len(mixstream.replay(log, steps=(15, 20))) == 5 * settings.batch_size


def test_phases_record_their_runs_apart(corpora, tmp_path):
    train(settings_of(corpora, "doremi", run_log=str(tmp_path / "a.jsonl")))
    logs = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert logs == ["a.jsonl", "a.proxy.jsonl", "a.reference.jsonl"]


def test_held_out_rows_are_never_drawn_and_may_come_from_a_corpus_of_their_own(corpora):
    corpus = mixstream.open_corpus(corpora[0])
    kept, held_out = split(corpus, 20)
    for domain, name in enumerate(corpus.domains):
        rows = held_out["row"][held_out["domain"] == domain]
        total = corpus.num_rows[domain]
        assert rows.tolist() == list(range(total - min(20, total // 10), total))
        assert kept.layout[name].sum() == rows[0]
    loader = mixstream.Loader(kept, batch_size=64)
    drawn = loader.batches.sampler.take(2 * int(corpus.num_rows.sum()))
    for domain in range(len(corpus.domains)):
        first = held_out["row"][held_out["domain"] == domain][0]
        assert set(drawn["row"][drawn["domain"] == domain].tolist()) == set(range(first))
    report = train(settings_of(corpora, "uniform", eval=str(corpora[1]), steps=1))
    assert report["num_rows"] == corpus.num_rows.tolist()
    assert list(report["losses"]) == list(corpus.domains)


def test_what_cannot_run_says_so(corpora, tmp_path):
    with pytest.raises(SystemExit, match="importance needs --target"):
        train(settings_of(corpora, "importance", target=None))
    with pytest.raises(SystemExit, match="mixmin needs --target: a corpus of what should be"):
        train(settings_of(corpora, "mixmin", target=None))
    with pytest.raises(SystemExit, match="pike needs --probe-rows of 2 or more"):
        train(settings_of(corpora, "pike", probe_rows=1))
    with pytest.raises(SystemExit, match="--proxy-runs is 3; a law of 3 domains needs 4 or more"):
        train(settings_of(corpora, "olmix", proxy_runs=3))
    with pytest.raises(SystemExit, match="a round of aioli has 7 steps, and its 3 probes of 3 "):
        train(settings_of(corpora, "aioli", rounds=4, probe_steps=3))
    with pytest.raises(SystemExit, match="fixed needs --weights: a JSON list of 3 numbers"):
        train(settings_of(corpora, "fixed", weights=None))
    with pytest.raises(SystemExit, match=r"--weights '\[1,2' is no JSON list of numbers: "):
        train(settings_of(corpora, "fixed", weights="[1,2"))
    with pytest.raises(SystemExit, match="--dtype is 'float99'; give float32, float64 or bfloat16"):
        train(settings_of(corpora, "uniform", dtype="float99"))
    write_raw(tmp_path / "raw", {"a": 300, "b": 300, "c": 300}, 3)
    mixstream.convert(tmp_path / "raw", tmp_path / "other", tokenizer="bytes", seq_len=8)
    with pytest.raises(SystemExit, match="convert both alike"):
        train(settings_of(corpora, "dga", target=str(tmp_path / "other")))
    mixstream.convert(tmp_path / "raw", tmp_path / "names", tokenizer="bytes", seq_len=16)
    with pytest.raises(SystemExit, match="domains are named like the corpus's"):
        train(settings_of(corpora, "importance", target=str(tmp_path / "names")))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "odm", "--rule", "x"], "train_tiny: rule is 'x'; it must be one of"),
        (["--method", "fixed", "--weights", "[1, 2]"], r"train_tiny: weights has shape \(2,\)"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(corpora, monkeypatch, arguments, said):
    small = ["--width", "32", "--layers", "1", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["train_tiny.py", str(corpora[0]), *small, *arguments])
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    with pytest.raises(SystemExit, match=said):
        main()


def runs_on_ranks(corpora):
    """What is compared: float64, so that no difference but the order of sums is left."""
    short = {"dtype": "float64", "steps": 12, "probe_rows": 8, "rounds": 2, "probe_steps": 1}
    return {
        method: without_times(train(settings_of(corpora, method, **short))) for method in ON_RANKS
    }


def one_rank(rank, folder, *corpora):
    import datetime

    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=int(rank),
        world_size=WORLD_SIZE,
        timeout=datetime.timedelta(seconds=60),
    )
    Path(folder, f"{rank}.json").write_text(json.dumps(runs_on_ranks(corpora)))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_take_the_same_weights_as_one_process(corpora, tmp_path):
    command = [sys.executable, "-m", "tests.tools.test_train_tiny"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path), *map(str, corpora)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for rank in range(WORLD_SIZE)
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
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    single = runs_on_ranks(corpora)
    for method in ON_RANKS:
        for (phase, step, found), wanted in zip(
            first[method]["history"], single[method]["history"], strict=True
        ):
            assert [phase, step] == wanted[:2]
            np.testing.assert_allclose(found, wanted[2], rtol=1e-6, err_msg=method)
        for key in ("weights", "mean_loss"):
            np.testing.assert_allclose(first[method][key], single[method][key], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_command_prints_a_table_and_writes_json(corpora, tmp_path, ranks):
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    arguments = ["--method", "doremi", "--steps", "6", "--width", "32", "--layers", "1", "--time"]
    file = tmp_path / "report.json"
    done = subprocess.run(
        [*start, "tools/train_tiny.py", str(corpora[0]), *arguments, "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "held-out loss, nats per token" in done.stdout
    assert done.stdout.count("doremi, seed 0, 6 steps of 16 rows") == 1, "one rank prints"
    assert "proxy: " in done.stdout
    report = json.loads(file.read_text())
    assert set(report["cost"]) == {"reference", "proxy", "main"}
    assert sum(report["weights"]) == pytest.approx(1)


if __name__ == "__main__":
    one_rank(*sys.argv[1:])
