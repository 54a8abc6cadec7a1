"""The experiments run, with settings of seconds; what they show is in benchmarks/experiments.md."""

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "tools" / "experiments"
sys.path[:0] = [str(EXPERIMENTS), str(ROOT / "tools")]

from lab import Experiment, Line, measured, table  # noqa: E402 (scripts beside each other)
from texts import NOISE, SHARED, deal, write_corpora  # noqa: E402

import mixstream  # noqa: E402

TINY = {"steps": 6, "batch_size": 4, "width": 32, "layers": 1, "text": 0.05}
SETTINGS = {
    "doremi": TINY,
    "skillit": TINY | {"graph_steps": 2, "num_rounds": 3},
    "autoscale": {
        "num_facts": 60,
        "first_rows": 40,
        "second_rows": 80,
        "target_rows": 200,
        "test_facts": 300,
    },
    "dga": TINY | {"ample_steps": 4, "update_every": 2, "probe_rows": 2},
    "importance": TINY | {"num_clusters": 4, "dimensions": 8},
    "doge": TINY | {"update_every": 3},
    "regmix": TINY | {"steps": 2, "num_fit": 4, "num_held_out": 3},
    "odm": TINY,
    "ado": TINY,
    "unimax": {"text": 0.1},
    "cost": TINY,
    "mixing_laws": TINY | {"steps": 2, "num_fit": 5, "num_held_out": 3},
    "olmix": TINY | {"steps": 4, "proxy_runs": 5, "proxy_steps": 2},
    "utilimax": TINY | {"steps": 4, "proxy_steps": 2},
    "pike": TINY | {"update_every": 3, "probe_rows": 4},
    "grape": TINY | {"update_every": 3, "probe_rows": 2},
    "aioli": TINY | {"steps": 8, "rounds": 2, "sweeps": 1, "probe_steps": 1, "probe_rows": 2},
    "rnb": TINY | {"num_clusters": 4, "dimensions": 8, "update_every": 3, "probe_rows": 2},
}
NEEDS_SKLEARN = ("importance", "rnb")
SLOW = ("regmix", "skillit", "dga", "mixing_laws", "olmix", "rnb")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no texts at {SHARED}")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def experiment_of(name):
    return importlib.import_module(name).EXPERIMENT


@needs_shared
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SETTINGS]
)
def test_an_experiment_measures_all_that_its_lines_name(name, tmp_path):
    if name in NEEDS_SKLEARN:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    experiment = experiment_of(name)
    measures = experiment.run(3, replace(experiment.settings, **SETTINGS[name]), tmp_path)
    assert {line.measure for line in experiment.lines} <= set(measures)
    assert not np.isnan(list(measures.values())).any()
    weights = [
        value for key, value in measures.items() if key.startswith(("weight", "last weight"))
    ]
    assert all(0 <= value <= 1 for value in weights)


def test_every_script_is_tried_and_has_a_record():
    scripts = {
        path.stem for path in EXPERIMENTS.glob("*.py") if "EXPERIMENT = " in path.read_text()
    }
    assert scripts == set(SETTINGS)
    for name in scripts:
        record = json.loads((ROOT / f"benchmarks/results/experiments/{name}.json").read_text())
        experiment = experiment_of(name)
        assert record["name"] == name == experiment.name
        assert list(record["lines"]) == [str(line) for line in experiment.lines]
        assert record["settings"] == asdict(experiment.settings)
        assert len(record["measures"]) >= 2, "two seeds at least"


def test_a_line_has_two_sides_and_nan_is_on_neither():
    line = Line(measure="loss, nats", at_least=1.0, at_most=2.0)
    assert [line.passed(x) for x in (0.9, 1.0, 2.0, 2.1, np.nan)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert str(line) == "loss, nats: at least 1 and at most 2"
    assert Line(measure="gain", at_least=0).passed(np.inf)


@dataclass(frozen=True)
class Nothing:
    """Settings of an experiment that does nothing."""

    gain: float = 0.5


TOY = Experiment(
    name="toy",
    claim="seeds gain.",
    lines=(Line(measure="gain", at_least=1.0),),
    settings=Nothing(),
    run=lambda seed, setting, folder: {
        "gain": seed * setting.gain,
        "files": len(list(folder.iterdir())),
    },
)


def test_a_record_holds_each_seed_and_passes_only_if_all_do(capsys):
    record = measured(TOY, Nothing(), [2, 3])
    assert record["measures"] == {"2": {"gain": 1.0, "files": 0}, "3": {"gain": 1.5, "files": 0}}
    assert record["passed"]
    assert record["settings"] == {"gain": 0.5}
    record = measured(TOY, Nothing(), [2, 1])
    assert record["lines"] == {"gain: at least 1": [True, False]}
    assert not record["passed"]
    json.dumps(record)


def test_a_table_has_the_lines_first_and_says_no_aloud():
    lines = table(TOY, {"2": {"files": 0.0, "gain": 1.0}, "1": {"files": 0.0, "gain": 0.51234}})
    assert lines.splitlines() == [
        "| measure | seed 2 | seed 1 | success | passed |",
        "| --- | ---: | ---: | --- | --- |",
        "| gain | 1 | 0.5123 | at least 1 | **NO** |",
        "| files | 0 | 0 |  |  |",
    ]


@needs_shared
def test_splits_share_no_document_and_are_a_function_of_the_seed():
    sizes = {split: {"recipes": 9_000, NOISE: 3_000} for split in ("train", "test")}
    dealt = deal(sizes, seed=1)
    again, other = deal(sizes, seed=1), deal(sizes, seed=2)
    assert dealt == again
    assert dealt != other
    for name in ("recipes", NOISE):
        train, test = (dealt[split][name] for split in ("train", "test"))
        assert not set(train[:-1]) & set(test[:-1])
        assert sum(len(text.encode()) for text in train) == pytest.approx(
            sizes["train"][name], abs=4
        )
    with pytest.raises(SystemExit, match=r"domain recipes has .* bytes less than are asked of it"):
        deal({"train": {"recipes": 10**9}}, seed=1)


def test_noise_needs_no_file_and_becomes_a_corpus(tmp_path):
    paths = write_corpora(tmp_path, {"train": {NOISE: 4_000}}, seed=1, seq_len=32)
    corpus = mixstream.open_corpus(paths["train"])
    assert corpus.domains == (NOISE,)
    ids = np.unique(np.concatenate([corpus.row(NOISE, row) for row in range(100)]))
    assert len(ids) == 65, "64 characters and the end of text"


@pytest.mark.slow
@needs_shared
def test_a_script_announces_runs_and_writes_its_record(tmp_path):
    command = [sys.executable, str(EXPERIMENTS / "unimax.py"), "--seeds", "1", "2", "--text", "0.1"]
    file = tmp_path / "record.json"
    done = subprocess.run(
        [*command, "--json", str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    announced, _, rest = done.stdout.partition("| measure")
    assert "success, for each seed:" in announced
    assert "| seed 1 | seed 2 |" in rest
    record = json.loads(file.read_text())
    assert record["command"].startswith("python tools/experiments/unimax.py --seeds 1 2")
    assert record["table"] in done.stdout
