import itertools

import numpy as np
import pytest

import mixstream
from tests.loader.conftest import SEQ_LEN, make_ranks


def counted(batches, k=6):
    return sum(np.bincount(batch["domain_ids"].numpy(), minlength=k) for batch in batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_was_delivered_is_consumed_and_no_batch_in_flight(corpus, num_workers):
    loader = mixstream.Loader(corpus, batch_size=5, num_workers=num_workers)
    assert loader.consumed().rows.tolist() == [0] * 6
    seen = counted(itertools.islice(loader, 7))
    consumed = loader.consumed()
    assert consumed.domains == corpus.domains
    assert consumed.rows.tolist() == seen.tolist()
    assert consumed.tokens.tolist() == (seen * SEQ_LEN).tolist()
    assert consumed.epochs == pytest.approx(seen / np.maximum(corpus.num_rows, 1))


def test_all_ranks_count_together(corpus):
    ranks = make_ranks(corpus, batch_size=3, world_size=2)
    seen = sum(counted(itertools.islice(rank, 4)) for rank in ranks)
    for rank in ranks:
        assert rank.consumed().rows.tolist() == seen.tolist()


def test_what_remains_is_what_is_left_of_the_epochs(corpus):
    loader = mixstream.Loader(corpus, batch_size=5, max_epochs={"tiny": 3})
    caps = np.where(np.array(corpus.domains) == "tiny", 3, 1)
    assert loader.remaining().rows.tolist() == (caps * corpus.num_rows).tolist()
    for _ in range(40):
        seen = counted(itertools.islice(loader, 3))
        left = loader.remaining().rows
        assert (left == np.maximum(caps * corpus.num_rows - loader.consumed().rows, 0)).all()
    assert seen.sum() == 15
    assert loader.remaining().tokens.tolist() == (left * SEQ_LEN).tolist()
