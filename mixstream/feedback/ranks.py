"""Sums over the ranks of torch.distributed; nothing happens where it is not initialised."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.distributed as dist

__all__ = ["Group", "num_ranks", "sum_over_ranks"]

Group: TypeAlias = "dist.ProcessGroup | None"
"""The data-parallel ranks; None means all."""


def num_ranks(group: Group = None) -> int:
    """Ranks of the group; 1 where torch.distributed is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(group)
    return 1


def sum_over_ranks(tensor: torch.Tensor, group: Group = None) -> torch.Tensor:
    """The tensor, summed in place over the ranks; the same bits on all of them. Collective."""
    if num_ranks(group) > 1:
        dist.all_reduce(tensor, group=group)
    return tensor
