import json

import pytest

from mixstream.cli import main
from tests.cluster.conftest import texts_of


def test_clusters_are_written_and_a_target_is_counted_into_them(raw, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["cluster", str(raw), out, "--clusters", "3", "--dimensions", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cluster", "documents", "text", "bytes", "share"]
    assert [line.split()[:2] for line in lines[1:4]] == [["c0", "30"], ["c1", "30"], ["c2", "30"]]
    assert lines[4:] == ["dropped: 1 broken_json", "dropped: 1 empty"]
    target = tmp_path / "target.txt"
    target.write_text(texts_of("sea", 1)[0])
    file = tmp_path / "target.json"
    assert main(["cluster", str(target), "--model", out, "--json", str(file)]) == 0
    assert "2 of 3 clusters hold no document" in capsys.readouterr().out
    assert sorted(json.loads(file.read_text()).values()) == [0, 0, 1]


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    """A folder that was clustered, and its clusters."""
    folder = tmp_path_factory.mktemp("clustered")
    (folder / "raw").mkdir()
    for index, text in enumerate([*texts_of("sea", 5), *texts_of("law", 5)]):
        (folder / f"raw/{index}.txt").write_text(text)
    out = folder / "out"
    asked = ["--clusters", "2", "--dimensions", "4"]
    assert main(["cluster", str(folder / "raw"), str(out), *asked]) == 0
    return folder / "raw", out


def test_two_levels_and_no_balance_can_be_asked_for(raw, tmp_path, capsys):
    out = tmp_path / "out"
    asked = [
        "--clusters",
        "3x2",
        "--unbalanced",
        "--sample",
        "80",
        "--seed",
        "3",
        "--dimensions",
        "8",
    ]
    assert main(["cluster", str(raw), str(out), *asked]) == 0
    assert {path.name for path in out.glob("c*")} <= {f"c{i}-{j}" for i in range(3) for j in "01"}
    assert len(list(out.glob("c*"))) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no OUT to write the clusters to; give one, or --model to count"),
        (["{out}"], "in use; name a folder that is not there yet"),
        (["--model", "{raw}"], "ShardError: cannot read"),
        (["--model", "{out}", "--clusters", "5"], "num_clusters would have no effect"),
        (["--model", "{out}", "--embedding", "x"], "--embedding is 'x', but the clusters of"),
        (["{new}", "--embedding", "{new}"], "no sentence model at"),
        (["{new}", "--embedding", "{out}", "--dimensions", "4"], "dimensions is 4, but the sent"),
        (["{new}", "--clusters", "99"], "10 documents cannot make 99 clusters"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    clustered, tmp_path, capsys, arguments, message
):
    raw, out = clustered
    capsys.readouterr()
    places = {"raw": raw, "out": out, "new": tmp_path / "new"}
    assert main(["cluster", str(raw), *(each.format(**places) for each in arguments)]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_wrong_number_of_levels_is_wrong_usage(raw, tmp_path, capsys):
    for asked in ("2x2x2", "0", "many"):
        with pytest.raises(SystemExit, match="2"):
            main(["cluster", str(raw), str(tmp_path / "out"), "--clusters", asked])
    assert "is not an integer of at least 1" in capsys.readouterr().err
