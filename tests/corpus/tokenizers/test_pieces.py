"""Long documents go in pieces; where the module says so, the ids are those of the whole."""

import doctest
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trained import json_texts, written

from mixstream.corpus.tokenizers import (
    ByteTokenizer,
    FastTokenizer,
    base,
    open_tokenizer,
    pieces,
    plain,
    special,
)
from mixstream.corpus.tokenizers.patterns import cut_separators
from mixstream.corpus.tokenizers.pieces import (
    ALL_SEPARATORS,
    MAX_PIECE_BYTES,
    are_short,
    encoded_in_pieces,
)

LETTERS = st.text(
    st.sampled_from("abcXYZ   \n\n\t.,'!?12é漢\u0301\u00a0\r<>_-sdtm\u017fǅ"), max_size=120
)
SAFE = ("gpt2", "llama3", "qwen", "r50k_base", "cl100k_base", "o200k_base")


@pytest.mark.parametrize("module", [base, pieces, plain, special])
def test_worked_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: open_tokenizer(written(folder, kind)) for kind in SAFE}


@settings(max_examples=150, deadline=None)
@given(text=LETTERS)
@pytest.mark.parametrize("kind", SAFE)
def test_a_cut_at_any_of_the_separators_changes_no_id(references, kind, text):
    reference, raw = references[kind], text.encode()
    separators = reference.vocabulary.separators
    whole = reference.encode_utf8([raw])[0].tolist()
    cuts = [
        i
        for i in range(1, len(raw))
        if raw[i - 1 : i].isalpha() and raw[i : i + 1] in [bytes([b]) for b in separators]
    ]
    halves = [part for cut in cuts for part in (raw[:cut], raw[cut:])]
    ids, lengths = reference.encode_utf8(halves)
    rows = np.split(ids, np.cumsum(lengths)[1:-1:2]) if cuts else []
    assert all(row.tolist() == whole for row in rows)


@given(text=LETTERS, max_bytes=st.integers(4, 30))
def test_pieces_are_the_text_in_whole_characters_and_none_is_too_long(text, max_bytes):
    found = pieces.pieces(text.encode(), ALL_SEPARATORS, max_bytes=max_bytes)
    assert "".join(piece.decode("utf-8") for piece in found) == text
    assert all(len(piece) <= max_bytes for piece in found)
    assert len(found) == 1 or all(found)


@given(texts=st.lists(LETTERS, max_size=8), max_bytes=st.integers(4, 200))
@pytest.mark.parametrize("separators", [None, b" \n", ALL_SEPARATORS])
def test_documents_keep_their_ids_and_counts_whatever_the_pieces(separators, texts, max_bytes):
    raw = [text.encode() for text in texts]
    calls = []

    def encode(given):
        calls.append(given)
        return ByteTokenizer().encode_utf8(given)

    ids, counts = encoded_in_pieces(encode, raw, separators, max_bytes=max_bytes)
    expected, expected_counts = ByteTokenizer().encode_utf8(raw)
    assert (ids.tolist(), counts.tolist()) == (expected.tolist(), expected_counts.tolist())
    if separators is not None:
        assert all(sum(map(len, given)) <= 2 * max_bytes for given in calls)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["ab", "7", "\n", "漢", "\u0301"])
def test_a_document_without_a_space_has_the_same_ids_in_every_back_end(references, unit):
    text = (unit * (5 * 2**20 // len(unit.encode()))).encode()
    reference = references["llama3"]
    expected = reference.encode_utf8([b"x", text, b"y"])
    for name in ("gigatoken", "fastokens"):
        found = FastTokenizer(reference, name).encode_utf8([b"x", text, b"y"])
        assert all(map(np.array_equal, found, expected))
    assert reference.decode(expected[0][1:-1]).encode() == text


def test_texts_are_short_where_none_would_be_cut_and_one_call_takes_them_all():
    longest = "a" * (MAX_PIECE_BYTES // 4)  # of four bytes a character, it would be a piece
    assert are_short([])
    assert are_short([longest] * 4)
    assert not are_short([longest] * 5)
    assert not are_short([longest + "a"])


def test_nothing_is_cut_where_nothing_is_known(tmp_path):
    for kind in ("prefix", "metaspace", "bpe", "unigram"):
        assert open_tokenizer(written(tmp_path, kind)).vocabulary.separators is None


def changed(kind, **changes):
    return {**json.loads(json_texts()[kind]), **changes}


def test_what_may_be_cut_is_decided_by_the_whole_file():
    assert cut_separators(changed("llama3")) == ALL_SEPARATORS
    assert cut_separators(changed("qwen")) == b" \n"
    assert cut_separators(changed("gpt2", normalizer={"type": "NFKC"})) is None
    assert cut_separators(changed("gpt2", pre_tokenizer=None)) is None
    assert cut_separators(changed("gpt2", pre_tokenizer={"type": "Whitespace"})) is None
    assert cut_separators({"model": {"type": "WordPiece"}}) is None
    token = {"content": "<a>", "special": False, "lstrip": False, "rstrip": False}
    assert cut_separators(changed("gpt2", added_tokens=[token])) == b" \n"
    for unsafe in ({"rstrip": True}, {"lstrip": True}, {"content": "a b"}):
        assert cut_separators(changed("gpt2", added_tokens=[{**token, **unsafe}])) is None
    split = json.loads(json_texts()["llama3"])["pre_tokenizer"]
    split["pretokenizers"][0]["pattern"]["Regex"] += "|x y"
    assert cut_separators(changed("llama3", pre_tokenizer=split)) is None
