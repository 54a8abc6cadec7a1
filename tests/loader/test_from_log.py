import itertools

import numpy as np
import pytest

import mixstream
from mixstream.errors import StateError
from tests.loader.conftest import flat, rows_of, weights_of


def take(loader, number):
    return flat(rows_of(batch) for batch in itertools.islice(loader, number))


@pytest.fixture
def run(corpus, tmp_path):
    """The rows of a run that was steered and resumed, and its log."""
    path, order = tmp_path / "a.jsonl", {"seed": 3, "sampling": "stratified", "max_epochs": 50}
    weights = weights_of(corpus, 1, 2, 3, 4, 5)
    loader = mixstream.Loader(corpus, weights, batch_size=6, run_log=path, **order)
    rows = take(loader, 5)
    loader.set_weights(weights_of(corpus, 5, 1, 0, 1, 1), at_step=7)
    state = loader.state_dict()
    take(loader, 3)
    resumed = mixstream.Loader(corpus, weights, batch_size=4, run_log=path, **order)
    resumed.load_state_dict(state)
    rows += take(resumed, 12)
    resumed.set_weights(weights_of(corpus, 1, 1, 1, 1, 1), reason="eval")
    return path, rows + take(resumed, 6)


@pytest.mark.parametrize("batch_size", [None, 3, 17])
def test_a_log_streams_the_very_same_rows_again(corpus, run, batch_size):
    path, rows = run
    again = mixstream.Loader.from_log(corpus, path, batch_size=batch_size)
    assert again.batches.batch_size == (batch_size or 6)
    assert take(again, len(rows))[: len(rows)] == rows


def test_the_ranks_of_another_world_share_the_same_rows(corpus, run):
    path, rows = run
    ranks = [
        mixstream.Loader.from_log(corpus, path, batch_size=3, rank=rank, world_size=2, labels=True)
        for rank in range(2)
    ]
    found = [take(rank, 10) for rank in ranks]
    assert sorted(flat(found)) == sorted(rows[:60])


def test_the_copy_may_have_a_log_of_its_own_which_says_the_same(corpus, run, tmp_path):
    path, rows = run
    copy = tmp_path / "copy.jsonl"
    take(mixstream.Loader.from_log(corpus, path, run_log=copy), 5)
    addresses = mixstream.replay(path, rows=(0, len(rows)))
    assert np.array_equal(mixstream.replay(copy, rows=(0, len(rows))), addresses)


def test_another_corpus_is_refused(other_corpus, run):
    with pytest.raises(StateError, match=f"this one has {other_corpus.fingerprint}"):
        mixstream.Loader.from_log(other_corpus, run[0])


def test_what_the_order_depends_on_comes_from_the_log_alone(corpus, run):
    with pytest.raises(TypeError, match="seed"):
        mixstream.Loader.from_log(corpus, run[0], seed=5)
