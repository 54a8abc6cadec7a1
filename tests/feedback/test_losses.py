import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import feedback
from mixstream.algorithms import DoReMi, clipped_excess_loss, doremi_token_weights
from tests.feedback.conftest import NUM_DOMAINS, make_batch, rows


def naive(token_losses, labels, domain_ids, num_domains):
    """One token after the other."""
    loss, tokens, with_tokens = np.zeros((3, num_domains))
    for row, domain in enumerate(domain_ids.tolist()):
        counted = [
            float(token_losses[row, place])
            for place in range(labels.shape[1])
            if labels[row, place] != -100
        ]
        loss[domain] += sum(counted)
        tokens[domain] += len(counted)
        with_tokens[domain] += bool(counted)
    return loss, tokens, with_tokens


def check(found, token_losses, labels, domain_ids, num_domains):
    loss, tokens, with_tokens = naive(token_losses, labels, domain_ids, num_domains)
    np.testing.assert_allclose(found.loss_sum, loss, rtol=1e-12)
    assert (found.num_tokens == tokens).all()
    assert (found.num_rows == with_tokens).all()
    assert (found.present == (tokens > 0)).all()
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.per_token, loss / tokens, rtol=1e-12)
        np.testing.assert_allclose(found.per_row, loss / with_tokens, rtol=1e-12)


def test_a_worked_example_by_hand():
    losses = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [1.0, 1.0, 1.0]])
    labels = torch.tensor([[5, 5, -100], [5, -100, -100], [5, 5, 5]])
    found = feedback.domain_losses(losses, labels, torch.tensor([0, 0, 2]), 3)
    assert found.per_token.dtype == np.float64
    np.testing.assert_array_equal(found.per_token, [7 / 3, np.nan, 1])
    np.testing.assert_array_equal(found.per_row, [3.5, np.nan, 3])
    assert found.num_tokens.tolist() == [3, 0, 3]
    assert found.present.tolist() == [True, False, True]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 6), st.integers(0, 1000))
def test_domain_losses_are_those_of_a_loop_over_tokens(num_rows, num_domains, seed):
    ids = torch.randint(num_domains, (num_rows,), generator=torch.Generator().manual_seed(seed))
    batch = make_batch(num_rows, seed, ids)
    losses = torch.rand(batch["labels"].shape, dtype=torch.float64) * 9
    found = feedback.domain_losses(losses, batch["labels"], ids, num_domains)
    check(found, losses, batch["labels"], ids, num_domains)


def test_nothing_is_read_where_the_label_is_ignored_and_a_counted_nan_is_refused():
    labels = torch.tensor([[1, -100], [1, 1]])
    losses = torch.tensor([[1.0, torch.nan], [2.0, torch.inf]])
    found = feedback.domain_losses(losses, labels, torch.tensor([0, 1]), 2)
    np.testing.assert_array_equal(found.per_token, [1, np.inf])
    assert float(feedback.weighted_loss(losses[:1], labels[:1], torch.tensor([0]), [2.0])) == 2


def test_a_row_without_a_counted_token_makes_no_domain_present():
    found = feedback.domain_losses(
        torch.ones(2, 3), torch.full((2, 3), -100), torch.tensor([0, 1]), 2
    )
    assert not found.present.any()
    assert found.num_rows.sum() == 0
    assert np.isnan(found.per_token).all()
    assert np.isnan(found.per_row).all()


def test_token_losses_are_cross_entropy_in_full_precision_with_a_gradient():
    logits = torch.randn(2, 3, 7, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.tensor([[1, 2, -100], [0, -100, 6]])
    found = feedback.token_losses(logits, labels)
    assert found.dtype == torch.float32
    log_p = logits.detach().float().log_softmax(-1)
    for row in range(2):
        for place in range(3):
            label = int(labels[row, place])
            expected = 0.0 if label == -100 else -float(log_p[row, place, label])
            assert found[row, place].item() == pytest.approx(expected, rel=1e-6)
    found.sum().backward()
    assert logits.grad is not None


def test_excess_losses_are_clipped_at_each_token_before_the_mean():
    batch = make_batch(6, 3)
    proxy, reference = torch.rand(2, *batch["labels"].shape, dtype=torch.float64)
    found = feedback.excess_losses(
        proxy.requires_grad_(), reference, batch["labels"], batch["domain_ids"], NUM_DOMAINS
    )
    expected, tokens = clipped_excess_loss(
        proxy.detach().numpy(),
        reference.numpy(),
        batch["domain_ids"].numpy(),
        NUM_DOMAINS,
        token_mask=(batch["labels"] != -100).numpy(),
    )
    np.testing.assert_allclose(np.nan_to_num(found.per_token), expected, rtol=1e-12)
    assert (found.num_tokens == tokens).all()
    means = feedback.domain_losses(
        (proxy - reference), batch["labels"], batch["domain_ids"], NUM_DOMAINS
    )
    assert (found.loss_sum > means.loss_sum).any(), "the mean of the clipped is above"


@pytest.mark.parametrize("rule", ["importance", "paper"])
def test_the_weighted_loss_and_its_gradient_are_those_of_a_loop_over_domains(rule):
    batch = make_batch(7, 5)
    labels, ids = batch["labels"], batch["domain_ids"]
    losses = torch.rand(labels.shape, dtype=torch.float64, requires_grad=True)
    found = feedback.domain_losses(losses, labels, ids, NUM_DOMAINS)
    alpha = DoReMi(np.ones(NUM_DOMAINS)).update(found.per_token, present=found.present)
    sampling = np.array([0.4, 0.3, 0.2, 0.1])
    weights = doremi_token_weights(alpha, sampling, found.num_tokens, rule=rule)
    loss = feedback.weighted_loss(losses, labels, ids, weights)
    expected = sum(
        float(weights[ids[row]]) * losses[row, place]
        for row in range(len(ids))
        for place in range(labels.shape[1])
        if labels[row, place] != -100
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for found_gradient, naive_gradient in zip(
        torch.autograd.grad(loss, losses), torch.autograd.grad(expected, losses), strict=True
    ):
        torch.testing.assert_close(found_gradient, naive_gradient)
    if rule == "paper":  # a domain's share of the loss is its alpha, whatever its tokens
        share = alpha[found.present] / alpha[found.present].sum()
        assert loss.item() == pytest.approx(share @ found.per_token[found.present])


def test_equal_token_weights_are_the_plain_mean_and_micro_batches_add_up():
    batch = make_batch(6, 8)
    losses = torch.rand(batch["labels"].shape, dtype=torch.float64)
    counted = batch["labels"] != -100
    weights = np.full(NUM_DOMAINS, 1 / int(counted.sum()))
    parts = [
        feedback.weighted_loss(
            losses[part], batch["labels"][part], batch["domain_ids"][part], weights
        )
        for part in (slice(0, 2), slice(2, 6))
    ]
    assert float(sum(parts)) == pytest.approx(losses[counted].mean().item(), rel=1e-12)


def test_the_meter_over_micro_batches_is_one_batch_of_them_all():
    batch = make_batch(9, 21)
    losses = torch.rand(batch["labels"].shape, dtype=torch.float64)
    meter = feedback.LossMeter(NUM_DOMAINS)
    assert not meter.total().present.any()
    added = meter.total()
    for part in (slice(0, 4), slice(4, 4), slice(4, 9)):
        micro = rows(batch, part)
        meter.add(losses[part], micro["labels"], micro["domain_ids"])
        added = added + feedback.domain_losses(
            losses[part], micro["labels"], micro["domain_ids"], NUM_DOMAINS
        )
    for found in (meter.total(), meter.total(), added):
        check(found, losses, batch["labels"], batch["domain_ids"], NUM_DOMAINS)
    meter.reset()
    assert meter.total().num_tokens.sum() == 0


def test_one_domain_is_the_plain_mean():
    batch = make_batch(4, 2, [0] * 4)
    losses = torch.rand(batch["labels"].shape)
    found = feedback.domain_losses(losses, batch["labels"], batch["domain_ids"], 1)
    assert found.per_token.shape == (1,)
    assert found.per_token[0] == pytest.approx(losses[batch["labels"] != -100].mean().item())


def test_shapes_and_domains_that_do_not_fit_are_named():
    labels = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"give \(B, S\), \(B, S\) and \(B,\)"):
        feedback.domain_losses(torch.ones(2, 2), labels, torch.tensor([0, 0]), 1)
    with pytest.raises(ValueError, match="a row is of domain 4; num_domains is 3"):
        feedback.domain_losses(torch.ones(2, 3), labels, torch.tensor([0, 4]), 3)
    with pytest.raises(ValueError, match="give both models the same batch"):
        feedback.excess_losses(torch.ones(2, 3), torch.ones(1, 3), labels, torch.tensor([0, 0]), 1)
