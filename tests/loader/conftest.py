"""A small real corpus whose rows are known by their content, and what tests do with loaders."""

import itertools
import json
import random
import string

import numpy as np
import pytest

import mixstream
from mixstream.arrays import ADDRESS

SEQ_LEN = 16
SIZES = {"web": 3000, "code": 1300, "books": 700, "none": 0, "maths": 330, "tiny": 20}
"""Bytes of text of each domain; `none` holds no row, `tiny` two."""
GLOBAL_ROWS = 12
SHAPES = [(1, 12, 1), (12, 1, 1), (2, 6, 1), (3, 4, 1), (4, 3, 1), (2, 3, 2), (1, 1, 12), (3, 1, 4)]
"""(world size, batch size, accumulation), all of GLOBAL_ROWS rows a step of the optimizer."""


def write_raw(raw, sizes=SIZES):
    letters = random.Random(7)
    for name, size in sizes.items():
        (raw / name).mkdir(parents=True)
        text = "".join(letters.choice(string.ascii_letters) for _ in range(size))
        (raw / name / "0.txt").write_text(text[: size // 3])
        (raw / name / "1.txt").write_text(text[size // 3 :])
    return raw


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    mixstream.convert(
        write_raw(folder / "raw"),
        folder / "corpus",
        tokenizer="bytes",
        seq_len=SEQ_LEN,
        shard_bytes=SEQ_LEN * 2 * 7,
    )
    return folder / "corpus"


@pytest.fixture(scope="session")
def corpus(corpus_path):
    corpus = mixstream.open_corpus(corpus_path)
    assert sum(len(shards) > 4 for shards in corpus.layout.values()) >= 3
    assert corpus.num_rows[corpus.domains.index("none")] == 0
    contents = {corpus.row(*address).tobytes() for address in all_addresses(corpus)}
    assert len(contents) == corpus.num_rows.sum(), "two rows have one content"
    return corpus


@pytest.fixture(scope="session")
def other_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    raw = write_raw(folder / "raw", {"web": 900, "code": 500})
    mixstream.convert(raw, folder / "corpus", tokenizer="bytes", seq_len=SEQ_LEN)
    return mixstream.open_corpus(folder / "corpus")


def all_addresses(corpus):
    return [(d, r) for d, n in enumerate(corpus.num_rows.tolist()) for r in range(n)]


def weights_of(corpus, *numbers):
    """(K,) weights from a number for each domain that holds rows, in order."""
    weights = np.zeros(len(corpus.domains))
    weights[corpus.num_rows > 0] = numbers
    return weights


def rows_of(batch):
    """What identifies a row to a reader: its domain and its content."""
    ids, domains = batch["input_ids"].numpy(), batch["domain_ids"].tolist()
    return [(domain, row.tobytes()) for domain, row in zip(domains, ids, strict=True)]


def contents_of(corpus, addresses):
    """The same for addresses, read one by one."""
    addresses = np.asarray(addresses, ADDRESS)
    return [(int(d), corpus.row(int(d), int(r)).astype(np.int64).tobytes()) for d, r in addresses]


def make_ranks(corpus, weights=None, *, batch_size, world_size=1, **settings):
    """One loader a rank, in one process."""
    return [
        mixstream.Loader(
            corpus, weights, batch_size=batch_size, rank=rank, world_size=world_size, **settings
        )
        for rank in range(world_size)
    ]


def next_rows(iterators):
    """The rows of the next step of every rank, sorted; None where all of them have ended."""
    batches = [next(iterator, None) for iterator in iterators]
    if any(batch is None for batch in batches):
        assert all(batch is None for batch in batches), "ranks end at different steps"
        return None
    return sorted(row for batch in batches for row in rows_of(batch))


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def through_json(state):
    text = json.dumps(state)
    assert len(text) < 4000
    return json.loads(text)
