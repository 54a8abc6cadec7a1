"""`mixstream replay`: which rows a step saw, and which steps saw a row."""

import itertools
import json

import pytest

import mixstream
from mixstream.cli import main

TEXTS = {"web": ["one fish two fish", "red fish"], "code": ["x = 1"]}


@pytest.fixture
def corpus_path(tmp_path):
    for name, texts in TEXTS.items():
        (tmp_path / "raw" / name).mkdir(parents=True)
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "raw" / name / "a.jsonl").write_text(lines)
    mixstream.convert(tmp_path / "raw", tmp_path / "corpus", tokenizer="bytes", seq_len=8)
    return str(tmp_path / "corpus")


@pytest.fixture
def log(corpus_path, tmp_path):
    corpus = mixstream.open_corpus(corpus_path)
    loader = mixstream.Loader(corpus, batch_size=2, run_log=tmp_path / "a.jsonl")
    for _ in itertools.islice(loader, 5):
        pass
    return str(tmp_path / "a.jsonl")


def printed(capsys, *arguments):
    assert main(["replay", *arguments]) == 0
    return capsys.readouterr().out


def lines_of(log, first, end):
    names = ("code", "web")
    rows = mixstream.replay(log, rows=(first, end)).tolist()
    return [f"{i // 2}\t{i}\t{names[d]}\t{r}" for i, (d, r) in enumerate(rows, first)]


def test_rows_and_steps_are_printed_a_line_each(log, capsys):
    assert printed(capsys, log, "--rows", "3:6").splitlines() == lines_of(log, 3, 6)
    assert printed(capsys, log, "--steps", "1:3").splitlines() == lines_of(log, 2, 6)
    assert printed(capsys, log, "--steps", "4").splitlines() == lines_of(log, 8, 10)


def test_the_text_of_a_step_comes_with_its_corpus(log, corpus_path, capsys):
    out = printed(capsys, log, "--rows", "0:10", "--corpus", corpus_path, "--text")
    corpus = mixstream.open_corpus(corpus_path)
    for domain, row in set(mixstream.replay(log, rows=(0, 10)).tolist()):
        ids = [token for token in corpus.row(domain, row).tolist() if token < 256]
        assert bytes(ids).decode() in out


def test_where_a_row_was_seen(log, corpus_path, capsys):
    expected = [line for line in lines_of(log, 0, 10) if line.endswith("web\t1")]
    out = printed(capsys, log, "--where", "web:1", "--corpus", corpus_path, "--text").splitlines()
    assert out[: len(expected)] == expected
    assert out[len(expected) :]  # the text of the row
    assert printed(capsys, log, "--where", "web:1", "--rows", "0:0") == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "tells of rows 0 to 10, steps 0 to 5; say which: --rows A:B"),
        (["--rows", "5:3"], "rows 5 to 3 cannot be replayed"),
        (["--rows", "0:2", "--text"], "--text needs the rows themselves; give --corpus"),
        (["--where", "web"], "--where 'web' is not DOMAIN:ROW"),
        (["--where", "web:x"], "--where 'web:x' is not DOMAIN:ROW"),
        (["--where", "wiki:1"], "no row 1 of domain 'wiki'"),
    ],
)
def test_what_cannot_be_answered_is_said(log, capsys, arguments, message):
    assert main(["replay", log, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_another_corpus_is_refused(log, tmp_path, capsys):
    mixstream.convert(tmp_path / "raw", tmp_path / "other", tokenizer="bytes", seq_len=4)
    assert main(["replay", log, "--rows", "0:1", "--corpus", str(tmp_path / "other")]) == 1
    assert "open the corpus of the run" in capsys.readouterr().err


def test_a_corpus_of_an_unknown_tokenizer_needs_it_named(corpus_path, tmp_path, capsys):
    corpus = mixstream.open_corpus({"web": f"{corpus_path}/web"})
    loader = mixstream.Loader(corpus, batch_size=2, run_log=tmp_path / "b.jsonl")
    next(iter(loader))
    arguments = [str(tmp_path / "b.jsonl"), "--rows", "0:1", "--text"]
    assert main(["replay", *arguments, "--corpus", f"{corpus_path}/web"]) == 1
    assert "needs the tokenizer that it was made with; give --tokenizer" in capsys.readouterr().err


def test_a_range_that_is_none_is_wrong_usage(log, capsys):
    with pytest.raises(SystemExit):
        main(["replay", log, "--rows", "all"])
    assert "'all' is not A:B, as in 0:100" in capsys.readouterr().err
