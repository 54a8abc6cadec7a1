"""Batches of each domain -> inner products of their gradients, one gradient at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.feedback.losses import IGNORED_LABEL
from mixstream.feedback.ranks import Group, sum_over_ranks
from mixstream.feedback.undisturbed import Mode, undisturbed

__all__ = [
    "Batch",
    "DomainSignal",
    "Gradient",
    "GradientProbe",
    "Loss",
    "gradient_alignment",
    "gradient_gram",
    "gradient_products",
    "inner_product",
]

Batch: TypeAlias = Mapping[str, torch.Tensor]
"""A batch of the loader (labels=True), on the model's device."""

Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""loss(model, batch): (B, S) token losses in nats, or their mean over the batch as a scalar."""

Gradient: TypeAlias = tuple[torch.Tensor, ...]
"""One tensor for each name of the probe; float32, or float64 for float64 parameters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainSignal:
    """Numbers an algorithm eats, and which of them were measured."""

    values: NDArray[np.float64]
    """(K,), or (K, T), or (K, K) float64."""
    present: NDArray[np.bool_]
    """(K,) bool."""


@dataclass(frozen=True, eq=False)
class GradientProbe:
    """How gradients are measured beside the training: of which model, loss and parameters.

    Nothing of the training changes: `.grad`, the random numbers, the buffers and each module's mode
    are as before. The parameters must be whole on each rank (one process, or DDP; not FSDP).
    """

    model: torch.nn.Module
    """What trains. A DistributedDataParallel is unwrapped, so that its hooks stay out of it."""
    loss: Loss
    """loss(model, batch), of the model that it is given. Of (B, S) token losses, the tokens whose
    batch["labels"] is not -100 count alike over all ranks; of a scalar, each rank's batch does."""
    parameters: Sequence[str] | None = field(default=None, kw_only=True)
    """Names of parameters or of modules ("head", "blocks.3") to take the gradient of; None takes
    all that train. A backward pass goes no deeper than it must: the last layer alone is cheap."""
    loss_scale: float | Callable[[], float] = field(default=1.0, kw_only=True)
    """What the loss is multiplied by before the backward pass and the gradient divided by after it
    (float16 needs it): the scale of torch's GradScaler, or its bound `get_scale`. Where it makes
    the gradient overflow, the numbers are inf or NaN, and algorithms refuse the update."""
    mode: Mode = field(default="eval", kw_only=True)
    """See `undisturbed`."""
    group: Group = field(default=None, kw_only=True)
    """Data-parallel ranks; None means all."""

    @property
    def inner_model(self) -> torch.nn.Module:
        """The model without DistributedDataParallel."""
        if isinstance(self.model, torch.nn.parallel.DistributedDataParallel):
            inner: torch.nn.Module = self.model.module
            return inner
        return self.model

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters whose gradient is taken.

        Raises:
            ValueError: a name that no training parameter has, or no parameter at all.
        """
        every = [name for name, p in self.inner_model.named_parameters() if p.requires_grad]
        wanted = [""] if self.parameters is None else list(self.parameters)
        for name in wanted:
            if not any(_is_part(parameter, name) for parameter in every):
                raise ValueError(
                    f"no parameter that trains is called {name!r} or lies in such a module; there "
                    f"are {', '.join(every[:20]) or 'none'}."
                )
        return tuple(p for p in every if any(_is_part(p, name) for name in wanted))

    def gradient(self, *batches: Batch | None) -> Gradient:
        """The mean over the batches of the gradient of each one's mean loss, over all ranks.

        With one target batch: what DGA aligns to. With one batch a domain: the mean of the domains'
        gradients, each domain alike. One gradient is held besides the running sum.

        Args:
            batches: None where this rank has no row of it; a batch that no rank has is left out.

        Raises:
            ValueError: no rank has a token of any batch.
        """
        total: Gradient | None = None
        num_batches = 0
        with undisturbed(self.inner_model, mode=self.mode):
            for batch in batches:
                gradient, present = self.mean_gradient(batch)
                if present:
                    total = gradient if total is None else _sum(total, gradient)
                    num_batches += 1
        if total is None:
            raise ValueError("no rank has a counted token in any of the batches.")
        return tuple(part / num_batches for part in total)

    def mean_gradient(self, batch: Batch | None) -> tuple[Gradient, bool]:
        """Gradient of the mean loss over all ranks, and whether any rank has a token. Collective.

        Runs in the modules' present mode; `undisturbed` is the caller's.
        """
        gradient, count = self.gradient_sum(batch)
        counts = torch.tensor(count, dtype=torch.float64, device=gradient[0].device)
        total = float(sum_over_ranks(counts, self.group))
        for part in gradient:
            sum_over_ranks(part, self.group)
        return tuple(part / max(total, 1.0) for part in gradient), total > 0

    def gradient_sum(self, batch: Batch | None) -> tuple[Gradient, float]:
        """This rank's gradient of the summed loss, and the tokens it is of; unscaled.

        For a scalar loss the count is 1. Zeros and 0 for no batch, or one without a counted token.
        """
        parameters = self._parameters()
        if batch is None:
            return _zeros(parameters), 0.0
        with torch.enable_grad():
            mean, count = _mean_loss(self.loss(self.inner_model, batch), batch)
            if count == 0:
                return _zeros(parameters), 0.0
            scale = self.loss_scale() if callable(self.loss_scale) else self.loss_scale
            gradients = torch.autograd.grad(
                mean * scale, parameters, allow_unused=True, materialize_grads=True
            )
        return tuple(_upcast(gradient) * (count / scale) for gradient in gradients), count

    def _parameters(self) -> list[torch.nn.Parameter]:
        by_name = dict(self.inner_model.named_parameters())
        return [by_name[name] for name in self.names]


def gradient_alignment(
    probe: GradientProbe, domain_batches: Iterable[Batch | None], direction: Gradient
) -> DomainSignal:
    """Inner product of each domain's gradient with one direction: what DGA and DoGE eat.

    Args:
        probe: model, loss, parameters.
        domain_batches: one a domain, in manifest order, taken one after the other (a generator is
            fine); None where this rank has no row of a domain. Under DDP all ranks give K of them.
        direction: from `probe.gradient`, equal on all ranks.

    Returns:
        values (K,) float64, nats squared per squared parameter unit; NaN for an absent domain (no
        rank has a counted token of it). K = 1: one number.

    Cost: one forward and backward pass a domain (to the chosen parameters), one gradient held
    besides the direction, one all-reduce of (K, 2) numbers. The domains' gradients need not be
    averaged over the ranks themselves: the product with an equal direction is linear.
    """
    signal = gradient_products(probe, domain_batches, [direction])
    return DomainSignal(values=signal.values[:, 0], present=signal.present)


def gradient_products(
    probe: GradientProbe, domain_batches: Iterable[Batch | None], directions: Sequence[Gradient]
) -> DomainSignal:
    """Inner products of each domain's gradient with T directions: what GRAPE eats.

    As `gradient_alignment`, with values (K, T); T gradients are held. K passes, not K T.
    """
    rows = []
    with undisturbed(probe.inner_model, mode=probe.mode):
        for batch in domain_batches:
            gradient, count = probe.gradient_sum(batch)
            products = [inner_product(gradient, direction) for direction in directions]
            rows.append(torch.stack([*products, products[0].new_tensor(count)]))
    if not rows:
        raise ValueError("there is no batch; give one a domain, None for a domain without rows.")
    table = sum_over_ranks(torch.stack(rows), probe.group).cpu().numpy()
    present = table[:, -1] > 0
    values = np.full((len(rows), len(directions)), np.nan)
    values[present] = table[present, :-1] / table[present, -1:]
    return DomainSignal(values=values, present=present)


def gradient_gram(probe: GradientProbe, domain_batches: Iterable[Batch | None]) -> DomainSignal:
    """Inner products between the domains' gradients: what R&B and Aioli-like methods eat.

    Args:
        probe: model, loss, parameters; take the last layer alone where K gradients are too many.
        domain_batches: as in `gradient_alignment`.

    Returns:
        values (K, K) float64, symmetric; the diagonal holds the squared norms. Row and column of an
        absent domain are 0, the gradient of no rows (not NaN: R&B's rule). DoGE's universal signal
        is the sum of each row.

    Cost: one forward and backward pass a domain, K gradients held, K all-reduces of a gradient,
    K^2 / 2 inner products.
    """
    gradients: list[Gradient] = []
    present: list[bool] = []
    products: list[torch.Tensor] = []
    with undisturbed(probe.inner_model, mode=probe.mode):
        for batch in domain_batches:
            gradient, found = probe.mean_gradient(batch)
            gradients.append(gradient)
            present.append(found)
            products.append(torch.stack([inner_product(gradient, other) for other in gradients]))
    if not products:
        raise ValueError("there is no batch; give one a domain, None for a domain without rows.")
    gram = np.zeros((len(products), len(products)))
    for row, values in enumerate(products):
        gram[row, : row + 1] = gram[: row + 1, row] = values.cpu().numpy()
    return DomainSignal(values=gram, present=np.array(present))


def inner_product(left: Gradient, right: Gradient) -> torch.Tensor:
    """() float64 on the gradients' device: sum over all parameters, added up in float64.

    Raises:
        ValueError: the gradients are not of the same parameters.
    """
    if [part.shape for part in left] != [part.shape for part in right]:
        raise ValueError(
            f"two gradients of other parameters: {len(left)} and {len(right)} tensors, or other "
            f"shapes; take both from the same probe."
        )
    parts = zip(left, right, strict=True)
    return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in parts]).sum()


def _is_part(parameter: str, name: str) -> bool:
    """Whether a parameter is the named one, or lies in the named module; "" is the model."""
    return name in ("", parameter) or parameter.startswith(name + ".")


def _mean_loss(losses: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, float]:
    """Mean loss of this rank's batch, and what it counts among the ranks."""
    if losses.ndim == 0:
        return losses, 1.0
    counted = batch["labels"] != IGNORED_LABEL
    if counted.shape != losses.shape:
        raise ValueError(
            f"the loss returned shape {tuple(losses.shape)} where batch['labels'] has "
            f"{tuple(counted.shape)}; return (B, S) token losses, or their mean as a scalar."
        )
    count = int(counted.sum())
    kept = torch.where(counted, losses, torch.zeros_like(losses))
    return kept.sum() / max(count, 1), float(count)


def _upcast(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _zeros(parameters: Sequence[torch.Tensor]) -> Gradient:
    return tuple(_upcast(torch.zeros_like(parameter.detach())) for parameter in parameters)


def _sum(left: Gradient, right: Gradient) -> Gradient:
    return tuple(a + b for a, b in zip(left, right, strict=True))
