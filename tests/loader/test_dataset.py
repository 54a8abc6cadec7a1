import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, SequentialSampler

import mixstream
from mixstream.arrays import ADDRESS
from mixstream.errors import ShardError, StateError
from mixstream.loader.dataset import IGNORED_LABEL
from tests.corpus.shards import write_domain
from tests.loader.conftest import SEQ_LEN, all_addresses, contents_of, flat, rows_of

END = 9


def padded(row, end_id):
    """Whether each id of a row is padding, told one by one."""
    return [place > 0 and row[place] == row[place - 1] == end_id for place in range(len(row))]


def naive_labels(row, end_id):
    pads = padded(row, end_id)
    return [
        IGNORED_LABEL if place + 1 == len(row) or pads[place + 1] else row[place + 1]
        for place in range(len(row))
    ]


def naive_segments(row, end_id):
    """Lengths of the documents of a row; a run of padding counts as one."""
    pads, lengths = padded(row, end_id), []
    for place in range(len(row)):
        ended = place > 0 and row[place - 1] == end_id
        inside_padding = place > 0 and pads[place] and pads[place - 1]
        if place == 0 or (ended and not inside_padding):
            lengths.append(0)
        lengths[-1] += 1
    return lengths


def test_the_naive_loops_agree_with_an_example_by_hand():
    row = [5, END, 6, END, END, END]
    assert naive_labels(row, END) == [END, 6, END, -100, -100, -100]
    assert naive_segments(row, END) == [2, 2, 2]
    assert naive_segments([END, 7, 8, END], END) == [1, 3]


@st.composite
def blocks(draw):
    """(B, S) rows as packers make them: documents with end ids, padding at the end."""
    seq_len = draw(st.integers(1, 12))
    row = st.lists(st.integers(0, END - 1) | st.just(END), min_size=seq_len, max_size=seq_len)
    rows = np.array(draw(st.lists(row, min_size=1, max_size=6)))
    for index in range(len(rows)):
        pads = draw(st.integers(0, seq_len))
        rows[index, seq_len - pads :] = END
    return rows


@settings(max_examples=60, deadline=None)
@given(rows=blocks(), dtype=st.sampled_from([np.uint16, np.uint32]))
def test_labels_positions_and_document_ends_are_those_of_a_plain_loop(
    tmp_path_factory, rows, dtype
):
    folder = tmp_path_factory.mktemp("rows") / "d"
    write_domain(folder, rows.astype(dtype), rows_per_shard=2)
    corpus = mixstream.open_corpus(folder, end_id=END)
    dataset = mixstream.RowDataset(
        corpus, labels=True, position_ids=True, cu_seqlens=True, document_ids=True
    )
    batch = dataset.batch(np.array(all_addresses(corpus), ADDRESS))
    assert batch["input_ids"].tolist() == rows.tolist()
    assert batch["labels"].tolist() == [naive_labels(row, END) for row in rows.tolist()]
    lengths = [naive_segments(row, END) for row in rows.tolist()]
    positions = [[place for length in row for place in range(length)] for row in lengths]
    assert batch["position_ids"].tolist() == positions
    assert batch["cu_seqlens"].tolist() == np.cumsum([0, *flat(lengths)]).tolist()
    assert int(batch["max_seqlen"]) == max(flat(lengths))
    numbers = [
        [number for number, length in enumerate(row) for _ in range(length)] for row in lengths
    ]
    assert batch["document_ids"].tolist() == numbers
    dtypes = {name: value.dtype for name, value in batch.items()}
    assert dtypes.pop("cu_seqlens") == torch.int32, "as flash attention takes them"
    assert dtypes.pop("document_ids") == torch.int32
    assert set(dtypes.values()) == {torch.int64}
    for name in batch:
        one = dataset[0, 0][name]
        alone = {"cu_seqlens": [0, *np.cumsum(lengths[0]).tolist()], "max_seqlen": max(lengths[0])}
        expected = alone[name] if name in alone else batch[name][0]
        assert torch.equal(one, torch.as_tensor(expected, dtype=one.dtype))


def test_position_ids_start_at_0_in_every_document_and_in_padding(tmp_path):
    write_domain(tmp_path / "d", np.array([[1, 2, END, 3, END, END, END]], np.uint16))
    corpus = mixstream.open_corpus(tmp_path / "d", end_id=END)
    dataset = mixstream.RowDataset(corpus, labels=True, position_ids=True, cu_seqlens=True)
    row = dataset[0]
    assert row["position_ids"].tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert row["cu_seqlens"].tolist() == [0, 3, 5, 7]
    assert row["labels"].tolist() == [2, END, 3, END, -100, -100, -100]


def test_padding_of_a_converted_corpus_gets_no_loss(corpus):
    dataset = mixstream.RowDataset(corpus, labels=True)
    batch = dataset.batch(np.array(all_addresses(corpus), ADDRESS))
    counted = int((batch["labels"] != IGNORED_LABEL).sum())
    tokens = sum(entry.tokens for entry in corpus.manifest.domains.values())
    assert counted == tokens - len(dataset), "all tokens but the first of each row are predicted"


def test_without_an_end_id_nothing_is_padding_and_documents_are_refused(tmp_path):
    rows = np.array([[1, 2, 2, 2], [0, 0, 0, 0]], np.uint16)
    write_domain(tmp_path / "d", rows)
    corpus = mixstream.open_corpus(tmp_path / "d")
    batch = mixstream.RowDataset(corpus, labels=True).batch(np.array([(0, 0), (0, 1)], ADDRESS))
    assert batch["labels"].tolist() == [[2, 2, 2, -100], [0, 0, 0, -100]]
    with pytest.raises(StateError, match=r"document_ids need the end-of-text id.*end_id=\.\.\."):
        mixstream.RowDataset(corpus, document_ids=True)
    for asked in ({"position_ids": True}, {"cu_seqlens": True}):
        with pytest.raises(StateError, match=r"end_id=\.\.\."):
            mixstream.RowDataset(corpus, **asked)
        with pytest.raises(StateError, match=r"end_id=\.\.\."):
            mixstream.Loader(corpus, batch_size=1, **asked)


def test_a_batch_is_the_rows_at_its_addresses_in_their_order(corpus):
    addresses = np.array(all_addresses(corpus), ADDRESS)[::-1][:20]
    batch = mixstream.RowDataset(corpus).batch(addresses)
    assert rows_of(batch) == contents_of(corpus, addresses)
    assert batch["input_ids"].shape == (20, SEQ_LEN)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert all(value.is_contiguous() for value in batch.values())


def test_a_batch_may_be_written_to_without_harm_to_the_corpus(corpus):
    dataset = mixstream.RowDataset(corpus)
    before = dataset[0]["input_ids"].clone()
    dataset[0]["input_ids"].fill_(-1)
    dataset.batch(np.array([(0, 0)], ADDRESS))["input_ids"].fill_(-1)
    assert torch.equal(dataset[0]["input_ids"], before)


def test_a_row_is_found_by_address_by_pair_and_by_its_number_among_all_rows(corpus):
    dataset = mixstream.RowDataset(corpus)
    pairs = all_addresses(corpus)
    assert len(dataset) == len(pairs)
    for number in (0, len(dataset) // 2, len(dataset) - 1):
        expected = contents_of(corpus, [pairs[number]])
        as_address = np.array([pairs[number]], ADDRESS)
        for index in (number, np.int64(number), torch.tensor(number), pairs[number], as_address[0]):
            row = dataset[index]
            assert [(int(row["domain_ids"]), row["input_ids"].numpy().tobytes())] == expected
        for indices in ([number], [pairs[number]], [list(pairs[number])], list(as_address)):
            (batch,) = dataset.__getitems__(indices)
            assert rows_of(batch) == expected
    assert len(list(dataset)) == len(pairs), "the protocol of sequences ends at IndexError"


@pytest.mark.parametrize("number", [-1, 10**6])
def test_a_number_of_no_row_is_an_index_error(corpus, number):
    with pytest.raises(IndexError, match=f"no row {number}"):
        mixstream.RowDataset(corpus)[number]


def test_an_address_of_no_row_is_a_shard_error(corpus):
    with pytest.raises(ShardError, match="no row 99999"):
        mixstream.RowDataset(corpus)[0, 99999]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchs_own_samplers_read_the_rows_one_domain_after_the_other(corpus, num_workers):
    stock = DataLoader(mixstream.RowDataset(corpus), batch_size=50, num_workers=num_workers)
    rows = [row for batch in stock for row in rows_of(batch)]
    assert rows == contents_of(corpus, all_addresses(corpus))
    assert len(stock) == -(-len(rows) // 50)
    assert list(SequentialSampler(stock.dataset))[-1] == len(rows) - 1


def test_a_pickled_dataset_reads_the_same_rows(corpus):
    dataset = mixstream.RowDataset(corpus, labels=True, position_ids=True)
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 20_000
    for name, value in dataset[3].items():
        assert torch.equal(copy[3][name], value)


def read_row(dataset, number, queue):
    queue.put(dataset[number]["input_ids"].tolist())


def test_a_dataset_that_was_read_before_a_fork_is_read_in_the_child(corpus):
    dataset = mixstream.RowDataset(corpus)
    expected = dataset[5]["input_ids"].tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_row, args=(dataset, 5, queue))
    child.start()
    assert queue.get(timeout=30) == expected
    child.join(30)
    assert child.exitcode == 0


def masked_attention_of_a_plain_loop(query, key, value, lengths):
    """(B, S, D) causal attention of each document by itself."""
    out = torch.empty_like(query)
    for row, sizes in enumerate(lengths):
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            scores = query[row, part] @ key[row, part].T / query.shape[-1] ** 0.5
            scores = scores.masked_fill(torch.ones(size, size).triu(1).bool(), float("-inf"))
            out[row, part] = scores.softmax(-1) @ value[row, part]
            start += size
    return out


def test_document_ids_mask_attention_as_a_loop_over_documents_does(tmp_path):
    from torch.nn.attention.flex_attention import create_mask

    rows = np.array([[1, 2, END, 3, END, END, END, END], [4, 5, 6, 7, 8, END, 2, 2]], np.uint16)
    write_domain(tmp_path / "d", rows)
    corpus = mixstream.open_corpus(tmp_path / "d", end_id=END)
    batch = mixstream.RowDataset(corpus, document_ids=True).batch(
        np.array(all_addresses(corpus), ADDRESS)
    )
    ids = batch["document_ids"]

    def same_document(b, h, q, k):
        return (q >= k) & (ids[b, q] == ids[b, k])

    mask = create_mask(same_document, len(rows), None, 8, 8, device="cpu")
    query, key, value = torch.randn(3, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    found = torch.nn.functional.scaled_dot_product_attention(
        query[:, None], key[:, None], value[:, None], attn_mask=mask
    )
    lengths = [naive_segments(row, END) for row in rows.tolist()]
    expected = masked_attention_of_a_plain_loop(query, key, value, lengths)
    torch.testing.assert_close(found[:, 0], expected)
