"""Token losses, labels and domains of a batch -> loss of each domain; loss weights -> a loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mixstream.arrays import Counts, Vector
from mixstream.feedback.ranks import Group, num_ranks, sum_over_ranks

__all__ = [
    "IGNORED_LABEL",
    "DomainLosses",
    "LossMeter",
    "domain_losses",
    "excess_losses",
    "token_losses",
    "weighted_loss",
]

IGNORED_LABEL = -100  # what torch.nn.functional.cross_entropy leaves out by default


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainLosses:
    """Sums over the counted tokens of each domain; the means are divided on demand.

    Two of them add up to what one batch of both would give.
    """

    loss_sum: Vector
    """(K,) float64, nats."""
    num_tokens: Counts
    """(K,) int64, tokens whose label is counted."""
    num_rows: Counts
    """(K,) int64, rows with at least one counted token."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """(K,) bool, the domains with at least one counted token."""
        return self.num_tokens > 0

    @property
    def per_token(self) -> Vector:
        """(K,) float64, mean loss of a token, nats per token; NaN for an absent domain."""
        return _means(self.loss_sum, self.num_tokens)

    @property
    def per_row(self) -> Vector:
        """(K,) float64, mean loss of a whole row (sequence), nats per row; NaN if absent."""
        return _means(self.loss_sum, self.num_rows)

    def __add__(self, other: DomainLosses) -> DomainLosses:
        return DomainLosses(
            loss_sum=self.loss_sum + other.loss_sum,
            num_tokens=self.num_tokens + other.num_tokens,
            num_rows=self.num_rows + other.num_rows,
        )


def _means(sums: Vector, counts: Counts) -> Vector:
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token, with its gradient.

    Args:
        logits: (B, S, V) float; half precision is taken to float32 first.
        labels: (B, S) int64, the token to predict at each place; -100 is not counted.

    Returns:
        (B, S) float32 (float64 for float64 logits), nats; 0 where the label is -100.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    flat = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    return flat.view_as(labels)


def domain_losses(
    token_losses: torch.Tensor,
    labels: torch.Tensor,
    domain_ids: torch.Tensor,
    num_domains: int,
    *,
    group: Group = None,
) -> DomainLosses:
    """Loss of each domain in a batch, over all ranks; no gradient flows.

    Args:
        token_losses: (B, S) float, nats; what stands where the label is -100 is not read.
        labels: (B, S) int, -100 where a token is not counted.
        domain_ids: (B,) int, domain of each row.
        num_domains: K.
        group: ranks to sum over; None means all.

    Returns:
        Sums in float64. A counted NaN makes its domain's loss NaN, which algorithms refuse.

    Cost a step: one pass over the token losses, one transfer of (B,) numbers from the device, and
    one all-reduce of (3, K) numbers. K = 1: one number. A batch of no rows (B = 0) is legal.

    Raises:
        ValueError: shapes that do not fit, or a domain outside 0 to K - 1.
    """
    sums = _row_sums(token_losses, labels, domain_ids)
    return _over_domains(sums, domain_ids, num_domains, group)


def excess_losses(
    proxy_losses: torch.Tensor,
    reference_losses: torch.Tensor,
    labels: torch.Tensor,
    domain_ids: torch.Tensor,
    num_domains: int,
    *,
    group: Group = None,
) -> DomainLosses:
    """DoReMi's excess loss: max(proxy - reference, 0) of each token, then the domains' means.

    Args:
        proxy_losses: (B, S) float, nats; the model that trains.
        reference_losses: (B, S) float, nats; the frozen model, on the same tokens.
        labels: (B, S) int, -100 where a token is not counted.
        domain_ids: (B,) int, domain of each row.
        num_domains: K.
        group: ranks to sum over; None means all.

    Returns:
        As `domain_losses`; `per_token` and `present` are what `DoReMi.update` takes, `num_tokens`
        what `doremi_token_weights` takes.

    Source: Xie et al. 2023, arXiv:2305.10429, Algorithm 1 (lambda_t).
    """
    if proxy_losses.shape != reference_losses.shape:
        raise ValueError(
            f"proxy_losses have shape {tuple(proxy_losses.shape)}, reference_losses "
            f"{tuple(reference_losses.shape)}; give both models the same batch."
        )
    excess = (proxy_losses.detach() - reference_losses.detach()).clamp(min=0)
    return domain_losses(excess, labels, domain_ids, num_domains, group=group)


def weighted_loss(
    token_losses: torch.Tensor,
    labels: torch.Tensor,
    domain_ids: torch.Tensor,
    token_weights: ArrayLike,
    *,
    group: Group = None,
) -> torch.Tensor:
    """The loss to differentiate: sum over the counted tokens of their domain's weight times loss.

    Args:
        token_losses: (B, S) float with a gradient, nats.
        labels: (B, S) int, -100 where a token is not counted.
        domain_ids: (B,) int, domain of each row.
        token_weights: (K,) what one token of each domain counts in the *global* batch, as
            `algorithms.doremi_token_weights` gives from the `num_tokens` of all ranks and
            micro-batches. All 1 / (tokens of the global batch): the plain mean loss.
        group: ranks whose gradients are averaged; None means all.

    Returns:
        () scalar, this rank's part times the number of ranks: DDP averages gradients over ranks, so
        that their average is the gradient of the global sum. Micro-batches add up: call backward
        on each, and divide by nothing.
    """
    weights = torch.as_tensor(np.asarray(token_weights, dtype=np.float64))
    of_row = weights.to(token_losses.device, token_losses.dtype)[domain_ids.long()]
    counted = labels != IGNORED_LABEL
    losses = torch.where(counted, token_losses, torch.zeros_like(token_losses))
    return (losses.sum(dim=1) * of_row).sum() * num_ranks(group)


class LossMeter:
    """Adds up the losses of several micro-batches or steps; one transfer and all-reduce at the end.

    It keeps three numbers a row on the losses' device until `total`. It holds no more than what
    this rank saw since the last `reset`, so save checkpoints where it is empty.

    Args:
        num_domains: K.
        group: ranks to sum over; None means all.
    """

    def __init__(self, num_domains: int, *, group: Group = None) -> None:
        self.num_domains, self._group = num_domains, group
        self._sums: list[torch.Tensor] = []
        self._domain_ids: list[torch.Tensor] = []

    def add(
        self, token_losses: torch.Tensor, labels: torch.Tensor, domain_ids: torch.Tensor
    ) -> None:
        """Takes in a batch, as `domain_losses` does; no communication, no transfer."""
        self._sums.append(_row_sums(token_losses, labels, domain_ids))
        self._domain_ids.append(domain_ids.detach())

    def total(self) -> DomainLosses:
        """What was added since the last reset, over all ranks. Collective; adds may go on."""
        if not self._sums:
            # a rank without a batch has no device to ask: the backend's own
            device = _communication_device(self._group)
            self._sums.append(torch.zeros(3, 0, dtype=torch.float64, device=device))
            self._domain_ids.append(torch.zeros(0, dtype=torch.int64, device=device))
        sums, domain_ids = torch.cat(self._sums, dim=1), torch.cat(self._domain_ids)
        return _over_domains(sums, domain_ids, self.num_domains, self._group)

    def reset(self) -> None:
        """Forgets what was added."""
        self._sums, self._domain_ids = [], []


def _communication_device(group: Group) -> torch.device:
    """Where an empty tensor must lie to be summed over the ranks."""
    if num_ranks(group) > 1 and "nccl" in str(torch.distributed.get_backend(group)):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _row_sums(
    token_losses: torch.Tensor, labels: torch.Tensor, domain_ids: torch.Tensor
) -> torch.Tensor:
    """(3, B) float64: loss of each row, its counted tokens, and whether it has any."""
    shape = tuple(token_losses.shape)
    if len(shape) != 2 or tuple(labels.shape) != shape or tuple(domain_ids.shape) != shape[:1]:
        raise ValueError(
            f"token_losses have shape {shape}, labels {tuple(labels.shape)}, domain_ids "
            f"{tuple(domain_ids.shape)}; give (B, S), (B, S) and (B,)."
        )
    counted = labels != IGNORED_LABEL
    losses = token_losses.detach()
    kept = torch.where(counted, losses, torch.zeros_like(losses))
    num_tokens = counted.sum(dim=1)
    sums = kept.sum(dim=1, dtype=torch.float64)
    return torch.stack((sums, num_tokens.double(), (num_tokens > 0).double()))


def _over_domains(
    row_sums: torch.Tensor, domain_ids: torch.Tensor, num_domains: int, group: Group
) -> DomainLosses:
    """(3, B) sums of rows -> sums of domains, over the ranks.

    The sums by domain are made on the host: an index_add on a GPU adds in no fixed order.
    """
    rows = row_sums.cpu().numpy()
    ids = domain_ids.detach().cpu().numpy()
    for wrong in ids[(ids < 0) | (ids >= num_domains)][:1]:
        raise ValueError(f"a row is of domain {wrong}; num_domains is {num_domains}.")
    sums = np.zeros((3, num_domains))  # bincount of no rows at all would be int64
    for total, row in zip(sums, rows, strict=True):
        total += np.bincount(ids, weights=row, minlength=num_domains)
    if num_ranks(group) > 1:
        device = row_sums.device
        sums = sum_over_ranks(torch.from_numpy(sums).to(device), group).cpu().numpy()
    loss_sum, num_tokens, num_rows = sums
    return DomainLosses(
        loss_sum=loss_sum,
        num_tokens=num_tokens.astype(np.int64),
        num_rows=num_rows.astype(np.int64),
    )
