"""What the ranks of torch.distributed agree on: who they are, and each change of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from mixstream.arrays import Vector
from mixstream.errors import StateError, WeightsError

__all__ = ["check_same_place", "is_distributed", "of_rank_0", "rank_and_world_size"]


def is_distributed() -> bool:
    """Whether torch.distributed is initialised."""
    return dist.is_available() and dist.is_initialized()


def rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """The given ones, or those of torch.distributed, or those of a single process."""
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"rank={rank} with world_size={world_size}; give both, or neither (they then come "
            f"from torch.distributed)."
        )
    if rank is not None and world_size is not None:
        return rank, world_size
    if is_distributed():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def of_rank_0(checked: Callable[[], Vector], at_step: int | None) -> tuple[Vector, int | None]:
    """Rank 0's weights and step on every rank; its error, too. Collective.

    Args:
        checked: gives the weights of this rank or raises WeightsError; called on rank 0 alone.
        at_step: of this rank.
    """
    message: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            message = [(checked(), at_step)]
        except WeightsError as error:
            message = [str(error)]
    dist.broadcast_object_list(message)
    if isinstance(message[0], str):
        raise WeightsError(message[0])
    agreed: tuple[Vector, int | None] = message[0]
    return agreed


def check_same_place(step: int, fingerprint: str) -> None:
    """Raises StateError on every rank if any is at another step or of another state. Collective."""
    places: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(places, (step, fingerprint))
    others = [rank for rank, place in enumerate(places) if place != places[0]]
    if others:
        other_step, other_fingerprint = places[others[0]]
        raise StateError(
            f"ranks {others[:10]} differ from rank 0, which has drawn {places[0][0]} steps and has "
            f"fingerprint {places[0][1]}; rank {others[0]} has drawn {other_step} steps and has "
            f"{other_fingerprint}. Make every rank call set_weights and load_state_dict at the "
            f"same step."
        )
