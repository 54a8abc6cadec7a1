"""A loader -> the mixture as TensorBoard scalars, and one chart for all domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mixstream.integrations.mixture_log import MixtureLog
from mixstream.loader import Loader

__all__ = ["TensorBoardMixture"]


class _Writer(Protocol):
    """What is used of torch.utils.tensorboard.SummaryWriter; tensorboardX has it too."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...

    def add_custom_scalars(self, layout: Mapping[str, Mapping[str, list[Any]]]) -> Any: ...


class TensorBoardMixture:
    """Writes the numbers of a MixtureLog to a SummaryWriter.

    The tab "Custom scalars" shows the weights, the drawn shares and the epochs of all domains in
    one chart each.

    Args:
        writer: torch.utils.tensorboard.SummaryWriter; of one rank, since all ranks know the same.
        loader: of the run.
        prefix: the first part of every tag.
    """

    def __init__(self, writer: _Writer, loader: Loader, *, prefix: str = "mix") -> None:
        self._writer = writer
        self._mixture = MixtureLog(loader, prefix=prefix)
        charts = {kind: ["Multiline", names] for kind, names in self._mixture.kinds.items()}
        writer.add_custom_scalars({"mixture": charts})

    def log(self, step: int) -> None:
        """Writes the numbers at a step; see MixtureLog.log."""
        for name, value in self._mixture.log(step).items():
            self._writer.add_scalar(name, value, step)
