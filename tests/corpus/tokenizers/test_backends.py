"""Fast back ends give the reference's ids, for any text, in any process, in bounded memory."""

import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trained import written

from mixstream.corpus.tokenizers import (
    FastTokenizer,
    described,
    encoded,
    open_tokenizer,
    proven_tokenizer,
)
from mixstream.corpus.tokenizers import backends as module
from mixstream.corpus.tokenizers.hardcases import hard_cases

FASTEST = {
    "gpt2": "fastokens",
    "prefix": "gigatoken",
    "llama3": "fastokens",
    "qwen": "fastokens",
    "r50k_base": "gigatoken",
    "cl100k_base": "gigatoken",
    "o200k_base": "gigatoken",
}
CLAIMED = [
    (kind, backend)
    for kind in FASTEST
    for backend in ("gigatoken", "fastokens")
    if (kind, backend) != ("qwen", "gigatoken")
]
PIECES = st.sampled_from(
    [
        "<|endoftext|>",
        "<|end_of_text|>",
        "<tool>",
        "the",
        "'s",
        "\r",
        "\n",
        "  ",
        "12",
        "\u0301",
        "\u088f",
        "\U000323b0",
        "\u0897",
        "\u200d",
        "é",
        "漢",
        "\x00",
        "(s)",
        ".com",
        "İ",
        "Ⅷ",
    ]
)
ANY_CHARACTER = st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(
    st.lists(PIECES | st.text(ANY_CHARACTER, max_size=6), max_size=8).map("".join), max_size=6
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def pairs(folder):
    """{(kind, backend): (fast, reference)}."""
    references = {kind: open_tokenizer(written(folder, kind)) for kind in FASTEST}
    return {
        (kind, backend): (FastTokenizer(references[kind], backend), references[kind])
        for kind, backend in CLAIMED
    }


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS)
@pytest.mark.parametrize("claim", CLAIMED, ids="-".join)
def test_any_text_has_the_same_ids_in_every_back_end_that_claims_it(pairs, claim, texts):
    fast, reference = pairs[claim]
    ids, lengths = fast.encode(texts)
    expected, expected_lengths = reference.encode(texts)
    assert (ids.dtype, lengths.dtype) == (np.uint32, np.int64)
    assert (ids.tolist(), lengths.tolist()) == (expected.tolist(), expected_lengths.tolist())
    in_bytes = [text.encode() for text in texts]
    for some in (texts, in_bytes, [*texts[:2], *in_bytes[2:]]):
        assert encoded(fast, some)[0].tolist() == expected.tolist()
    assert fast.end_id not in ids


@pytest.mark.parametrize("kind", FASTEST)
def test_the_fastest_back_end_that_is_proven_is_chosen(folder, kind):
    chosen = proven_tokenizer(written(folder, kind), ["añ b".encode(), b"", b"x" * 70_000])
    assert chosen.backend == FASTEST[kind]
    stated = described(chosen)
    assert stated["library"] == FASTEST[kind]
    assert stated["version"][0].isdigit()
    assert stated["special_ids"]
    assert stated["sha256"] == open_tokenizer(written(folder, kind)).sha256


def test_hard_cases_hold_what_they_are_for():
    texts = hard_cases(["<|endoftext|>"])
    everything = b"".join(texts.values())
    for must in (b"", b"\r", b"\x00", b"<|endoftext|>", "\u200d".encode(), "\u0301".encode()):
        assert must in everything
    assert max(map(len, texts.values())) >= 100_000
    assert b"" in texts.values()
    assert all(text.decode("utf-8").encode("utf-8") == text for text in texts.values())


# --- processes and threads


def encoded_elsewhere(tokenizer):
    ids, _ = tokenizer.encode(["hello world", "<|endoftext|> \u088f"])
    return ids.tolist(), tokenizer.name, tokenizer.end_id, described(tokenizer), threading_count()


def threading_count():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0


def test_back_ends_survive_the_way_to_a_spawned_worker_even_when_the_file_is_gone(tmp_path):
    path = written(tmp_path, "llama3")
    reference = open_tokenizer(path)
    both = [FastTokenizer(reference, name) for name in ("gigatoken", "fastokens")]
    path.unlink()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(encoded_elsewhere, both)
    assert [one[:4] for one in there] == [encoded_elsewhere(one)[:4] for one in both]


def test_one_thread_starts_no_thread(tmp_path):
    program = (
        "import os, sys, threading\n"
        "from mixstream.corpus.tokenizers import proven_tokenizer\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "for backend in ('gigatoken', 'fastokens'):\n"
        "    made = proven_tokenizer(sys.argv[1], [b'text'], backend=backend)\n"
        "    before = count()\n"
        "    made.encode_utf8([b'some text here ' * 10_000] * 20)\n"
        "    assert count() <= before, (backend, before, count())\n"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("the number of threads is read from /proc, which is not here")
    path = str(written(tmp_path, "llama3"))
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=60)


def test_several_threads_give_the_same_ids(tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from mixstream.corpus.tokenizers import FastTokenizer, open_tokenizer\n"
        "reference = open_tokenizer(sys.argv[1])\n"
        "texts = [b'some text here %d ' % i * 3000 for i in range(60)]\n"
        "expected = reference.encode_utf8(texts)\n"
        "for backend in ('gigatoken', 'fastokens'):\n"
        "    ids, lengths = FastTokenizer(reference, backend, threads=2).encode_utf8(texts)\n"
        "    assert np.array_equal(ids, expected[0]) and np.array_equal(lengths, expected[1])\n"
    )
    path = str(written(tmp_path, "gpt2"))
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=60)


def test_gigatoken_is_made_anew_when_its_memory_has_grown(pairs, monkeypatch):
    fast, reference = pairs["llama3", "gigatoken"]
    fast = pickle.loads(pickle.dumps(fast))
    text = [b"a text of some words"]
    expected = reference.encode_utf8(text)[0].tolist()
    first = fast._encoder.of_utf8._model
    assert fast.encode_utf8(text)[0].tolist() == expected
    assert fast._encoder.of_utf8._model is first
    monkeypatch.setattr(module, "MAX_GROWTH_BYTES", -(2**40))
    assert fast.encode_utf8(text)[0].tolist() == expected
    assert fast._encoder.of_utf8._model is not first
    second = fast._encoder.of_utf8._model
    monkeypatch.setattr(module, "_process_bytes", lambda: None)
    assert fast.encode_utf8(text)[0].tolist() == expected
    assert fast._encoder.of_utf8._model is second
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 10)
    assert fast.encode_utf8(text)[0].tolist() == expected
    assert fast._encoder.of_utf8._model is not second


@given(texts=TEXTS)
def test_characters_that_gigatoken_sees_otherwise_are_found(texts):
    for text in texts:
        expected = module._NEW_CHARACTERS.search(text) is not None
        assert module.has_new_characters(text.encode()) == expected


def test_each_new_character_is_found_by_its_first_bytes():
    characters = map(chr, (*range(0xD800), *range(0xE000, 0x110000)))
    found = [character for character in characters if module._NEW_CHARACTERS.match(character)]
    assert len(found) > 4600
    assert all(module.has_new_characters(c.encode()) for c in found)
