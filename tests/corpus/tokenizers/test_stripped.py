"""What a fast library is made of has no special tokens, and ids are counted as the library does."""

import orjson
import pytest
from tokenizers import Tokenizer, models, trainers

from mixstream.corpus.tokenizers import stripped as module
from mixstream.corpus.tokenizers.huggingface import JsonTokenizer
from mixstream.corpus.tokenizers.stripped import highest_id, stripped

TEXTS = ["the cat sat on the mat", "a mat, a cat and a hat"] * 20


def test_special_tokens_and_what_is_put_around_texts_are_left_out():
    config = {
        "added_tokens": [{"content": "<s>", "special": True}, {"content": "x", "special": False}],
        "truncation": {"max_length": 3},
        "padding": {"pad_id": 0},
        "post_processor": {"type": "TemplateProcessing"},
        "model": {"merges": [["a", "b"]]},
    }
    assert orjson.loads(stripped(config)) == {
        "added_tokens": [{"content": "x", "special": False}],
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "model": {"merges": ["a b"]},
    }


def test_merges_are_spelled_out_only_where_that_can_be_undone():
    plain = {"merges": [["a", "b"], ["ab", "c"]]}
    module._spell_merges(plain)
    assert plain == {"merges": ["a b", "ab c"]}
    for merges in ([["a ", "b"]], [["#version", "b"]], ["a b"], []):
        model = {"merges": merges}
        module._spell_merges(model)
        assert model == {"merges": merges}


@pytest.mark.parametrize(
    ("model", "trainer"),
    [
        (models.BPE(), trainers.BpeTrainer),
        (models.Unigram(), trainers.UnigramTrainer),
        (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer),
        (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer),
    ],
    ids=["BPE", "Unigram", "WordLevel", "WordPiece"],
)
def test_the_vocabulary_ends_where_the_library_says_whatever_the_model(model, trainer, tmp_path):
    tokenizer = Tokenizer(model)
    options = {"unk_token": "[UNK]"} if trainer is trainers.UnigramTrainer else {}
    tokenizer.train_from_iterator(
        TEXTS, trainer(vocab_size=40, special_tokens=["[UNK]"], show_progress=False, **options)
    )
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.add_tokens(["zebra"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    assert JsonTokenizer(tmp_path / "tokenizer.json").vocab_size == 1 + highest
    config = orjson.loads((tmp_path / "tokenizer.json").read_bytes())
    assert highest_id(config) == max(tokenizer.get_vocab(with_added_tokens=False).values())


def test_an_empty_vocabulary_has_no_highest_id():
    assert highest_id({"model": {"vocab": {}}}) == highest_id({"model": {"vocab": []}}) == -1
