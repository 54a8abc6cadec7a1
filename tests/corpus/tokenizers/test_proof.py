"""A back end whose ids differ is never used in silence; what differs first is named."""

import sys
import warnings

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models
from trained import json_texts, written

from mixstream.corpus.tokenizers import (
    ByteTokenizer,
    FastTokenizer,
    JsonTokenizer,
    SentenceTokenizer,
    described,
    open_tokenizer,
    proven_tokenizer,
)
from mixstream.corpus.tokenizers.proof import first_difference
from mixstream.errors import RecipeError


def whole_words(folder):
    """A tokenizer with a token that stands for whole words only, which gigatoken does not heed."""
    model = tokenizers.Tokenizer.from_str(json_texts()["prefix"])
    model.add_tokens([AddedToken("cat", single_word=True)])
    path = folder / "words.json"
    model.save(str(path))
    return path


def test_a_back_end_with_other_ids_is_named_with_the_first_difference_and_not_used(tmp_path):
    path = whole_words(tmp_path)
    message = (
        r"back end 'gigatoken' is not used for 'words.json', because its ids differ: in the token "
        r"'cat' as text, at position \d+: id \d+, where the reference has \d+. The next"
    )
    with pytest.warns(UserWarning, match=message):
        chosen = proven_tokenizer(path)
    assert described(chosen)["library"] in ("fastokens", "tokenizers")
    text = ["concatenate a cat"]
    assert chosen.encode(text)[0].tolist() == JsonTokenizer(path).encode(text)[0].tolist()


def test_a_back_end_that_is_asked_for_and_has_other_ids_is_an_error(tmp_path):
    message = r"'gigatoken' gives other ids than the reference for 'words.json': in the token 'cat'"
    with pytest.raises(RecipeError, match=message):
        proven_tokenizer(whole_words(tmp_path), backend="gigatoken")


class Slip(ByteTokenizer):
    """Bytes, but for one letter in real text."""

    def encode_utf8(self, texts):
        return super().encode_utf8([text.replace(b"q", b"p") for text in texts])


def ids_of(tokenizer, named):
    return tokenizer.encode_utf8(list(named.values()))


@given(texts=st.lists(st.text("aq", max_size=5), max_size=6))
def test_the_first_difference_is_the_first(texts):
    named = {f"sample {i}": text.encode() for i, text in enumerate(texts)}
    found = first_difference(Slip(), ids_of(ByteTokenizer(), named), named)
    wrong = [(name, text.index(b"q")) for name, text in named.items() if b"q" in text]
    if not wrong:
        assert found is None
    else:
        assert (found.document, found.position) == wrong[0]
        assert (found.given, found.expected) == (ord("p"), ord("q"))


class Short(ByteTokenizer):
    """Bytes, but for the last of each text."""

    def encode_utf8(self, texts):
        return super().encode_utf8([text[:-1] for text in texts])


def test_ids_that_are_too_few_or_too_many_are_a_difference():
    texts = {"the sample": b"ab"}
    fewer = first_difference(Short(), ids_of(ByteTokenizer(), texts), texts)
    assert str(fewer) == "in the sample, at position 1: id none, where the reference has 98"
    more = first_difference(ByteTokenizer(), ids_of(Short(), texts), texts)
    assert str(more) == "in the sample, at position 1: id 98, where the reference has none"


def test_a_difference_in_real_text_alone_is_found(tmp_path, monkeypatch):
    path = written(tmp_path, "llama3")
    encode = FastTokenizer.encode_utf8

    def slips(self, texts):
        return encode(self, [text.replace(b"zebra", b"zebru") for text in texts])

    monkeypatch.setattr(FastTokenizer, "encode_utf8", slips)
    assert described(proven_tokenizer(path))["library"] == "fastokens"
    with pytest.warns(UserWarning, match="differ: in sample 1, at position") as caught:
        chosen = proven_tokenizer(path, [b"a horse", b"a zebra"])
    assert isinstance(chosen, JsonTokenizer)
    assert len(caught) == 2


def test_one_that_is_not_installed_or_takes_no_such_tokenizer_is_passed_over(tmp_path, monkeypatch):
    path = written(tmp_path, "llama3")
    monkeypatch.setitem(sys.modules, "fastokens", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert described(proven_tokenizer(path))["library"] == "gigatoken"
        monkeypatch.setitem(sys.modules, "gigatoken", None)
        assert described(proven_tokenizer(path))["library"] == "tokenizers"
    with pytest.raises(RecipeError, match=r"'gigatoken' is not installed. Run: pip install giga"):
        proven_tokenizer(path, backend="gigatoken")


def test_one_that_is_asked_for_and_takes_no_such_tokenizer_is_an_error(tmp_path):
    model = tokenizers.Tokenizer(models.WordLevel({"a": 0, "u": 1}, unk_token="u"))
    model.add_special_tokens(["</s>"])
    model.save(str(tmp_path / "words.json"))
    assert isinstance(proven_tokenizer(tmp_path / "words.json"), JsonTokenizer)
    for backend in ("gigatoken", "fastokens"):
        with pytest.raises(RecipeError, match=rf"'{backend}' takes no .* 'words.json' \(.*WordLev"):
            proven_tokenizer(tmp_path / "words.json", backend=backend)
    with pytest.raises(RecipeError, match=r"takes no .*normal forms are of a newer Unicode"):
        proven_tokenizer(written(tmp_path, "qwen"), backend="gigatoken")


def test_names_of_back_ends_are_checked(tmp_path):
    path = written(tmp_path, "gpt2")
    with pytest.raises(RecipeError, match="back end 'rust'; there are fastokens, gigatoken, refer"):
        proven_tokenizer(path, backend="rust")
    with pytest.raises(RecipeError, match="'fastokens' is asked for, but 'bytes' is no tokenizer"):
        proven_tokenizer("bytes", backend="fastokens")
    assert isinstance(proven_tokenizer(path, backend="reference"), JsonTokenizer)
    assert isinstance(proven_tokenizer("bytes"), ByteTokenizer)
    assert isinstance(proven_tokenizer("bytes", backend="reference"), ByteTokenizer)


def test_samples_are_cut_short_but_all_of_them_are_looked_at(tmp_path):
    path = written(tmp_path, "gpt2")
    many = ["é".encode() * 40_000] * 200
    assert described(proven_tokenizer(path, many))["library"] == "fastokens"


# --- SentencePiece


def test_a_sentencepiece_model_is_taken_by_the_fast_library_where_its_ids_are_the_same(tmp_path):
    path = written(tmp_path, "bpe")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = proven_tokenizer(path, ["the été 한국".encode()])
    reference = SentenceTokenizer(path)
    texts = ["the été </s> <s>", "", "a  b\n", "한국\x00"]
    assert chosen.encode(texts)[0].tolist() == reference.encode(texts)[0].tolist()
    assert (chosen.end_id, chosen.bos_id) == (2, 1)
    with pytest.raises(RecipeError, match=r"takes no .* \(fastokens reads no SentencePiece"):
        proven_tokenizer(path, backend="fastokens")
    assert isinstance(proven_tokenizer(written(tmp_path, "unigram")), SentenceTokenizer)


def test_end_ids_stand_in_no_text_of_any_kind(tmp_path):
    for kind in ("gpt2", "metaspace", "bpe", "unigram", "cl100k_base"):
        opened = open_tokenizer(written(tmp_path, kind))
        ids, lengths = opened.encode(["</s>", "<|endoftext|>", "<s>", "the of"])
        assert opened.end_id not in ids
        assert ids.max() < opened.vocab_size
        ended = np.append(ids, [opened.end_id] * 2).astype(np.uint32)
        assert "the of" in opened.decode(ended[-int(lengths[-1]) - 2 :])
        assert "\ufffd" in opened.decode(np.array([2**31], np.uint32)) or kind != "cl100k_base"
