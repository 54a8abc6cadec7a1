"""One domain a micro-batch, which ODM needs: drawn by the weights, and whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mixstream import MixBatchSampler, MixSampler
from tests.strategies import seeds

LAYOUT = {"web": np.full(5, 40), "code": np.full(3, 30), "books": np.array([25, 10])}
WEIGHTS = [0.5, 0.3, 0.2]


def micro_batches(sampler, num_nodes, size, num_blocks):
    """(blocks, nodes, size) domains."""
    domains = sampler.take(num_blocks * num_nodes * size)["domain"]
    return domains.reshape(num_blocks, size, num_nodes).transpose(0, 2, 1)


def test_rows_0_2_4_and_rows_1_3_5_share_a_domain_for_two_nodes_and_three_rows():
    sampler = MixSampler(
        LAYOUT, WEIGHTS, sampling="micro_batch", stratum=3, num_canonical_nodes=2, seed=5
    )
    ones = MixSampler(LAYOUT, WEIGHTS, seed=5)  # whose row i is what micro-batch i is drawn as
    assert micro_batches(sampler, 2, 3, 4)[:, :, 0].ravel().tolist() == (
        ones.take(8)["domain"].tolist()
    )


@settings(deadline=None, max_examples=50)
@given(seed=seeds(), num_nodes=st.sampled_from([1, 2, 3]), size=st.integers(1, 9))
def test_every_micro_batch_is_of_one_domain_and_a_change_acts_at_its_row(seed, num_nodes, size):
    order = {"sampling": "micro_batch", "stratum": size, "num_canonical_nodes": num_nodes}
    sampler = MixSampler(LAYOUT, WEIGHTS, seed=seed, **order)
    found = micro_batches(sampler, num_nodes, size, 7)
    assert (found == found[:, :, :1]).all()
    assert sampler.set_weights([0, 0, 1]).at_row == sampler.row
    assert (sampler.take(20)["domain"] == 2).all()


@pytest.mark.parametrize("num_nodes", [1, 4])
def test_micro_batches_are_drawn_by_the_weights(num_nodes):
    sampler = MixSampler(
        LAYOUT,
        WEIGHTS,
        sampling="micro_batch",
        stratum=4,
        num_canonical_nodes=num_nodes,
        seed=11,
    )
    found = micro_batches(sampler, num_nodes, 4, 8000 // num_nodes)[:, :, 0]
    counts = np.bincount(found.ravel(), minlength=3)
    assert chisquare(counts, 8000 * np.array(WEIGHTS)).pvalue > 0.001


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_each_ranks_batch_is_of_one_domain_and_ranks_differ(num_nodes):
    batches = []
    for rank in range(4):
        sampler = MixSampler(
            LAYOUT,
            WEIGHTS,
            sampling="micro_batch",
            stratum=3,
            num_canonical_nodes=num_nodes,
            seed=2,
        )
        stream = iter(MixBatchSampler(sampler, 3, rank=rank, world_size=4))
        batches.append([next(stream)["domain"].tolist() for _ in range(30)])
    assert all(len(set(batch)) == 1 for rank in batches for batch in rank)
    assert any(len({rank[step][0] for rank in batches}) > 1 for step in range(30))
