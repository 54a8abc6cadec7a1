"""A loader -> the training data of a Hugging Face Trainer, in its checkpoints and its logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mixstream.errors import StateError
from mixstream.integrations.mixture_log import MixtureLog
from mixstream.integrations.steering import Steer, apply_steer
from mixstream.loader import Loader
from mixstream.loader.dataset import IGNORED_LABEL, Batch
from mixstream.mixing.adoption import OnRetired

try:
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise ImportError(
        "the Hugging Face integration needs transformers and accelerate: "
        "pip install 'mixstream[transformers]'"
    ) from error

__all__ = ["LoaderMixin", "MixTrainer"]

_STATE = "loader_state"


class LoaderMixin:
    """Gives a Trainer a mixstream Loader: `class Mine(LoaderMixin, SomeTrainer)`.

    The Trainer gets the batches as they are: Accelerate neither shards nor prefetches nor skips.
    The loader's state is part of `trainer_state.json` of each checkpoint, so that
    `train(resume_from_checkpoint=...)` goes on with the next row on any number of processes.

    `labels` are turned into Hugging Face's convention, in which the model shifts them itself.
    Columns that the model's forward does not name (`domain_ids`) are left out at the Trainer's
    own `compute_loss`, unless remove_unused_columns=False; an override of it sees them.

    Args:
        args: of the Trainer.
        train_loader: made after the TrainingArguments, which start torch.distributed.
        steer: called at the end of each step with the newest metrics that the Trainer has logged;
            weights that it returns are set.
        log_mixture: add `mix/weight/web`, `mix/drawn/web`, ... to the Trainer's training logs.
        on_retired: where a checkpoint has a positive weight for a domain that the corpus has lost:
            "raise", or "redistribute" the weight to the others; see Loader.load_state_dict.
        kwargs: of the Trainer.
    """

    def __init__(
        self,
        *args: Any,
        train_loader: Loader,
        steer: Steer | None = None,
        log_mixture: bool = True,
        on_retired: OnRetired = "raise",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._batches = _TrainerBatches(train_loader, on_retired)
        self._log_mixture = log_mixture
        trainer: Any = self
        trainer.add_callback(_LoaderInCheckpoint())
        if steer is not None:
            trainer.add_callback(_Steering(steer))

    def get_train_dataloader(self) -> _TrainerBatches:
        """The loader's batches; the Trainer's own skipping of batches is switched off.

        Raises:
            StateError: a setting of the Trainer that the loader does not have, or the other way.
        """
        trainer: Any = self
        # on a resume the Trainer takes the batch size of the checkpoint, whatever the world size
        trainer._train_batch_size = trainer.args.train_batch_size
        check_settings(trainer, self._batches.loader)
        trainer.args.ignore_data_skip = True  # the loader's state is the place
        return self._batches

    def compute_loss(
        self, model: torch.nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """The Trainer's, without the columns that the model does not take."""
        trainer: Any = self
        if trainer.args.remove_unused_columns:
            trainer._set_signature_columns_if_needed()
            known = {*trainer._signature_columns, "labels"}
            inputs = {name: value for name, value in inputs.items() if name in known}
        inherited: Any = super()
        return inherited.compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with the mixture added to the training loss."""
        trainer: Any = self
        if self._log_mixture and "loss" in logs:
            logs = {**logs, **self._batches.mixture.log(trainer.state.global_step)}
        inherited: Any = super()
        inherited.log(logs, *args, **kwargs)


class MixTrainer(LoaderMixin, Trainer):
    """transformers.Trainer on a mixstream Loader; see LoaderMixin."""


class _TrainerBatches:
    """A loader's batches in the Trainer's convention; no DataLoader, so nobody takes it apart."""

    def __init__(self, loader: Loader, on_retired: OnRetired = "raise") -> None:
        self.loader, self.on_retired = loader, on_retired
        self.mixture = MixtureLog(loader)
        self.is_trained = False
        """Whether the checkpoint is of the last step: the Trainer would take one more."""

    def __iter__(self) -> Iterator[Batch]:
        self.mixture = MixtureLog(self.loader)  # a checkpoint is loaded by now
        if self.is_trained:
            return
        for batch in self.loader:
            if "labels" in batch:
                batch = {**batch, "labels": unshifted(batch["labels"])}
            yield batch


class _LoaderInCheckpoint(TrainerCallback, ExportableState):
    """Puts the loader's state into trainer_state.json, and takes it from there."""

    def __init__(self) -> None:
        self._loader: Loader | None = None

    def state(self) -> dict[str, Any]:
        """What the Trainer saves; delivered batches are trained on when it does."""
        attributes = {} if self._loader is None else {_STATE: self._loader.state_dict()}
        return {"args": {}, "attributes": attributes}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, train_dataloader: Any, **kwargs: Any
    ) -> None:
        """Loads the state of the checkpoint that the Trainer goes on from, if any."""
        self._loader = train_dataloader.loader
        train_dataloader.is_trained = state.global_step >= state.max_steps
        if state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        if _STATE not in saved:
            raise StateError(
                f"the checkpoint of step {state.global_step} holds no loader's state; it was not "
                f"written by a Trainer with LoaderMixin. Start from its model instead: "
                f"from_pretrained, and train() without resume_from_checkpoint."
            )
        self._loader.load_state_dict(saved[_STATE], on_retired=train_dataloader.on_retired)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The run has no epochs: the Trainer's is the share of max_steps, also after a resume."""
        state.epoch = state.global_step / state.max_steps


class _Steering(TrainerCallback):
    """Asks a function for weights at the end of each step."""

    def __init__(self, steer: Steer) -> None:
        self._steer = steer
        self._metrics: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Recalls the metrics of the checkpoint."""
        for logs in state.log_history:
            self._metrics.update(logs)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: Any, **kwargs: Any) -> None:
        """Remembers what is reported."""
        self._metrics.update(logs)

    def on_step_end(
        self, args: Any, state: Any, control: Any, *, train_dataloader: Any, **kwargs: Any
    ) -> None:
        """Sets the weights; the batches of the next step feel them."""
        apply_steer(self._steer, train_dataloader.loader, state.global_step, self._metrics)


def unshifted(labels: torch.Tensor) -> torch.Tensor:
    """(B, S) next tokens -> (B, S) labels that a Hugging Face model shifts to them.

    The first place of a row, which the model leaves out, is ignored: [b, c, -100] -> [-100, b, c].
    """
    first = torch.full_like(labels[:, :1], IGNORED_LABEL)
    return torch.cat([first, labels[:, :-1]], dim=1)


def check_settings(trainer: Any, loader: Loader) -> None:
    """Refuses what would have no effect, or would make the Trainer count other rows than there are.

    Raises:
        StateError: named are the setting and the mend.
    """
    args = trainer.args
    if trainer.train_dataset is not None:
        raise StateError("train_dataset has no effect beside train_loader; leave it out.")
    if args.dataloader_num_workers != 0:
        raise StateError(
            f"dataloader_num_workers={args.dataloader_num_workers} has no effect on a Loader; "
            f"give num_workers to the Loader."
        )
    if args.auto_find_batch_size:
        raise StateError(
            "auto_find_batch_size has no effect on a Loader, whose batch_size is part of it; "
            "leave it out."
        )
    if getattr(args, "include_tokens_per_second", False):
        raise StateError(
            "include_tokens_per_second makes the Trainer read all batches before the first step; "
            "use include_num_input_tokens_seen."
        )
    batches = loader.batches
    rows = batches.batch_size * batches.world_size * args.gradient_accumulation_steps
    expected = trainer.get_total_train_batch_size(args)
    if rows != expected:
        raise StateError(
            f"a step of the Trainer has {expected} rows ({args.world_size} processes, "
            f"per_device_train_batch_size={args.per_device_train_batch_size}), one of the Loader "
            f"has {rows} (world_size {batches.world_size}, batch_size {batches.batch_size}). Make "
            f"the Loader after the TrainingArguments, which start torch.distributed, with "
            f"batch_size=args.train_batch_size."
        )
