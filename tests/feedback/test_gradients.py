import numpy as np
import pytest
import torch

from mixstream import feedback
from mixstream.feedback import GradientProbe
from tests.feedback.conftest import (
    NUM_DOMAINS,
    VOCAB,
    flat,
    losses_of,
    make_batch,
    make_model,
    naive_gradient,
    rows,
)

HEAD = ("head.weight", "head.bias")
SUBSETS = pytest.mark.parametrize(
    ("chosen", "names"), [(None, None), (("head",), HEAD), (("head.bias", "qkv.weight"),) * 2]
)


@SUBSETS
def test_the_gradient_is_that_of_a_plain_backward(model, target, chosen, names):
    found = GradientProbe(model, losses_of, parameters=chosen).gradient(target)
    np.testing.assert_allclose(flat(found), naive_gradient(model, target, names), atol=1e-14)


def test_the_gradient_of_several_batches_weighs_each_batch_alike(model, domain_batches):
    found = GradientProbe(model, losses_of).gradient(*domain_batches)
    each = [naive_gradient(model, batch) for batch in domain_batches if batch is not None]
    np.testing.assert_allclose(flat(found), np.mean(each, axis=0), atol=1e-14)


@SUBSETS
def test_alignments_are_inner_products_of_naive_gradients(
    model, domain_batches, target, chosen, names
):
    probe = GradientProbe(model, losses_of, parameters=chosen)
    found = feedback.gradient_alignment(probe, iter(domain_batches), probe.gradient(target))
    direction = naive_gradient(model, target, names)
    assert found.present.tolist() == [True, True, False, True]
    assert np.isnan(found.values[2])
    for domain in (0, 1, 3):
        expected = naive_gradient(model, domain_batches[domain], names) @ direction
        assert found.values[domain] == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_products_with_several_directions_are_the_columns(model, domain_batches, target):
    probe = GradientProbe(model, losses_of)
    directions = [probe.gradient(target), probe.gradient(make_batch(3, 8))]
    found = feedback.gradient_products(probe, domain_batches, directions)
    assert found.values.shape == (NUM_DOMAINS, 2)
    for column, direction in enumerate(directions):
        single = feedback.gradient_alignment(probe, domain_batches, direction)
        np.testing.assert_array_equal(found.values[:, column], single.values)


@SUBSETS
def test_the_gram_matrix_is_that_of_naive_gradients(model, domain_batches, chosen, names):
    probe = GradientProbe(model, losses_of, parameters=chosen)
    found = feedback.gradient_gram(probe, domain_batches)
    size = len(naive_gradient(model, domain_batches[0], names))
    gradients = np.stack(
        [
            np.zeros(size) if batch is None else naive_gradient(model, batch, names)
            for batch in domain_batches
        ]
    )
    np.testing.assert_allclose(found.values, gradients @ gradients.T, atol=1e-13)
    assert found.present.tolist() == [True, True, False, True]


def test_noise_is_mean_and_variance_of_naive_gradients(model):
    batches = [[make_batch(2, 10 * d + i) for i in range(n)] for d, n in enumerate((4, 2, 1, 0))]
    found = feedback.gradient_noise(GradientProbe(model, losses_of), batches, rows_per_batch=2)
    assert found.num_batches.tolist() == [4, 2, 1, 0]
    assert found.present.tolist() == [True, True, False, False]
    assert np.isnan(found.squared_norms[3])
    assert np.isnan(found.variances[2:]).all()
    for domain in (0, 1, 2):
        each = np.stack([naive_gradient(model, batch) for batch in batches[domain]])
        squared_norm = (each.mean(axis=0) ** 2).sum()
        assert found.squared_norms[domain] == pytest.approx(squared_norm, rel=1e-10)
        if domain < 2:
            variance = 2 * each.var(axis=0, ddof=1).sum()
            assert found.variances[domain] == pytest.approx(variance, rel=1e-9)
            assert found.unbiased_squared_norms[domain] == pytest.approx(
                squared_norm - variance / (2 * len(each))
            )


def test_equal_micro_batches_have_no_variance(model):
    batch = make_batch(2, 5)
    found = feedback.gradient_noise(GradientProbe(model, losses_of), [[batch] * 5])
    assert 0 <= found.variances[0] < 1e-12


def test_forward_mode_measures_all_domains_of_a_mixed_batch_at_once(model, target):
    mixed = make_batch(9, 77, [0, 1, 3, 3, 1, 0, 0, 1, 3])
    parts = [rows(mixed, mixed["domain_ids"] == d) if d != 2 else None for d in range(NUM_DOMAINS)]
    for chosen in (None, ("head",)):
        probe = GradientProbe(model, losses_of, parameters=chosen)
        direction = probe.gradient(target)
        backward = feedback.gradient_alignment(probe, parts, direction)
        forward = feedback.forward_alignment(probe, mixed, direction, NUM_DOMAINS)
        np.testing.assert_allclose(forward.values, backward.values, rtol=1e-9)
        assert (forward.present == backward.present).all()


def test_forward_mode_of_tied_parameters_is_that_of_backward(target):
    model = make_model()
    model.unembed = torch.nn.Linear(8, VOCAB, bias=False).double()
    model.unembed.weight = model.embedding.weight

    def loss(model, batch):
        hidden = torch.tanh(model.embedding(batch["input_ids"]))
        return feedback.token_losses(model.unembed(hidden), batch["labels"])

    probe = GradientProbe(model, loss)
    direction = probe.gradient(target)
    whole = target | {"domain_ids": torch.zeros(5, dtype=torch.int64)}
    forward = feedback.forward_alignment(probe, whole, direction, 1)
    backward = feedback.gradient_alignment(probe, [whole], direction)
    assert forward.values.shape == backward.values.shape == (1,)
    assert forward.values[0] == pytest.approx(backward.values[0], rel=1e-10)


class _NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def test_an_operator_without_forward_mode_is_an_error_that_says_what_to_use(model, target):
    def loss(model, batch):
        return _NoForwardMode.apply(losses_of(model, batch))

    probe = GradientProbe(model, loss)
    direction = probe.gradient(target)
    with pytest.raises(NotImplementedError, match=r"no forward-mode .* Use gradient_alignment"):
        feedback.forward_alignment(probe, target, direction, NUM_DOMAINS)


def test_other_errors_of_the_model_are_passed_on_as_they_are(model, target):
    direction = GradientProbe(model, losses_of).gradient(target)

    def broken(model, batch):
        raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        feedback.forward_alignment(GradientProbe(model, broken), target, direction, NUM_DOMAINS)


def every_measure(probe, batches, target):
    direction = probe.gradient(target)
    feedback.gradient_alignment(probe, batches, direction)
    feedback.gradient_gram(probe, batches)
    feedback.gradient_noise(probe, [[target, target]])
    feedback.forward_alignment(probe, target, direction, NUM_DOMAINS)


@pytest.mark.parametrize("mode", ["eval", "as_is"])
def test_the_training_is_left_as_it_was(domain_batches, target, mode):
    def steps(model, measure):
        """Three steps of training with dropout; one module is frozen in evaluation mode."""
        model.train()
        model.dropout.train()
        model.norm.eval()
        torch.manual_seed(3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for step in range(3):
            if step == 1:
                model.norm.train()
            losses_of(model, make_batch(4, step)).mean().backward()
            if measure:  # in the middle of an accumulation: .grad is full
                every_measure(GradientProbe(model, losses_of, mode=mode), domain_batches, target)
            losses_of(model, make_batch(4, 50 + step)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        modes = [module.training for module in model.modules()]
        return model.state_dict(), torch.get_rng_state(), modes

    plain, measured = steps(make_model(), False), steps(make_model(), True)
    for name, value in plain[0].items():
        assert torch.equal(value, measured[0][name]), name
    assert torch.equal(plain[1], measured[1])
    assert plain[2] == measured[2]


def test_parameters_without_a_gradient_keep_none(model, target, domain_batches):
    model.zero_grad(set_to_none=True)
    every_measure(GradientProbe(model, losses_of), domain_batches, target)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_state_is_put_back_after_an_error_too(model, target):
    model.train()
    before = model.norm.running_mean.clone()

    def broken(model, batch):
        model.norm.running_mean = torch.zeros(8, dtype=torch.float64)
        raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        GradientProbe(model, broken).gradient(target)
    assert model.training
    assert model.dropout.training
    assert torch.equal(model.norm.running_mean, before)


def test_dropout_is_off_unless_the_modes_are_kept(model, target):
    model.train()
    twice = [flat(GradientProbe(model, losses_of).gradient(target)) for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    noisy = flat(GradientProbe(model, losses_of, mode="as_is").gradient(target))
    assert not np.allclose(noisy, twice[0])


def test_the_scale_of_a_grad_scaler_is_taken_out_again(target):
    model = make_model().float()
    plain = flat(GradientProbe(model, losses_of).gradient(target))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    assert scaler.scale(torch.ones(())).item() == 4096
    for scale in (4096.0, scaler.get_scale):
        probe = GradientProbe(model, losses_of, loss_scale=scale)
        np.testing.assert_allclose(flat(probe.gradient(target)), plain, rtol=1e-5, atol=1e-8)


def test_a_scale_keeps_gradients_that_float16_would_lose(target):
    model = make_model().float()

    def tiny(model, batch):
        return (losses_of(model, batch).half() * 1e-6).float()

    lost = GradientProbe(model, tiny, parameters=["head"]).gradient(target)
    kept = GradientProbe(model, tiny, parameters=["head"], loss_scale=2.0**16).gradient(target)
    plain = flat(GradientProbe(model, losses_of, parameters=["head"]).gradient(target)) * 1e-6
    error = [np.abs(flat(found) - plain).max() / np.abs(plain).max() for found in (lost, kept)]
    assert error[1] < 2e-3 < error[0]


def test_it_works_in_half_precision_and_under_autocast(target, domain_batches):
    model = make_model().bfloat16()
    gradient = GradientProbe(model, losses_of).gradient(target)
    assert {part.dtype for part in gradient} == {torch.float32}

    def cast(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return losses_of(model, batch)

    model = make_model().float()
    exact, near = GradientProbe(model, losses_of), GradientProbe(model, cast)
    found = [
        feedback.gradient_alignment(probe, domain_batches, probe.gradient(target)).values
        for probe in (exact, near)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=0.1, atol=0.02)


def test_a_scalar_loss_serves_all_but_forward_mode(model, domain_batches, target):
    def mean_loss(model, batch):
        logits = model(batch["input_ids"])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    found = []
    for loss in (mean_loss, losses_of):
        probe = GradientProbe(model, loss)
        direction = probe.gradient(target)
        found.append(feedback.gradient_alignment(probe, domain_batches, direction).values)
    np.testing.assert_allclose(*found, rtol=1e-12)
    with pytest.raises(ValueError, match="forward mode needs the"):
        feedback.forward_alignment(GradientProbe(model, mean_loss), target, direction, NUM_DOMAINS)


def test_it_works_inside_no_grad_and_on_frozen_parameters(model, target):
    model.embedding.requires_grad_(False)
    probe = GradientProbe(model, losses_of)
    assert not any(name.startswith("embedding") for name in probe.names)
    with torch.no_grad():
        found = flat(probe.gradient(target))
    np.testing.assert_allclose(found, naive_gradient(model, target, probe.names), atol=1e-14)


def test_one_domain_has_one_alignment_and_a_gram_matrix_of_one_number(model, target):
    probe = GradientProbe(model, losses_of)
    direction = probe.gradient(target)
    alignment = feedback.gradient_alignment(probe, [target], direction)
    gram = feedback.gradient_gram(probe, [target])
    assert alignment.values.shape == (1,)
    assert gram.values.shape == (1, 1)
    assert gram.values[0, 0] == pytest.approx(alignment.values[0])


def test_a_batch_of_ignored_labels_alone_is_absent(model, target):
    empty = target | {"labels": torch.full_like(target["labels"], -100)}
    probe = GradientProbe(model, losses_of)
    found = feedback.gradient_alignment(probe, [empty, target], probe.gradient(target, empty))
    assert found.present.tolist() == [False, True]
    assert feedback.gradient_noise(probe, [[empty, target]]).num_batches.tolist() == [1]


def test_what_cannot_be_measured_is_named(model, target):
    probe = GradientProbe(model, losses_of)
    with pytest.raises(ValueError, match=r"called 'hea' or lies in such a module; there are embed"):
        GradientProbe(model, losses_of, parameters=["hea"]).gradient(target)
    with pytest.raises(ValueError, match="no rank has a counted token"):
        probe.gradient(None)
    for measure in (feedback.gradient_gram, feedback.gradient_noise):
        with pytest.raises(ValueError, match="there is no"):
            measure(probe, [])
    with pytest.raises(ValueError, match="there is no batch"):
        feedback.gradient_alignment(probe, [], probe.gradient(target))
    head = GradientProbe(model, losses_of, parameters=["head"])
    with pytest.raises(ValueError, match="take both from the same probe"):
        feedback.gradient_alignment(head, [target], probe.gradient(target))
    with pytest.raises(ValueError, match="take it from the same probe"):
        feedback.forward_alignment(head, target, probe.gradient(target), NUM_DOMAINS)
    with pytest.raises(ValueError, match="return \\(B, S\\) token losses"):
        GradientProbe(model, lambda model, batch: losses_of(model, batch).sum(1)).gradient(target)
