"""What a Loader does -> the events of its run log."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from mixstream.arrays import Counts, Vector
from mixstream.corpus.corpus import Corpus
from mixstream.loader.batch_sampler import BatchSamplerState, MixBatchSampler
from mixstream.loader.state import state_id
from mixstream.mixing.adoption import has_grown
from mixstream.mixing.weights import WeightChange, WeightsLike
from mixstream.runlog.events import runs_of_layout, versions
from mixstream.runlog.writer import RunLog

__all__ = ["RunRecord", "signal_values"]

_NOTICE_SECONDS = 1.0
"""How often the log says how far the run is: 100 bytes a second, and what a kill may hide."""
_MAX_CHECKPOINT_COUNTS = 4096
"""Counts in a checkpoint event make replay start there; more of them would swell the log."""


class RunRecord:
    """The log of a Loader's run, on the one rank that writes it.

    The first event is written when the run begins, is steered or is resumed, not before: until then
    nobody knows from which row on the log will tell. An existing log goes on with a resume event,
    which takes back what it holds past that row; a run that starts anew takes back all of it.

    Args:
        path: of the log.
        corpus: that is read.
        batches: of this rank.
        is_steerable: for the record.
        planned_by: who planned the changes of a run that begins: "code" or "schedule".

    Raises:
        StateError: the log is another run's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        corpus: Corpus,
        batches: MixBatchSampler,
        *,
        is_steerable: bool,
        planned_by: str,
    ) -> None:
        self._planned_by = planned_by
        self._corpus, self._batches, self._is_steerable = corpus, batches, is_steerable
        self._log = RunLog(path, self._start())
        self.is_open = False
        """Whether the first event of this process is written."""
        self._noticed_at, self._noticed_step = 0.0, 0
        self._epochs = np.zeros(len(corpus.domains), dtype=np.int64)

    def begin(self, state: BatchSamplerState) -> None:
        """Writes the first event of this process.

        Args:
            state: the place from which the log tells of the run.
        """
        if not self._log.is_new:
            self._log.check_same_run(self._start())
            self.resume(state)
            return
        self.is_open = True
        sampler, place = state["sampler"], _place(state)
        start = self._start() | {"weights": self._vector(sampler["weights"])}
        if place["row"] > 0:
            start["counts"] = sampler["counts"]
        if has_grown(sampler):
            start["sampler"] = sampler
        self._log.append("start", **place, **start)
        rows_a_step = self._batches.batch_size * self._batches.world_size
        for change in sampler["changes"]:
            at_row, vector = change["at_row"], np.array(change["weights"])
            at_step = place["step"] + (at_row - place["row"]) // rows_a_step
            planned = WeightChange(
                at_row=at_row, at_step=at_step, weights=vector, reason=change["reason"]
            )
            self.weights(planned, decided_step=place["step"], source=self._planned_by)
        self._noticed_step = state["step"]
        self._epochs = self._epochs_of(sampler["counts"])

    def resume(self, state: BatchSamplerState, *, loaded: BatchSamplerState | None = None) -> None:
        """The run goes on from a state; in a log that has no start yet, this is where it starts.

        Args:
            state: the place, as this run saves it.
            loaded: as it was saved, perhaps over a smaller corpus; None where nothing was loaded.

        Raises:
            StateError: the log is another run's.
        """
        if self._log.is_new:
            self.begin(state)
            return
        start = self._start()
        self._log.check_same_run(start, may_have_grown=True)
        self.is_open = True
        sampler = state["sampler"]
        grown: dict[str, Any] = {}
        if self._log.corpus != self._corpus.fingerprint or has_grown(sampler):
            grown = {key: start[key] for key in ("corpus", "domains", "rows", "shards")}
            grown["sampler"] = sampler
        self._log.append(
            "resume",
            **_place(state),
            state=state_id(loaded or state),
            weights=self._vector(sampler["weights"]),
            changes=sampler["changes"],
            counts=sampler["counts"],
            batch_size=self._batches.batch_size,
            world_size=self._batches.world_size,
            steerable=self._is_steerable,
            versions=versions(),
            **grown,
        )
        self._log.sync()
        self._noticed_step = state["step"]
        self._epochs = self._epochs_of(sampler["counts"])

    def weights(self, change: WeightChange, *, decided_step: int, source: str) -> None:
        """The weights were changed."""
        self._log.append(
            "weights",
            step=change.at_step or 0,
            row=change.at_row,
            decided_step=decided_step,
            weights=change.weights.tolist(),  # after a step, quicker than as an array
            reason=change.reason,
            source=source,
        )

    def signal(self, name: str, values: Vector, unit: str | None, step: int) -> None:
        """Something was measured, one number a domain."""
        event: dict[str, Any] = {"name": name, "values": values}
        if unit is not None:
            event["unit"] = unit
        self._log.append("signal", step=step, row=self._batches.row(step), **event)

    def checkpoint(self, state: BatchSamplerState, own_id: str) -> None:
        """A state was taken; what it knows of is on the disk when this returns.

        Args:
            state: the place.
            own_id: its state_id.
        """
        counts = np.array(state["sampler"]["counts"])
        self._notice_epochs(_place(state), counts)
        event: dict[str, Any] = {"state": own_id}
        if counts.size <= _MAX_CHECKPOINT_COUNTS:
            event["counts"] = counts
        self._log.append("checkpoint", **_place(state), **event)
        self._log.sync()

    def fault(self, error: OSError, step: int) -> None:
        """Something could not be read."""
        place = {"step": step, "row": self._batches.row(step)}
        what = {"kind": type(error).__name__, "object": error.filename, "detail": str(error)}
        self._log.append("fault", **place, **what)

    def end(self, reason: str, step: int) -> None:
        """The iteration has ended by itself."""
        self.progress(step)
        self._log.append("end", step=step, row=self._batches.row(step), reason=reason)

    def notice(self, step: int, now: float) -> None:
        """Says how far the run is, if it has not for a while.

        Args:
            step: steps delivered.
            now: of time.monotonic.
        """
        if now - self._noticed_at >= _NOTICE_SECONDS:
            self._noticed_at = now
            self.progress(step)

    def progress(self, step: int) -> None:
        """Says how far the run is, if it has gone on since it was said."""
        if step == self._noticed_step or not self.is_open or self._log.is_closed:
            return
        self._noticed_step = step
        place = {"step": step, "row": self._batches.row(step)}
        self._notice_epochs(place, self._batches.counts(step))
        self._log.append("progress", **place)

    def _notice_epochs(self, place: dict[str, int], counts: Counts) -> None:
        epochs = self._epochs_of(counts)
        for index in np.flatnonzero(epochs > self._epochs).tolist():
            name = self._corpus.domains[index]
            self._log.append("epoch", **place, domain=name, epoch=int(epochs[index]))
        self._epochs = epochs

    def _epochs_of(self, counts: Any) -> Counts:
        """(C, K) rows drawn -> (K,) int64, whole passes."""
        return np.asarray(np.sum(counts, axis=0) // np.maximum(self._corpus.num_rows, 1))

    def _start(self) -> dict[str, Any]:
        """What a start event says of this run, but for its place."""
        corpus, batches = self._corpus, self._batches
        shape = {"batch_size": batches.batch_size, "world_size": batches.world_size}
        return {
            "versions": versions(),
            "corpus": corpus.fingerprint,
            "path": corpus.path,
            "domains": list(corpus.domains),
            "rows": corpus.num_rows.tolist(),
            "seq_len": corpus.seq_len,
            "shards": runs_of_layout(corpus.layout),
            "settings": asdict(batches.sampler.settings) | shape,
            "weights": batches.sampler.weights.tolist(),
            "steerable": self._is_steerable,
        }

    def _vector(self, weights: dict[str, float]) -> list[float]:
        return [weights[name] for name in self._corpus.domains]


def signal_values(name: str, values: WeightsLike, domains: Sequence[str]) -> Vector:
    """One number a domain, (K,) float64; NaN for a domain that a mapping does not name.

    Raises:
        ValueError: values that are not one number a domain.
    """

    def numbers(value: Any) -> Vector:
        """A number, array or tensor as float64; text and complex numbers are none here."""
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = value if value.is_complex() else value.double()
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            message = f"{value!r:.100} has dtype {array.dtype}"
            raise TypeError(message)
        return array.astype(np.float64)

    if isinstance(values, Mapping):
        for unknown in [key for key in values if key not in set(domains)][:1]:
            raise ValueError(
                f"unknown domain {unknown!r} in signal {name!r}; the corpus holds "
                f"{', '.join(domains[:10])}."
            )
    try:
        if isinstance(values, Mapping):  # a loss is often a tensor of one element, (1,)
            found = [numbers(values.get(domain, np.nan)) for domain in domains]
            point = np.array([number.reshape(()) for number in found])
        elif isinstance(values, list | tuple):
            point = np.stack([numbers(value) for value in values])
        else:
            point = numbers(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"signal {name!r} is {values!r:.100}, which is not one number a domain: {error}. Give "
            f"a number, NaN where nothing is known, for each of {', '.join(domains[:10])}."
        ) from error
    if point.shape != (len(domains),):
        raise ValueError(
            f"signal {name!r} has shape {point.shape}; give one number a domain, shape "
            f"({len(domains)},)."
        )
    return point


def _place(state: BatchSamplerState) -> dict[str, int]:
    return {"step": state["step"], "row": state["sampler"]["row"]}
