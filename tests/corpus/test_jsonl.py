"""A block of lines gives what its lines give one by one, wherever chunks end."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.corpus import jsonl
from mixstream.corpus.jsonl import jsonl_batches

GOOD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).map(
    lambda text: json.dumps({"id": 1, "text": text}).encode()
)
ODD = st.sampled_from(
    [
        b"", b" \r", b"{", b"[]", b"7", b'"a"', b"null", b'{"text": ""}', b'{"text": null}',
        b'{"text": 5}', b'{"text": ["a"]}', b'{"body": "a"}', b'{"text": "\xff"}', b"\0",
        b'{"text": "a", "text": "b"}', b'{"text": "\\ud800"}', b'{"x": NaN, "text": "a"}',
        b'{"text": "a"},', b'{"text": "a"}, {"text": "b"}', b'{"a": [{"text": "b"}',
        b'{"text": "c"}]}', b'{"text": "a"}], [{"text": "b"}',
    ]
)  # fmt: skip


def found(chunks, limit=40):
    """(record, text or reason) of every line that gives either, and how many lines there are."""
    results, before = [], 0
    for batch in jsonl_batches(chunks, "text", limit):
        results += [(before + n, text) for n, text in zip(batch.records, batch.texts, strict=True)]
        results += [(before + bad.record, (bad.reason, bad.detail)) for bad in batch.bad]
        before += batch.num_records
    return sorted(results, key=lambda pair: pair[0]), before


@settings(max_examples=400, deadline=None)
@given(
    lines=st.lists(GOOD | GOOD | ODD, max_size=12),
    cuts=st.lists(st.integers(0, 300), max_size=5),
    limit=st.integers(10, 60),
    at_once=st.sampled_from([8, 40, jsonl._MOST_AT_ONCE]),
)
def test_lines_give_the_same_alone_and_in_any_chunks(lines, cuts, limit, at_once):
    content = b"\n".join(lines)
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    chunks = [content[start:end] for start, end in itertools.pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_MOST_AT_ONCE", at_once)
        together, num_lines = found(chunks, limit)
    alone = [
        (number, result)
        for number, line in enumerate(lines, start=1)
        for _, result in found([line], limit)[0]
    ]
    assert together == alone
    while lines and not lines[-1]:
        lines.pop()  # an empty line at the end is none
    assert num_lines >= len(lines)


def test_a_long_text_is_held_as_utf8_and_a_short_one_as_it_was_read():
    texts = ["é😀" * 600_000, "é"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    read = [text for batch in jsonl_batches([lines], "text", len(lines)) for text in batch.texts]
    assert read == [texts[0].encode(), texts[1]]


@pytest.mark.parametrize("beside", [b"", b"{", json.dumps({"text": "y" * 2**19}).encode()])
def test_what_a_record_is_called_does_not_depend_on_its_neighbours(beside):
    named = ["7", '"a"', str(2**64 - 1), str(2**64), str(-(2**63) - 1), "-0", "1" * 5000, "NaN"]
    named.append(r'"\ud800"')
    lines = [b'{"text": "a", "id": %b}' % each.encode() for each in named]
    lines.append(b'{"text": "a", "id": 3, "x": ' + b"[" * 1023 + b"]" * 1023 + b"}")
    batches = jsonl_batches([b"\n".join([beside, *lines])], "text", 2**20, "id")
    found = [each for batch in batches for each in batch.ids][-len(lines) :]
    assert found == ["7", "a", str(2**64 - 1), None, None, "0", None, None, None, "3"]
