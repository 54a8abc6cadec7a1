"""A loader -> the same loader, which Accelerate leaves as it is and keeps in its checkpoints."""

from __future__ import annotations

from typing import Protocol, TypeVar

from mixstream.errors import StateError
from mixstream.integrations.stateful import StatefulLoader
from mixstream.loader import Loader
from mixstream.mixing.adoption import OnRetired

__all__ = ["prepare_loader"]

AnyLoader = TypeVar("AnyLoader", bound=Loader)


class _Accelerator(Protocol):
    """What is used of accelerate.Accelerator."""

    @property
    def num_processes(self) -> int: ...

    def register_for_checkpointing(self, *objects: object) -> None: ...


def prepare_loader(
    accelerator: _Accelerator,
    loader: AnyLoader,
    *,
    data_parallel_size: int | None = None,
    on_retired: OnRetired = "raise",
) -> AnyLoader:
    """Use it in place of `accelerator.prepare(loader)`, which would shard the batches again.

    `accelerator.save_state` and `load_state` then hold the loader's state, and a later
    `accelerator.prepare(loader)` returns it as it is. Batches stay on the CPU:
    `{name: value.to(accelerator.device) for name, value in batch.items()}`. Don't use
    `accelerate.skip_first_batches`; the state is the place.

    Args:
        accelerator: an accelerate.Accelerator.
        loader: made after the Accelerator, so that it knows its rank.
        data_parallel_size: ranks that read different rows; None means all processes.
        on_retired: where a checkpoint has a positive weight for a domain that the corpus has lost:
            "raise", or "redistribute" the weight to the others; see Loader.load_state_dict.

    Raises:
        StateError: the loader was made for another number of ranks.
    """
    expected = accelerator.num_processes if data_parallel_size is None else data_parallel_size
    if loader.batches.world_size != expected:
        raise StateError(
            f"the loader was made for world_size {loader.batches.world_size}, Accelerate runs "
            f"{expected} data-parallel processes; make the loader after the Accelerator, or give "
            f"it rank and world_size."
        )
    # Accelerate's own mark of what it has wrapped already; DataLoader has no such attribute
    loader._is_accelerate_prepared = True
    accelerator.register_for_checkpointing(StatefulLoader(loader, on_retired=on_retired))
    return loader
