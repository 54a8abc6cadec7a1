"""A loader -> the training data of a Lightning Trainer, in its checkpoints and its loggers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from mixstream.errors import StateError
from mixstream.integrations.mixture_log import MixtureLog
from mixstream.integrations.steering import Steer, apply_steer
from mixstream.loader import Batch, Loader, LoaderState
from mixstream.mixing.adoption import OnRetired

# Lightning is published under two names whose classes are not each other's: take the one in use
_ONLY_OLD_NAME = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
try:
    if TYPE_CHECKING or not _ONLY_OLD_NAME:
        from lightning.pytorch import Callback, LightningDataModule
    else:
        from pytorch_lightning import Callback, LightningDataModule
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningDataModule
    except ImportError as error:
        raise ImportError(
            "the Lightning integration needs lightning: pip install 'mixstream[lightning]'"
        ) from error

__all__ = ["MixCallback", "MixDataModule"]


class MakeLoader(Protocol):
    """Makes the loader of a data-parallel rank; a functools.partial of Loader does."""

    def __call__(self, *, rank: int, world_size: int) -> Loader:
        """The loader."""
        ...


class MixDataModule(LightningDataModule):
    """A Loader as Lightning's training data: `trainer.fit(model, datamodule=MixDataModule(make))`.

    Lightning gets the batches as they are: it puts no DistributedSampler in, and reads no batch
    ahead (as it does with what has no length, which would make its checkpoints skip a batch). The
    loader's state is part of Lightning's checkpoints, so that `fit(..., ckpt_path=...)` goes on
    with the next row on any number of processes.

    The Trainer says how long a run is: max_steps, or limit_train_batches (an int, batches of an
    epoch) and max_epochs.

    Args:
        make_loader: `functools.partial(mixstream.Loader, corpus, weights, batch_size=8)`; called
            once Lightning knows the data-parallel rank.
        on_retired: where a checkpoint has a positive weight for a domain that the corpus has lost:
            "raise", or "redistribute" the weight to the others; see Loader.load_state_dict.
    """

    def __init__(self, make_loader: MakeLoader, *, on_retired: OnRetired = "raise") -> None:
        super().__init__()
        self._make_loader, self._on_retired = make_loader, on_retired
        self._loader: Loader | None = None

    @property
    def loader(self) -> Loader:
        """The loader of this rank, from the start of `fit` on.

        Raises:
            StateError: `fit` has not started.
        """
        if self._loader is None:
            raise StateError(
                "the loader is made when fit starts; ask for it in a callback or in training_step "
                "(self.trainer.datamodule.loader)."
            )
        return self._loader

    def train_dataloader(self) -> _LightningBatches:
        """What Lightning iterates."""
        trainer: Any = self.trainer
        has_steps = trainer.max_steps != -1
        if not has_steps and not isinstance(trainer.limit_train_batches, int):
            raise StateError(
                "a Loader has no end; give the Trainer max_steps, or limit_train_batches=N "
                "(batches of an epoch) with max_epochs."
            )
        if self._loader is None:
            ranks = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
            self._loader = self._make_loader(rank=ranks["rank"], world_size=ranks["num_replicas"])
        num_steps = trainer.max_steps * trainer.accumulate_grad_batches
        length = num_steps if has_steps else sys.maxsize
        return _LightningBatches(self._loader, length, self._on_retired)


class _LightningBatches:
    """A loader's batches with a length; no DataLoader, so Lightning does not take it apart."""

    def __init__(self, loader: Loader, length: int, on_retired: OnRetired) -> None:
        self._loader, self._length, self._on_retired = loader, length, on_retired

    def __len__(self) -> int:
        """Batches of an epoch, unless limit_train_batches says less."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def state_dict(self) -> LoaderState:
        """The loader's; Lightning asks when the delivered batches are trained on."""
        return self._loader.state_dict()

    def load_state_dict(self, state: LoaderState) -> None:
        """The loader's; Lightning calls it before the first batch."""
        self._loader.load_state_dict(state, on_retired=self._on_retired)


class MixCallback(Callback):
    """Steers and logs the mixture of a MixDataModule.

    Args:
        steer: called at the end of each optimizer step with Lightning's `callback_metrics`; weights
            that it returns are set.
        log_mixture: write `mix/weight/web`, `mix/drawn/web`, ... to the Trainer's loggers every
            log_every_n_steps.
    """

    def __init__(self, steer: Steer | None = None, *, log_mixture: bool = True) -> None:
        self._steer, self._log_mixture = steer, log_mixture
        self._step = 0
        self._mixture: MixtureLog | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts counting where the checkpoint ended."""
        self._step = trainer.global_step
        self._mixture = MixtureLog(trainer.datamodule.loader)

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """Asks for weights, once for each step of the optimizer; checkpoints are written later."""
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        if (
            self._mixture is not None
            and self._log_mixture
            and step % trainer.log_every_n_steps == 0
        ):
            for logger in trainer.loggers:
                logger.log_metrics(self._mixture.log(step), step=step)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        apply_steer(self._steer, trainer.datamodule.loader, step, metrics)
