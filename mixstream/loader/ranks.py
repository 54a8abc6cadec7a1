"""What the ranks of torch.distributed agree on: who they are, and each change of weights."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from mixstream.errors import StateError, WeightsError

__all__ = ["check_same_place", "is_distributed", "of_rank_0", "rank_and_world_size", "writes_log"]


Decision = TypeVar("Decision")


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
        return operator.index(rank), operator.index(world_size)
    if is_distributed():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def writes_log(rank: int) -> bool:
    """Whether this process writes the run log: the first of torch.distributed, or else rank 0."""
    return dist.get_rank() == 0 if is_distributed() else rank == 0


def of_rank_0(decided: Callable[[], Decision]) -> Decision:
    """What rank 0 decides, on every rank. Collective.

    Args:
        decided: called on rank 0 alone. What it raises there is raised there; the other ranks
            raise WeightsError with the same text, so that none of them waits for ever.
    """
    message: list[Any] = ["rank 0 was stopped while it took the weights."]
    if dist.get_rank() == 0:
        try:
            message = [(decided(),)]
        except Exception as error:
            message = [str(error)]
            raise
        finally:
            dist.broadcast_object_list(message)
    else:
        dist.broadcast_object_list(message)
    if isinstance(message[0], str):
        raise WeightsError(message[0])
    decision: Decision = message[0][0]
    return decision


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
