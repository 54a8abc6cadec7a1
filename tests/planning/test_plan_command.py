import argparse
import json

import pytest

from mixstream.cli import main
from mixstream.cli.plan import bandwidth
from tests.corpus.shards import make_rows, write_corpus

RUN = ["--nodes", "2", "--ranks-per-node", "1", "--batch", "4", "--steps", "20",
       "--bandwidth", "1GB"]  # fmt: skip
PACE = ["--step-seconds", "0.1"]


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path / "c", {"web": make_rows(70, 16), "code": make_rows(35, 16)})
    return tmp_path / "c"


def test_plan_prints_a_table_and_reads_no_shard(corpus, capsys):
    for shard in corpus.rglob("*.mds"):
        shard.unlink()
    weights = ["--weights", "web=0.5", "code=0.5"]
    assert main(["plan", str(corpus), *RUN, *PACE, *weights]) == 0
    printed = capsys.readouterr().out
    assert "2 ranks on 2 nodes, 20 steps, 160 rows: 160 drawn, 0 as expected counts" in printed
    assert "shards downloaded twice  0\n" in printed
    assert "time to first batch" in printed
    assert [line.split()[0] for line in printed.splitlines()[3:5]] == ["web", "code"]


def test_plan_prints_json_of_a_remote_corpus(corpus, capsys):
    assert main(["plan", f"file://{corpus}", *RUN, *PACE, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sum(domain["rows"] for domain in plan["domains"]) == 160
    assert (plan["is_described"], plan["shards_downloaded_twice"]) == (False, 0)


def test_plan_takes_a_description_and_tokens_per_second(capsys):
    described = ["--synthetic", "web=1e6:100", "--seq-len", "64", "--tokens-per-second", "1000"]
    assert main(["plan", *described, *RUN, "--simulate-nodes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "bytes are estimates: the corpus is only described" in printed
    assert "(1 more nodes)" in printed
    # 20 steps of 8 rows of 64 tokens
    assert "whole run                10.4 s" in printed


def test_plan_follows_a_schedule(corpus, tmp_path, capsys):
    path = tmp_path / "plan.toml"
    path.write_text(
        'weights = { web = 1, code = 0 }\n[[change]]\nstep = "50%"\nweights = { web = 0, code = 1 }'
    )
    assert main(["plan", str(corpus), *RUN, *PACE, "--schedule", str(path), "--json"]) == 0
    rows = {d["name"]: d["rows"] for d in json.loads(capsys.readouterr().out)["domains"]}
    assert rows == {"web": 80, "code": 80}


@pytest.mark.parametrize("caps", [["1"], ["web=1", "code=1"]])
@pytest.mark.parametrize("order", [["--no-shuffle"], ["--block-rows", "10"]])
def test_plan_ends_a_run_whose_domains_are_exhausted(corpus, capsys, caps, order):
    run = ["plan", str(corpus), *RUN, *PACE, "--steps", "50", "--max-epochs", *caps, *order]
    assert main(run) == 0
    printed = capsys.readouterr().out
    assert "12 steps, 96 rows" in printed
    assert "- every domain has reached its max_epochs after 12 of 50 steps" in printed
    assert main([*run, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["num_steps"], plan["asked_steps"]) == (12, 50)


def test_the_help_of_plan_says_what_is_not_modelled(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "The limit on shards that a process has open" in said
    assert "is not modelled" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}", "--max-epochs", "1", "web=2"], "--max-epochs is 1, web=2; give one number for all"),
        (["{}", "--max-epochs", "web=1", "web=2"], "one NAME=N for each that has a limit"),
        (["{}", "--max-epochs", "wiki=1"], "unknown domain 'wiki' in max_epochs"),
        ([], "name a CORPUS, or describe one with --synthetic; one of the two"),
        (["{}", "--synthetic", "a=2:1"], "one of the two"),
        (["{}", "--seq-len", "3"], "--seq-len has no effect on a CORPUS"),
        (["{}", "--weights", "web=1"], "domain 'code' is missing in weights"),
        (["{}", "--canonical-nodes", "3"], "num_canonical_nodes is 3 with 2 nodes"),
        (["--synthetic", "web"], "'web' is not NAME=ROWS:SHARDS"),
    ],
)
def test_plan_names_what_is_wrong(corpus, capsys, arguments, message):
    assert main(["plan", *(a.format(corpus) for a in arguments), *RUN, *PACE]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bandwidth", "fast"], "'fast' is no bandwidth; give bytes a second"),
        (["--steps", "1.5"], "'1.5' is no whole number of at least 1, as in 1e5"),
        (["--steps", "x"], "'x' is no whole number"),
        (["--step-seconds", "0"], "'0' is no number above 0"),
        (["--step-seconds", "x"], "'x' is no number above 0"),
        (["--max-epochs", "web=x"], "'web=x' is not N or NAME=N, as in 1 or web=4"),
        (["--no-shuffle", "--block-rows", "5"], "not allowed with argument --no-shuffle"),
        (["--weights", "a=1", "--schedule", "f"], "not allowed with argument --weights"),
    ],
)
def test_plan_refuses_arguments_that_are_none(corpus, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["plan", str(corpus), *RUN, *PACE, *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10Gbit", 1.25e9), ("1.25GB/s", 1.25e9), ("800MiB", 800 * 2**20), ("1e6", 1e6),
     ("5kB", 5000), ("8 Mbit/s", 1e6)],
)  # fmt: skip
def test_a_bandwidth_has_a_unit(text, rate):
    assert bandwidth(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1GB", "GB", "1..2", "1iB", "1Gb", "10 furlongs"])
def test_what_is_no_bandwidth_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no bandwidth"):
        bandwidth(text)
