"""One mixed batch and a direction -> the alignment of all its domains, in one forward pass."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from mixstream.feedback.gradients import Batch, DomainSignal, Gradient, GradientProbe, Loss
from mixstream.feedback.losses import domain_losses
from mixstream.feedback.undisturbed import undisturbed

__all__ = ["forward_alignment"]

# How torch says that an operator or a custom autograd.Function has no forward-mode derivative.
_UNSUPPORTED = ("forward AD", "forward mode AD", "jvp", "forward-mode")


def forward_alignment(
    probe: GradientProbe, batch: Batch, direction: Gradient, num_domains: int
) -> DomainSignal:
    """Inner product of every domain's gradient with one direction, all domains at once.

    <g_i, v> is the derivative of domain i's loss along v, and the derivative of each token's loss
    along v comes out of one forward pass with dual numbers: one pass for any K, on the training
    batch itself if need be.

    Args:
        probe: its loss must return (B, S) token losses; `loss_scale` is not used.
        batch: rows of all domains with `labels` and `domain_ids`, such as the training batch. Under
            DDP each rank gives its own, which may hold other domains.
        direction: from `probe.gradient`, equal on all ranks.
        num_domains: K.

    Returns:
        values (K,) float64, as `gradient_alignment` gives on the same rows; NaN for a domain
        without a counted token on any rank. K = 1: one number.

    Cost: about four plain forward passes of the batch on a CPU (1.4 times forward and backward),
    without a backward pass's memory; one all-reduce of (3, K) numbers. `gradient_alignment` on the
    same rows costs about one forward and backward pass, so this pays where domains are many with a
    row or two each. Attention runs in torch's plain kernel, O(S^2) memory a head, as the fused
    ones have no forward derivative.

    Raises:
        NotImplementedError: an operator of the model has no forward-mode derivative.
        ValueError: the loss is a scalar, or the direction is of other parameters.
    """
    model, names = probe.inner_model, probe.names
    parameters = dict(model.named_parameters())
    shapes = [parameters[name].shape for name in names]
    if [part.shape for part in direction] != shapes:
        raise ValueError(
            f"the direction holds {len(direction)} tensors that do not fit the probe's "
            f"{len(names)} parameters; take it from the same probe."
        )
    _load_decompositions()
    with (
        undisturbed(model, mode=probe.mode),
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
        forward_ad.dual_level(),
    ):
        duals = {
            f"model.{name}": _dual(parameters[name], part)
            for name, part in zip(names, direction, strict=True)
        }
        losses, slopes = _undual(_dual_losses(probe.loss, model, duals, batch))
    if losses.ndim != 2:
        raise ValueError(
            f"the loss returned shape {tuple(losses.shape)}; forward mode needs the (B, S) token "
            f"losses, to tell the domains apart."
        )
    found = domain_losses(
        slopes, batch["labels"], batch["domain_ids"], num_domains, group=probe.group
    )
    return DomainSignal(values=found.per_token, present=found.present)


class _LossModule(torch.nn.Module):
    """The loss as a module, so that functional_call can exchange the model's parameters."""

    def __init__(self, loss: Loss, model: torch.nn.Module) -> None:
        super().__init__()
        self.loss, self.model = loss, model

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.loss(self.model, batch)


def _load_decompositions() -> None:
    """Makes torch import what it does at the first dual number, without its own warnings."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        _dual(torch.zeros(()), torch.zeros(()))


def _dual(parameter: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    make_dual: Any = forward_ad.make_dual
    dual: torch.Tensor = make_dual(parameter.detach(), tangent.to(parameter.dtype))
    return dual


def _undual(dual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers and their derivatives, which outlive the level; 0 of what does not depend."""
    unpack_dual: Any = forward_ad.unpack_dual
    primal, tangent = unpack_dual(dual)
    return primal, torch.zeros_like(primal) if tangent is None else tangent.clone()


def _dual_losses(
    loss: Loss, model: torch.nn.Module, duals: dict[str, torch.Tensor], batch: Batch
) -> Any:
    """The loss at dual parameters."""
    try:
        return torch.func.functional_call(_LossModule(loss, model), duals, (batch,))
    except (NotImplementedError, RuntimeError) as error:
        if not any(said in str(error) for said in _UNSUPPORTED):
            raise
        raise NotImplementedError(
            f"the model has no forward-mode derivative: {str(error).splitlines()[0]} "
            f"Use gradient_alignment, which needs a backward pass for each domain."
        ) from error
