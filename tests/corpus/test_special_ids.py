"""What stands around documents, and what the manifest says made their ids."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mixstream import RecipeError, convert, open_corpus
from mixstream.corpus.manifest import read_manifest
from tests.corpus.conftest import all_rows, assert_counts_are_exact, documents_of, write_texts

TEXTS = ["one text", "another text, longer than a row of eight ids can hold it", "x"]


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture
def tokenizer(tmp_path):
    """A folder with a byte-level BPE that has both special tokens."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(TEXTS * 3, trainer)
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    model.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("packing", ["concat", "best_fit", "pad"])
def test_bos_stands_before_each_document_and_is_counted(tmp_path, tokenizer, packing):
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", TEXTS)
    options = {"tokenizer": tokenizer, "seq_len": 8, "packing": packing}
    plain = convert(tmp_path / "raw", tmp_path / "plain", **options).domains["web"]
    begun = convert(tmp_path / "raw", tmp_path / "begun", bos=True, **options).domains["web"]
    assert begun.tokens == plain.tokens + len(TEXTS)
    corpus = open_corpus(tmp_path / "begun")
    assert_counts_are_exact(corpus)
    if packing == "concat":
        documents = documents_of(all_rows(corpus, "web"), corpus.end_id)
        assert [int(ids[0]) for ids in documents] == [0] * len(TEXTS)
        without = documents_of(all_rows(open_corpus(tmp_path / "plain"), "web"), corpus.end_id)
        for one, other in zip(documents, without, strict=True):
            np.testing.assert_array_equal(one[1:], other)


def test_the_manifest_says_what_made_the_ids_and_what_stands_around_documents(tmp_path, tokenizer):
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", TEXTS)
    backends = {"reference": "tokenizers", "fastokens": "fastokens"}
    for backend, library in backends.items():
        if library == "fastokens":
            pytest.importorskip("fastokens")
        out = tmp_path / backend
        convert(
            tmp_path / "raw", out, tokenizer=tokenizer, seq_len=8, bos=True,
            tokenizer_backend=backend,
        )  # fmt: skip
        entry = read_manifest(out).tokenizer
        assert (entry.bos_id, entry.end_id) == (0, 1)
        assert entry.special_ids == {"<s>": 0, "</s>": 1}
        assert entry.library == library
        assert entry.version
    rows = [all_rows(open_corpus(tmp_path / backend), "web") for backend in backends]
    np.testing.assert_array_equal(*rows)


def test_bos_of_a_tokenizer_without_one_is_refused(tmp_path):
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", TEXTS)
    with pytest.raises(RecipeError, match=r"'bytes' has no beginning-of-text id\. Leave bos out"):
        convert(tmp_path / "raw", tmp_path / "out", tokenizer="bytes", seq_len=8, bos=True)


def test_one_id_for_both_ends_is_refused_as_it_would_read_as_padding(tmp_path, tokenizer):
    config = {"bos_token": "</s>", "eos_token": "</s>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", TEXTS)
    with pytest.raises(RecipeError, match="one id, 1, for the beginning and the end of a text"):
        convert(tmp_path / "raw", tmp_path / "out", tokenizer=tokenizer, seq_len=8, bos=True)


def test_a_corpus_from_before_these_were_recorded_still_opens(tmp_path):
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", TEXTS)
    convert(tmp_path / "raw", tmp_path / "out", tokenizer="bytes", seq_len=8)
    path = tmp_path / "out" / "corpus.json"
    stated = json.loads(path.read_text())
    for key in ("bos_id", "special_ids", "library", "version"):
        del stated["tokenizer"][key]
    del stated["domains"]["web"]["documents_cut"]
    path.write_text(json.dumps(stated))
    entry = read_manifest(tmp_path / "out").tokenizer
    assert (entry.bos_id, entry.special_ids, entry.library) == (None, {}, "")
    assert open_corpus(tmp_path / "out").end_id == 256
