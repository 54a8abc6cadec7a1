"""Names, files and folders stand for tokenizers; what is none says what to do."""

import base64
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trained import json_texts, rank_lines, sentence_model, written

from mixstream.corpus.tokenizers import (
    ByteTokenizer,
    JsonTokenizer,
    RankTokenizer,
    SentenceTokenizer,
    described,
    encoded,
    open_tokenizer,
    with_special_ids,
)
from mixstream.corpus.tokenizers.patterns import RANK_ENCODINGS
from mixstream.errors import RecipeError


def in_a_process_without_network(program, **environment):
    """What a program prints in a process of its own, in which nothing is to be fetched."""
    nowhere = {"HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, **nowhere, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


OPEN = (
    "import sys\n"
    "from mixstream.corpus.tokenizers import open_tokenizer\n"
    "opened = open_tokenizer({0!r})\n"
    "print(opened.name, opened.end_id, opened.encode(['the of'])[0].tolist())\n"
)


def test_a_hub_name_is_read_from_the_hub_s_cache(tmp_path):
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").write_text(json_texts()["llama3"])
    (snapshot / "tokenizer_config.json").write_text('{"eos_token": "<|begin_of_text|>"}')
    references = snapshot.parents[1] / "refs"
    references.mkdir()
    (references / "main").write_text("a" * 40)
    expected = JsonTokenizer(snapshot).encode(["the of"])[0].tolist()
    printed = in_a_process_without_network(OPEN.format("org/name"), HF_HOME=str(tmp_path))
    assert printed.strip() == f"org/name 0 {expected}"


def test_a_hub_name_that_cannot_be_had_says_so(tmp_path):
    printed = in_a_process_without_network(OPEN.format("org/name"), HF_HOME=str(tmp_path))
    assert "tokenizer org/name: no such file here, and its tokenizer.json is neither" in printed
    assert "Fetch it where there is a network, and give its path." in printed


def test_a_tiktoken_name_that_cannot_be_had_says_so(tmp_path):
    program = OPEN.format("cl100k_base")
    printed = in_a_process_without_network(program, TIKTOKEN_CACHE_DIR=str(tmp_path))
    assert "tokenizer cl100k_base: its ranks are not in tiktoken's cache and cannot be" in printed
    assert "encodings/cl100k_base.tiktoken where there is a network, and give the path" in printed


def test_a_tiktoken_name_is_read_from_tiktoken_s_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    published = RANK_ENCODINGS["r50k_base"]
    (tmp_path / hashlib.sha1(published.url.encode()).hexdigest()).write_bytes(rank_lines())
    mine = type(published)(
        pattern=published.pattern,
        scheme=published.scheme,
        url=published.url,
        sha256=hashlib.sha256(rank_lines()).hexdigest(),
        num_ranks=published.num_ranks,
    )
    monkeypatch.setitem(RANK_ENCODINGS, "r50k_base", mine)
    opened = open_tokenizer("r50k_base")
    assert (opened.name, opened.sha256) == ("r50k_base", mine.sha256)


# --- files of ranks


def test_a_file_of_ranks_has_the_end_of_text_after_its_last_rank(tmp_path):
    opened = open_tokenizer(written(tmp_path, "cl100k_base"))
    num_ranks = len(rank_lines().splitlines())
    assert (opened.end_id, opened.vocab_size, opened.bos_id) == (num_ranks, num_ranks + 1, None)
    ids, lengths = opened.encode(["the of", "", "<|endoftext|>é\x00"])
    assert lengths[1] == 0
    assert opened.decode(ids) == "the of<|endoftext|>é\x00"
    assert opened.decode(np.array([num_ranks, num_ranks + 5], np.uint32)) == "\ufffd"
    again = pickle.loads(pickle.dumps(opened))
    assert again.encode(["the of"])[0].tolist() == opened.encode(["the of"])[0].tolist()
    assert described(opened)["library"] == "tiktoken"


def test_a_published_file_of_ranks_has_the_published_special_ids():
    some = [bytes([i, j]) for i in range(256) for j in range(256)][: 50256 - 256]
    tokens = [*(bytes([i]) for i in range(256)), *some]
    content = b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(tokens))
    opened = RankTokenizer(content, encoding="r50k_base", name="r50k_base")
    assert (opened.end_id, opened.vocab_size) == (50256, 50257)


def test_a_file_of_ranks_whose_name_says_no_encoding_is_refused(tmp_path):
    (tmp_path / "mine.tiktoken").write_bytes(rank_lines())
    with pytest.raises(RecipeError, match=r"does not say how .* such as mine.cl100k_base.tiktoken"):
        open_tokenizer(tmp_path / "mine.tiktoken")


@pytest.mark.parametrize("content", [b"YQ== zero\n", b"a", b"\xff 1\n", b"YQ== 0 1\n"])
def test_a_garbled_file_of_ranks_is_named(tmp_path, content):
    path = tmp_path / "r50k_base.tiktoken"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"r50k_base.tiktoken: not a file of ranks .* base64"):
        open_tokenizer(path)
    path.write_bytes(b"YQ== 0\n")
    with pytest.raises(RecipeError, match=r"no token for byte 0\). Each of the 256 bytes"):
        open_tokenizer(path)


def test_tiktoken_is_asked_for_where_it_is_not_installed(tmp_path, monkeypatch):
    opened = open_tokenizer(written(tmp_path, "r50k_base"))
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    for use in (lambda: opened.encode(["a"]), lambda: open_tokenizer("r50k_base")):
        with pytest.raises(RecipeError, match=r"not installed. Run: pip install 'mixstream\[tikt"):
            use()


# --- SentencePiece models


def test_a_folder_may_hold_a_sentencepiece_model(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentence_model())
    opened = open_tokenizer(tmp_path)
    assert isinstance(opened, SentenceTokenizer)
    ids, lengths = opened.encode(["the of", "", "</s>"])
    assert lengths[1] == 0
    again = pickle.loads(pickle.dumps(opened))
    assert again.decode(ids[: lengths[0]]) == "the of"
    assert opened.decode(np.array([2, 10**6], np.uint32)) == "\ufffd"
    assert described(opened)["special_ids"] == {"<s>": 1, "</s>": 2}


def test_a_garbled_sentencepiece_model_is_named(tmp_path):
    (tmp_path / "bad.model").write_bytes(b"nothing of the kind")
    with pytest.raises(
        RecipeError, match=r"bad.model: not a SentencePiece model .* trainer writes"
    ):
        open_tokenizer(tmp_path / "bad.model")


def test_a_sentencepiece_model_without_an_end_is_refused(tmp_path):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"] * 9),
        model_writer=model,
        vocab_size=12,
        eos_id=-1,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    (tmp_path / "endless.model").write_bytes(model.getvalue())
    with pytest.raises(RecipeError, match=r"endless.model: has no end-of-sentence piece"):
        open_tokenizer(tmp_path / "endless.model")


def test_sentencepiece_is_asked_for_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (tmp_path / "some.model").write_bytes(b"any")
    with pytest.raises(RecipeError, match=r"not installed. Run: pip install 'mixstream\[sentence"):
        open_tokenizer(tmp_path / "some.model")


# --- what all have


def test_begin_of_text_is_the_configured_or_a_usual_token(tmp_path):
    path = written(tmp_path, "llama3")
    assert JsonTokenizer(path).bos_id == 0
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<|end_of_text|>"}')
    assert JsonTokenizer(path).bos_id == 1
    assert JsonTokenizer(written(tmp_path, "gpt2")).bos_id is None


class Words:
    """A tokenizer of one's own that knows no bytes."""

    name, sha256, vocab_size, end_id = "words", "", 9, 8

    def encode(self, texts):
        lengths = np.array([len(text.split()) for text in texts], np.int64)
        return np.zeros(lengths.sum(), np.uint32), lengths

    def decode(self, ids):
        return ""


def test_texts_in_bytes_are_for_any_tokenizer():
    ids, lengths = encoded(Words(), ["é f".encode(), b""])
    assert (ids.tolist(), lengths.tolist()) == ([0, 0], [2, 0])
    ids, lengths = encoded(ByteTokenizer(), ["é".encode(), b""])
    assert (ids.tolist(), lengths.tolist()) == ([195, 169], [2, 0])


def test_what_is_recorded_can_be_written_as_json(tmp_path):
    kinds = ("gpt2", "bpe", "o200k_base")
    opened = [ByteTokenizer(), Words(), *(open_tokenizer(written(tmp_path, k)) for k in kinds)]
    for tokenizer in opened:
        stated = json.loads(json.dumps(described(tokenizer)))
        assert stated["vocab_size"] > stated["end_id"] == tokenizer.end_id
        assert str(Path(tmp_path)) not in json.dumps(stated)


@pytest.mark.parametrize("eos_id", [None, 98, 99])
@pytest.mark.parametrize("bos_id", [None, 97, 99])
def test_special_ids_stand_around_each_document_that_has_ids(bos_id, eos_id):
    rows = [[1, 2], [], [3], [4, 5, 6], []]
    ids = np.array([i for row in rows for i in row], np.uint32)
    lengths = np.array([len(row) for row in rows], np.int64)
    longer, new = with_special_ids(ids, lengths, bos_id, eos_id=eos_id)
    before, after = ([i] if i is not None else [] for i in (bos_id, eos_id))
    expected = [[*before, *row, *after] for row in rows if row]
    assert longer.tolist() == [i for row in expected for i in row]
    assert new.tolist() == [len(row) for row in expected]
    assert (longer.dtype, new.dtype) == (np.uint32, np.int64)


def test_a_beginning_inside_a_document_is_refused():
    with pytest.raises(
        RecipeError, match=r"own beginning-of-text id 2 inside a text \(text 1 of 2"
    ):
        with_special_ids(np.array([1, 2], np.uint32), np.array([1, 1]), 2, eos_id=9)
