"""Ids come back as text, special tokens in a text stay text, and an end id stands only at ends."""

import hashlib
import json
import multiprocessing
import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from mixstream.corpus.tokenizers import (
    ByteTokenizer,
    JsonTokenizer,
    Tokenizer,
    open_tokenizer,
    with_end_ids,
)
from mixstream.errors import RecipeError

END = "<|endoftext|>"
TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.sampled_from([END, f"a{END}b", f" {END}", "</s>", "hello world"]),
    max_size=8,
)


def byte_level(specials=(END,)):
    """A small byte-level BPE whose training text spells the special tokens."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([f"hello world {END} </s> <eos>"] * 20, trainer)
    return model


@cache
def byte_level_json():
    return byte_level().to_str()


def saved(folder, model, name="tokenizer.json"):
    model.save(str(folder / name))
    return folder / name


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "small.json"
    path.write_text(byte_level_json())
    return JsonTokenizer(path)


@given(texts=TEXTS)
def test_bytes_come_back_as_the_texts(texts):
    tokenizer = ByteTokenizer()
    ids, lengths = tokenizer.encode(texts)
    assert (ids.dtype, lengths.dtype) == (np.uint32, np.int64)
    assert lengths.tolist() == [len(text.encode()) for text in texts]
    ended, _ = with_end_ids(ids, lengths, tokenizer.end_id)
    assert tokenizer.decode(ids) == tokenizer.decode(ended) == "".join(texts)
    assert tokenizer.vocab_size == tokenizer.end_id + 1 == 257


@given(texts=TEXTS)
def test_a_tokenizer_json_gives_the_ids_of_each_text_and_never_its_end_id(bpe, texts):
    ids, lengths = bpe.encode(texts)
    assert (ids.dtype, lengths.dtype) == (np.uint32, np.int64)
    assert lengths.sum() == len(ids)
    assert (ids < bpe.vocab_size).all()
    assert bpe.end_id not in ids
    parts = np.split(ids, np.cumsum(lengths)[:-1]) if texts else []
    assert [bpe.decode(part) for part in parts] == texts
    ended, _ = with_end_ids(ids, lengths, bpe.end_id)
    assert bpe.decode(ended) == "".join(texts)


@given(ids=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 400), max_size=20))
def test_decode_takes_any_ids(bpe, ids):
    for tokenizer in (bpe, ByteTokenizer()):
        assert isinstance(tokenizer.decode(np.array(ids, np.uint32)), str)


def test_half_a_character_is_shown_as_such():
    assert ByteTokenizer().decode(np.array([104, 195, 256, 300], np.uint32)) == "h\ufffd\ufffd"


@given(lengths=st.lists(st.integers(0, 5), max_size=12))
def test_an_end_id_follows_every_document_that_has_ids(lengths):
    lengths = np.array(lengths, np.int64)
    ids = np.arange(lengths.sum(), dtype=np.uint32)
    ended, longer = with_end_ids(ids, lengths, 999)
    expected = [
        [*part.tolist(), 999] for part in np.split(ids, np.cumsum(lengths)[:-1]) if len(part)
    ]
    assert np.split(ended, np.cumsum(longer))[-1].size == 0
    assert [part.tolist() for part in np.split(ended, np.cumsum(longer)[:-1])] == (expected or [[]])


def test_an_end_id_inside_a_document_is_refused():
    ids = np.array([1, 2, 9, 3], np.uint32)
    with pytest.raises(RecipeError, match=r"end-of-text id 9 inside a text \(text 2 of 3"):
        with_end_ids(ids, np.array([2, 0, 2]), 9)


def test_names_and_checksums_know_no_folder(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "small.json").write_text(byte_level_json())
    first, second = (open_tokenizer(tmp_path / name / "small.json") for name in "ab")
    assert first.name == second.name == "small.json"
    assert first.sha256 == second.sha256 == hashlib.sha256(byte_level_json().encode()).hexdigest()
    assert str(tmp_path).encode() not in pickle.dumps(first)


def encoded_elsewhere(tokenizer):
    return tokenizer.encode(["hello world", END])[0].tolist(), tokenizer.name, tokenizer.end_id


def test_tokenizers_survive_the_way_to_a_spawned_worker_even_when_the_file_is_gone(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(byte_level_json())
    both = [open_tokenizer(str(path)), open_tokenizer("bytes")]
    path.unlink()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(encoded_elsewhere, both) == [encoded_elsewhere(one) for one in both]


def test_truncation_padding_and_added_tokens_of_the_file_are_switched_off(tmp_path):
    model = byte_level()
    model.enable_truncation(3)
    model.enable_padding(length=50)
    model.post_processor = processors.TemplateProcessing(
        single=f"{END} $A {END}", special_tokens=[(END, 0)]
    )
    tokenizer = JsonTokenizer(saved(tmp_path, model))
    ids, lengths = tokenizer.encode(["hello world " * 9, "hello"])
    assert lengths[0] > 9
    assert tokenizer.decode(ids) == "hello world " * 9 + "hello"


# --- which token ends a text


def test_the_argument_goes_before_the_config_and_the_config_before_the_usual_names(tmp_path):
    path = saved(tmp_path, byte_level([END, "</s>", "<mine>", "<eos>"]))
    assert JsonTokenizer(path).end_id == 0
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": "</s>"}))
    assert JsonTokenizer(path).end_id == 1
    config.write_text(json.dumps({"eos_token": {"content": "<eos>", "lstrip": False}}))
    assert JsonTokenizer(path).end_id == 3
    config.write_text(json.dumps({"eos_token": None}))
    assert JsonTokenizer(path).end_id == 0
    assert JsonTokenizer(tmp_path, end_of_text="<mine>").end_id == 2
    assert pickle.loads(pickle.dumps(JsonTokenizer(path, end_of_text="<mine>"))).end_id == 2


def test_a_tokenizer_without_an_end_token_is_refused_and_its_special_tokens_are_named(tmp_path):
    path = saved(tmp_path, byte_level(["<pad>", "<|im_end|>"]))
    listed = r"its special tokens are '<pad>', '<\|im_end\|>'"
    with pytest.raises(RecipeError, match=rf"does not say which token ends a text.* {listed}"):
        JsonTokenizer(path)
    assert JsonTokenizer(path, end_of_text="<|im_end|>").end_id == 1
    for end_of_text in ("<none>", ""):
        with pytest.raises(RecipeError, match=rf"has no token '{end_of_text}' to end .* {listed}"):
            JsonTokenizer(path, end_of_text=end_of_text)


def test_a_broken_config_beside_the_tokenizer_is_named(tmp_path):
    path = saved(tmp_path, byte_level())
    for text in ("{", "[]"):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(RecipeError, match=r"tokenizer_config.json: not a JSON object .* Mend"):
            JsonTokenizer(path)


def test_an_end_token_that_is_not_special_is_refused(tmp_path):
    model = byte_level(["<pad>"])
    model.add_tokens(["<stop>"])
    message = r"text '.*<stop>.*' turns into id \d+, .* \(no special token in this file\).* Mark"
    with pytest.raises(RecipeError, match=message):
        JsonTokenizer(saved(tmp_path, model), end_of_text="<stop>")


def test_a_special_end_token_that_the_model_spells_by_itself_is_refused(tmp_path):
    pieces = [("<unk>", 0.0), ("</s>", -1.0), *((letter, -3.0) for letter in "</s>ab ")]
    model = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    model.add_special_tokens(["</s>"])
    message = r"turns into id 1, which is the end-of-text token '</s>' \(special\)"
    with pytest.raises(RecipeError, match=message):
        JsonTokenizer(saved(tmp_path, model))


def test_an_end_token_that_stands_for_unknown_words_is_refused(tmp_path):
    model = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="</s>"))
    model.add_special_tokens(["</s>"])
    with pytest.raises(RecipeError, match="turns into id 0, which is the end-of-text token"):
        JsonTokenizer(saved(tmp_path, model))


def test_an_end_id_that_slips_past_the_proof_is_caught_in_the_text(tmp_path):
    model = tokenizers.Tokenizer(models.WordLevel({"[EOS]": 0, "u": 1}, unk_token="u"))
    model.add_special_tokens(["[EOS]"])
    model.normalizer = normalizers.Replace("stop", "[EOS]")
    model.pre_tokenizer = pre_tokenizers.Split("#", "isolated")
    model.add_special_tokens(["<end>"])
    tokenizer = JsonTokenizer(saved(tmp_path, model), end_of_text="<end>")
    ids, lengths = tokenizer.encode(["stop", "other"])
    with pytest.raises(RecipeError, match=r"inside a text \(text 0 of 2"):
        with_end_ids(ids, lengths, 0)


def test_vocab_size_covers_ids_with_holes_between_them(tmp_path):
    model = tokenizers.Tokenizer(models.WordLevel({"a": 0, "u": 700}, unk_token="u"))
    model.add_special_tokens(["</s>"])
    tokenizer = JsonTokenizer(saved(tmp_path, model))
    assert tokenizer.vocab_size > 700
    assert tokenizer.end_id < tokenizer.vocab_size
    assert tokenizer.encode(["x", "a"])[0].tolist() == [700, 0]


# --- what is no tokenizer


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"model": 1}', b"\xff\xfe", b"\x80" * 9])
def test_a_garbled_file_is_named(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"bad.json: not a tokenizer.json .* Give the file that"):
        open_tokenizer(path)


def test_a_missing_file_is_named(tmp_path):
    for name in ("gpt2", str(tmp_path / "none.json"), tmp_path):
        with pytest.raises(
            RecipeError, match=r"cannot be read \(No such file.*or a hub name such as"
        ):
            open_tokenizer(name)


class WordCounter:
    """A tokenizer of one's own: every word is id 0."""

    name = "words"
    sha256 = "0" * 64
    vocab_size = 2
    end_id = 1

    def encode(self, texts):
        lengths = np.array([len(text.split()) for text in texts], np.int64)
        return np.zeros(lengths.sum(), np.uint32), lengths

    def decode(self, ids):
        return " ".join("word" for one in ids if one == 0)


def test_an_object_of_ones_own_comes_back_as_it_is():
    mine = WordCounter()
    assert open_tokenizer(mine) is mine
    assert isinstance(ByteTokenizer(), Tokenizer)
    for wrong in (object(), WordCounter, None):
        with pytest.raises(RecipeError, match="or an object with name, sha256, vocab_size"):
            open_tokenizer(wrong)


def test_an_end_token_is_refused_where_it_has_no_effect():
    for tokenizer in ("bytes", WordCounter()):
        with pytest.raises(RecipeError, match=r"end_of_text is '</s>', but only a token"):
            open_tokenizer(tokenizer, end_of_text="</s>")


def test_a_folder_stands_for_its_tokenizer_json(tmp_path):
    saved(tmp_path, byte_level())
    assert open_tokenizer(tmp_path).name == "tokenizer.json"
    assert isinstance(open_tokenizer(Path("bytes").name), ByteTokenizer)
