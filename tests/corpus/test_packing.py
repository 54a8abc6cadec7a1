"""Rows hold every document, padding is found again, and best fit chooses as its plain form does."""

import doctest
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.corpus import best_fit, packing
from mixstream.corpus.best_fit import best_fit_bins
from mixstream.corpus.packing import (
    POLICIES,
    BestFitPacker,
    ConcatPacker,
    PadPacker,
    RowForm,
    open_packer,
)
from mixstream.corpus.segments import num_padding, padding_mask, segment_starts
from mixstream.errors import RecipeError

END = 7

DOCUMENTS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=20), max_size=25)
"""Documents without their end ids; END is none of the ids."""


def flat(documents):
    lengths = np.array([len(document) + 1 for document in documents], np.int64)
    ids = [np.array([*document, END], np.uint32) for document in documents]
    return np.concatenate([np.empty(0, np.uint32), *ids]), lengths


def packed(packer, documents, cuts=()):
    """Rows of the documents when pack is called once for each stretch between the cuts."""
    edges = sorted({0, len(documents), *(cut % (len(documents) + 1) for cut in cuts)})
    stretches = itertools.pairwise(edges)
    return rows_of(packer, *(flat(documents[begin:end]) for begin, end in stretches))


def rows_of(packer, *calls):
    """Rows of all calls of pack, and of flush."""
    blocks = [rows.copy() for ids, lengths in calls for rows in packer.pack(ids, lengths)]
    blocks += [rows.copy() for rows in packer.flush()]
    return np.concatenate(blocks) if blocks else np.empty((0, packer._form.seq_len), np.uint32)


def segments(row):
    """The segments of a row as lists of ids, by segment_starts; padding left out."""
    starts = np.flatnonzero(segment_starts(row[None], END)[0])
    parts = np.split(row, starts[1:])
    padding = np.split(padding_mask(row[None], END)[0], starts[1:])
    return [part.tolist() for part, is_pad in zip(parts, padding, strict=True) if not is_pad.any()]


def plain_best_fit_rooms(sizes, capacity):
    """Best-fit decreasing, word by word; rooms of all bins, sorted."""
    rooms, closed = [], []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        room = min(fitting, default=capacity)
        if fitting:
            rooms.remove(room)
        (closed if size == 1 else rooms).append(room - size)
    return sorted(rooms + closed)


def test_worked_examples_in_the_docstrings_hold():
    assert doctest.testmod(packing).failed == doctest.testmod(best_fit).failed == 0


@given(documents=DOCUMENTS, seq_len=st.integers(1, 24))
def test_concat_rows_are_the_documents_one_after_the_other(documents, seq_len):
    rows = packed(ConcatPacker(RowForm(seq_len, END)), documents)
    ids, _ = flat(documents)
    assert rows.dtype == np.uint32
    assert rows.shape == (-(-len(ids) // seq_len), seq_len)
    np.testing.assert_array_equal(rows.ravel()[: len(ids)], ids)
    assert (rows.ravel()[len(ids) :] == END).all()


@given(
    documents=DOCUMENTS,
    seq_len=st.integers(1, 24),
    cuts=st.lists(st.integers(0, 100), max_size=5),
    window=st.integers(1, 60),
)
def test_rows_do_not_depend_on_how_documents_are_spread_over_calls(
    documents, seq_len, cuts, window
):
    for make in (
        lambda: ConcatPacker(RowForm(seq_len, END)),
        lambda: BestFitPacker(RowForm(seq_len, END), window_tokens=window),
        lambda: PadPacker(RowForm(seq_len, END)),
    ):
        packer = make()
        rows = packed(packer, documents, cuts)
        np.testing.assert_array_equal(rows, packed(make(), documents))
        np.testing.assert_array_equal(rows, packed(packer, documents))  # as new after flush


@given(
    calls=st.lists(DOCUMENTS, max_size=4),
    seq_len=st.integers(1, 24),
    window=st.integers(1, 60),
    name=st.sampled_from(POLICIES),
)
def test_ids_that_are_put_where_a_packer_has_room_give_the_same_rows(calls, seq_len, window, name):
    window_tokens = window if name == "best_fit" else None
    form = RowForm(seq_len, END, np.uint16)
    packer, there = (open_packer(name, form, window_tokens=window_tokens) for _ in range(2))
    blocks = []
    for documents in calls:
        ids, lengths = flat(documents)
        room = there.room(len(ids))
        room[:] = ids
        blocks += [rows.copy() for rows in there.pack(room, lengths)]
    blocks += [rows.copy() for rows in there.flush()]
    expected = rows_of(packer, *map(flat, calls))
    np.testing.assert_array_equal(np.concatenate([expected[:0], *blocks]), expected)


@given(
    documents=DOCUMENTS,
    seq_len=st.integers(1, 24),
    window=st.integers(1, 60),
    name=st.sampled_from(POLICIES),
)
def test_tokens_in_are_tokens_in_rows_and_padding_stands_at_the_end(
    documents, seq_len, window, name
):
    window_tokens = window if name == "best_fit" else None
    rows = packed(open_packer(name, RowForm(seq_len, END), window_tokens=window_tokens), documents)
    ids, _ = flat(documents)
    mask = padding_mask(rows, END)
    assert rows.size - num_padding(rows, END) == len(ids)
    assert (np.sort(rows[~mask]) == np.sort(ids)).all()
    assert (np.diff(mask.astype(int), axis=1) >= 0).all()  # no token after padding
    assert not mask.all(axis=1).any()
    if name == "concat":
        assert not mask[:-1].any()


@given(documents=DOCUMENTS, seq_len=st.integers(1, 24), window=st.integers(1, 60))
def test_best_fit_cuts_only_documents_longer_than_a_row(documents, seq_len, window):
    rows = packed(BestFitPacker(RowForm(seq_len, END), window_tokens=window), documents)
    expected = []
    for document in documents:
        ids = [*document, END]
        expected += [ids[at : at + seq_len] for at in range(0, len(ids), seq_len)]
    found = [segment for row in rows for segment in segments(row)]
    assert sorted(found) == sorted(expected)


@given(documents=DOCUMENTS, seq_len=st.integers(2, 24))
def test_rows_of_a_window_stand_in_the_order_of_their_earliest_document(documents, seq_len):
    numbered = [[number] * len(document) for number, document in enumerate(documents)]
    end = len(documents)
    lengths = np.array([len(document) + 1 for document in documents], np.int64)
    ids = np.array([number for document in numbered for number in [*document, end]], np.uint32)
    packer = BestFitPacker(RowForm(seq_len, end))
    rows = rows_of(packer, (ids, lengths))
    long_tails = int((lengths % seq_len == 1).sum())  # these stand first, and carry no number
    firsts = [min(row[row != end].tolist(), default=None) for row in rows]
    inside = [row[row != end].tolist() for row in rows]
    assert all(numbers == sorted(numbers) for numbers in inside)
    if not long_tails:
        assert firsts == sorted(firsts)


@given(sizes=st.lists(st.integers(1, 30), max_size=60), spare=st.integers(0, 30))
def test_best_fit_bins_choose_as_the_plain_form_does(sizes, spare):
    capacity = max(sizes, default=1) + spare
    bins = best_fit_bins(np.array(sizes, np.int64), capacity)
    filled = np.bincount(bins, weights=sizes).astype(int) if sizes else np.empty(0, int)
    assert sorted(capacity - filled) == plain_best_fit_rooms(sizes, capacity)
    lone = bins[np.array(sizes, np.int64) == 1]
    assert len(set(lone.tolist())) == len(lone)


def test_an_end_id_alone_goes_to_column_0_and_is_no_padding():
    documents = [[1] * 8, [2, 2], [3] * 4, [4] * 4]  # lengths 9, 3, 5 and 5 with their end ids
    rows = packed(BestFitPacker(RowForm(4, END)), documents)
    assert rows.tolist() == [
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [END, 2, 2, END],
        [3, 3, 3, 3],
        [END, END, END, END],
        [4, 4, 4, 4],
        [END, END, END, END],
    ]
    assert num_padding(rows, END) == 6


def test_a_window_closes_with_the_document_that_fills_it_to_the_token():
    packer = BestFitPacker(RowForm(4, END), window_tokens=4)
    ids, lengths = flat([[1], [2], [3]])
    assert [rows.tolist() for rows in packer.pack(ids, lengths)] == [[[1, END, 2, END]]]
    assert [rows.tolist() for rows in packer.pack(*flat([[4]]))] == [[[3, END, 4, END]]]
    assert list(packer.flush()) == []


@pytest.mark.parametrize("seq_len", [2048, 8192])
def test_best_fit_pads_at_most_a_thousandth_of_heavy_tailed_documents(seq_len):
    lengths = np.random.default_rng(0).lognormal(5.5, 1.3, 50_000).astype(np.int64) + 2
    ids = np.ones(lengths.sum(), np.uint16)
    ids[np.cumsum(lengths) - 1] = END
    rows = rows_of(BestFitPacker(RowForm(seq_len, END, np.uint16)), (ids, lengths))
    assert rows.size - num_padding(rows, END) == len(ids)
    assert num_padding(rows, END) < 0.001 * rows.size


@given(documents=DOCUMENTS, seq_len=st.integers(1, 24), cuts=st.lists(st.integers(0, 99)))
def test_documents_that_are_cut_are_counted(documents, seq_len, cuts):
    sizes = np.array([len(document) + 1 for document in documents], np.int64)
    for name in ("best_fit", "pad"):
        packer = open_packer(name, RowForm(seq_len, END))
        packed(packer, documents, cuts)
        assert packer.num_cut == int((sizes > seq_len).sum())
    packer = open_packer("concat", RowForm(seq_len, END))
    packed(packer, documents, cuts)
    ends = np.cumsum(sizes).tolist()
    starts = [0, *ends[:-1]]
    pairs = zip(starts, ends, strict=False)
    assert packer.num_cut == sum(start // seq_len != (end - 1) // seq_len for start, end in pairs)


@given(documents=DOCUMENTS, seq_len=st.integers(1, 24))
def test_pad_gives_every_document_rows_of_its_own(documents, seq_len):
    rows = packed(PadPacker(RowForm(seq_len, END)), documents)
    expected = []
    for document in documents:
        ids = [*document, END]
        for at in range(0, len(ids), seq_len):
            piece = ids[at : at + seq_len]
            expected.append(piece + [END] * (seq_len - len(piece)))
    assert rows.tolist() == expected


def test_pad_gives_rows_in_blocks_that_do_not_grow_with_the_documents():
    ids, lengths = flat([[1]] * 3000)
    blocks = list(PadPacker(RowForm(2**14, END, np.uint16)).pack(ids, lengths))
    assert sum(map(len, blocks)) == 3000
    assert max(block.nbytes for block in blocks) <= 2**24


@pytest.mark.parametrize("name", POLICIES)
def test_rows_come_in_the_dtype_that_is_asked_for(name):
    packer = open_packer(name, RowForm(4, END, np.uint16))
    blocks = [*packer.pack(*flat([[1, 2], [3, 4, 5]])), *packer.flush()]
    assert {block.dtype for block in blocks} == {np.dtype(np.uint16)}


def test_a_document_without_ids_is_refused():
    with pytest.raises(AssertionError, match="holds an id before its end id"):
        list(ConcatPacker(RowForm(4, END)).pack(np.array([END], np.uint32), np.array([1])))
    with pytest.raises(AssertionError, match="ends with its end id"):
        list(ConcatPacker(RowForm(4, END)).pack(np.array([1, 1], np.uint32), np.array([2])))
    with pytest.raises(AssertionError, match="lengths sum to the number of ids"):
        list(ConcatPacker(RowForm(4, END)).pack(np.array([1, END], np.uint32), np.array([3])))


def test_settings_that_cannot_be_met_are_refused():
    with pytest.raises(
        RecipeError, match="packing is 'tetris'; mixstream has 'concat', 'best_fit', 'pad'"
    ):
        open_packer("tetris", RowForm(4, END))
    with pytest.raises(RecipeError, match="'concat' has no window"):
        open_packer("concat", RowForm(4, END), window_tokens=9)
    with pytest.raises(RecipeError, match="seq_len is 0; give at least 1"):
        RowForm(0, END)
    with pytest.raises(RecipeError, match="packing_window is 0; give at least 1"):
        open_packer("best_fit", RowForm(4, END), window_tokens=0)


@given(documents=DOCUMENTS, window=st.integers(1, 60))
def test_no_two_windows_share_a_row(documents, window):
    ids, lengths = flat(documents)
    packer = BestFitPacker(RowForm(16, END), window_tokens=window)
    held, expected = [], []
    for document in documents:
        held.append(document)
        if sum(len(one) + 1 for one in held) >= window:
            expected.append(packed(BestFitPacker(RowForm(16, END)), held))
            held = []
    if held:
        expected.append(packed(BestFitPacker(RowForm(16, END)), held))
    rows = rows_of(packer, (ids, lengths))
    np.testing.assert_array_equal(rows, np.concatenate([np.empty((0, 16), np.uint32), *expected]))


@given(documents=DOCUMENTS, seq_len=st.integers(1, 24), block_bytes=st.integers(1, 600))
def test_rows_are_the_same_however_many_are_made_at_a_time(documents, seq_len, block_bytes):
    rows = packed(BestFitPacker(RowForm(seq_len, END, np.uint16)), documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_fit, "_BLOCK_BYTES", block_bytes)
        again = packed(BestFitPacker(RowForm(seq_len, END, np.uint16)), documents)
    np.testing.assert_array_equal(rows, again)


@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=30),
    seq_len=st.integers(70, 80),
    dtype=st.sampled_from([np.uint16, np.uint32, np.int64]),
    seed=st.integers(0, 99),
)
def test_pieces_are_copied_id_by_id_and_nothing_else_is(sizes, seq_len, dtype, seed):
    sizes = np.array([*sizes, seq_len], np.int64)
    starts = np.cumsum(sizes) - sizes
    source = np.arange(1, sizes.sum() + 1).astype(dtype)
    order = np.random.default_rng(seed).permutation(len(sizes))
    gaps = order % 3  # between pieces in the target
    places = np.empty(len(sizes), np.int64)
    places[order] = np.cumsum(sizes[order] + gaps) - sizes[order]
    target = np.zeros(sizes.sum() + gaps.sum() + 5, dtype)
    expected = target.copy()
    for start, place, size in zip(starts, places, sizes, strict=True):
        expected[place : place + size] = source[start : start + size]
    best_fit._copy_pieces(source, starts, target, places, sizes, seq_len)
    np.testing.assert_array_equal(target, expected)


def test_documents_of_every_length_stand_in_the_rows_as_they_were():
    documents = [[number % 7] * (1 + number * 37 % 90) for number in range(300)]
    rows = packed(BestFitPacker(RowForm(64, END, np.uint16), window_tokens=1000), documents)
    found = sorted(segment for row in rows for segment in segments(row))
    pieces = [[*document, END] for document in documents]
    expected = [ids[at : at + 64] for ids in pieces for at in range(0, len(ids), 64)]
    assert found == sorted(expected)
