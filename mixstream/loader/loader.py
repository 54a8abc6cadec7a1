"""Corpus + weights -> a torch DataLoader whose mixture may change while it runs."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from mixstream.arrays import Vector
from mixstream.corpus.corpus import Corpus
from mixstream.errors import ShardError, StateError
from mixstream.loader.ahead import Ahead
from mixstream.loader.batch_sampler import BatchSamplerState, MixBatchSampler
from mixstream.loader.consumption import Consumption, consumed_at, remaining_at
from mixstream.loader.dataset import Batch, RowDataset, passed_on
from mixstream.loader.making import BatchMaker
from mixstream.loader.meter import Meter
from mixstream.loader.probe import probe_addresses
from mixstream.loader.ranks import (
    check_same_place,
    is_distributed,
    of_rank_0,
    rank_and_world_size,
)
from mixstream.loader.recorded import signal_values
from mixstream.loader.state import (
    LOADER_STATE_VERSION,
    LoaderState,
    check_loader_state,
    lost_contents,
    shard_contents,
    state_id,
)
from mixstream.loader.stats import LoaderStats
from mixstream.loader.steering import Asked, opened_record
from mixstream.mixing.adoption import OnRetired
from mixstream.mixing.sampler import MixSampler
from mixstream.mixing.schedule import Schedule
from mixstream.mixing.settings import OnExhausted, Sampling, loader_stratum
from mixstream.mixing.weights import WeightChange, WeightsLike
from mixstream.runlog.replay import (
    check_corpus,
    check_one_corpus,
    order_settings,
    state_before,
)
from mixstream.runlog.run import Run, read_run

__all__ = ["Loader", "LoaderState"]

_CHECKED_EVERY = 1000
"""Steps between two looks at whether the ranks have drifted apart: some 100 bytes each."""


class Loader(DataLoader[Any]):
    """A torch DataLoader over a corpus whose domain weights may change while it runs.

    Iterating ends only where max_epochs ends it: under on_exhausted="stop", or with no domain left.
    Leaving the loop and iterating again goes on with the next undelivered batch. With
    num_workers=0, which is the recommended setting (gathering rows from mapped shards is a memcpy),
    a change of the weights is felt by the very next batch.

    Args:
        corpus: from `open_corpus`.
        weights: a number a domain, by name or (K,) in manifest order; None draws every domain by
            its share of the rows. A Schedule plans all of its changes, by steps of this run's
            start; a state that is loaded brings its own.
        batch_size: B, rows of a batch on this rank.
        seed: of the order, in [0, 2^64).
        rank: data-parallel rank; from torch.distributed if it is initialised, else 0.
        world_size: W; likewise, else 1.
        num_canonical_nodes: see MixSampler.
        sampling: "independent"; "stratified" with a global batch of the run's start as stratum; or
            "micro_batch", each rank's batch from one domain (by the batch size of the run's start).
        shuffle: see MixSampler.
        shuffle_block_rows: see MixSampler.
        max_epochs: see MixSampler.
        on_exhausted: see MixSampler; "stop" ends the loop before the first batch that is not full.
        run_log: where rank 0 records the run (see `mixstream.runlog.events`); an existing log of
            the same run goes on.
        steerable: take the weights that persons ask for (`mixstream set`, `mixstream watch`).
        steer_every: steps between two looks for such requests; None means about ten looks a second,
            and every 10 steps under torch.distributed, where each look is a broadcast.
        synced: under torch.distributed, `set_weights` and a check every so often are collective
            calls of all processes; False for a Loader of this process alone.
        labels: see RowDataset.
        position_ids: see RowDataset.
        cu_seqlens: see RowDataset.
        document_ids: see RowDataset.
        native: see RowDataset.
        transform: batch -> what the loop gets; called in the workers, if there are any, where its
            random numbers depend on the seed, the rank and the step alone.
        num_workers: worker processes, which hand batches over in shared memory; a change of the
            weights then waits for the batches in flight, unless it flushes them.
        prefetch_factor: batches in flight for each worker; None means 2.
        pin_memory: batches in page-locked memory, where there is a CUDA device.
        shards_ahead: shards that are looked at ahead of their first row, soonest needed first, and
            fetched, or read into memory, while others are trained on; 0 for none.
        persistent_workers: see torch.utils.data.DataLoader.
        multiprocessing_context: "fork", "spawn" or "forkserver".
    """

    def __init__(
        self,
        corpus: Corpus,
        weights: WeightsLike | Schedule | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        num_canonical_nodes: int = 1,
        sampling: Sampling = "independent",
        shuffle: bool = True,
        shuffle_block_rows: int = 1 << 18,
        max_epochs: int | Mapping[str, int] | None = None,
        on_exhausted: OnExhausted | None = None,
        run_log: str | os.PathLike[str] | None = None,
        steerable: bool = False,
        steer_every: int | None = None,
        synced: bool = True,
        labels: bool = False,
        position_ids: bool = False,
        cu_seqlens: bool = False,
        document_ids: bool = False,
        native: bool = False,
        transform: Callable[[Batch], Any] | None = None,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        shards_ahead: int = 64,
        persistent_workers: bool = False,
        multiprocessing_context: str | None = None,
    ) -> None:
        rank, world_size = rank_and_world_size(rank, world_size)
        batch_size = operator.index(batch_size)
        sampler = MixSampler(
            corpus.layout,
            weights.weights_like() if isinstance(weights, Schedule) else weights,
            seed=seed,
            num_canonical_nodes=num_canonical_nodes,
            sampling=sampling,
            stratum=loader_stratum(
                sampling, batch_size=batch_size, global_batch=batch_size * world_size
            ),
            shuffle=shuffle,
            shuffle_block_rows=shuffle_block_rows,
            max_epochs=max_epochs,
            on_exhausted=on_exhausted,
        )
        rows = RowDataset(
            corpus,
            labels=labels,
            position_ids=position_ids,
            cu_seqlens=cu_seqlens,
            document_ids=document_ids,
            native=native,
        )
        super().__init__(
            rows,
            batch_sampler=MixBatchSampler(
                sampler,
                batch_size,
                rank=rank,
                world_size=world_size,
                max_marks=2 + num_workers * (prefetch_factor or 2),
                ends_at_errors=True,
            ),
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            multiprocessing_context=multiprocessing_context,
            collate_fn=passed_on,
            generator=torch.Generator(),  # so that torch's global stream does not move
        )
        self.corpus = corpus
        self._step = 0
        self._iterator_number = 0
        self._is_flushed = False
        self._is_synced = synced and is_distributed()
        self._maker = BatchMaker(
            rows,
            transform,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            keeps_workers=persistent_workers,
            context=multiprocessing_context,
            pin_memory=pin_memory,
            seed=(sampler.settings.seed, rank),
        )
        ahead = Ahead(corpus, self.batches, operator.index(shards_ahead))
        self._meter = Meter(corpus, self.batches, ahead, self._maker if num_workers else None)
        if isinstance(weights, Schedule):
            for change in weights.changes[1:]:
                point = weights.weights_like(change)
                self.batches.set_weights(point, at_step=change.step, reason=change.reason)
        self._lost: dict[str, list[Any]] = {}
        self._has_log = run_log is not None
        self._record, self._lookout = opened_record(
            run_log,
            corpus,
            self.batches,
            planned_by="schedule" if isinstance(weights, Schedule) else "code",
            steerable=steerable,
            steer_every=steer_every,
        )

    @property
    def batches(self) -> MixBatchSampler:
        """The batch sampler, whose position is what is drawn, not what is delivered."""
        assert isinstance(self.batch_sampler, MixBatchSampler), "made so in __init__"
        return self.batch_sampler

    @property
    def domains(self) -> tuple[str, ...]:
        """The K names that `domain_ids` index."""
        domains: tuple[str, ...] = self.corpus.domains
        return domains

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of the next undrawn batch."""
        return self.batches.sampler.weights

    @property
    def step(self) -> int:
        """Batches delivered on this rank since the start of the run."""
        return self._step

    @property
    def stats(self) -> LoaderStats:
        """What the loop had to wait for so far, and what was fetched."""
        return self._meter.stats(self._step)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what is drawn and decided: equal on all ranks at the same step."""
        return self.batches.sampler.fingerprint

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """The batches from the next undelivered one on; an older iterator of this loader ends."""
        self._iterator_number += 1
        self._begin_record()
        self.batches.rewind(self._step)
        self._meter.begin(self._step)
        return self._delivered(self._drawn(), self._iterator_number)

    def __len__(self) -> int:
        """A Loader has no length.

        Raises:
            TypeError: always; `list` and trainers that ask take it for "unknown".
        """
        raise TypeError(
            "a Loader has no length: it goes on for ever, or until its domains are exhausted. "
            "Give the trainer a number of steps (max_steps)."
        )

    def set_weights(
        self,
        weights: WeightsLike,
        *,
        at_step: int | None = None,
        reason: str = "",
        flush: bool = False,
    ) -> WeightChange:
        """Changes the weights from the next undrawn step on, or from a later one.

        Under torch.distributed every process calls this (but for a Loader with synced=False); rank
        0's weights, step and reason are taken.

        Args:
            weights: by name or (K,), an array or a tensor.
            at_step: the first step that feels them; None means the next undrawn one.
            reason: why, for the record.
            flush: batches in flight are given up and their rows drawn anew, so that with workers,
                too, the very next batch feels the change. No row is lost or repeated.

        Returns:
            The change, with the first row and step that feel it.

        Raises:
            WeightsError: weights that are no point on the simplex; the old ones stay.
            StepError: at_step is drawn already.
            StateError: the ranks are not at the same place of the same run.
        """
        if flush and self.batches.step != self._step:
            self.batches.rewind(self._step)
            self._is_flushed = True
        if self._is_synced:
            mine = (weights, at_step, reason)
            check_same_place(self.batches.step, self.fingerprint)
            weights, at_step, reason = of_rank_0(
                lambda: (self.batches.sampler.checked(mine[0]), *mine[1:])
            )
        return self._change(weights, at_step, reason, "code")

    def log_signal(
        self,
        name: str,
        values: WeightsLike,
        *,
        unit: str | None = None,
    ) -> None:
        """Records what was measured, one number a domain, at the delivered step.

        Ranks that write no log do nothing.

        Args:
            name: of the signal, "loss" say.
            values: by name, where a name may be missing, or (K,); NaN where nothing is known.
            unit: "nats per token" say.

        Raises:
            ValueError: values that are not one number a domain.
            StateError: the Loader was given no run_log.
        """
        if not self._has_log:
            raise StateError(f"signal {name!r} has no log to go to; give Loader a run_log.")
        point = signal_values(name, values, self.domains)
        if self._record is not None:
            self._begin_record()
            self._record.signal(name, point, unit, self._step)

    def probe(self, domain: str | int, num_rows: int, *, draw: int = 0) -> Batch:
        """Rows of one domain to measure on; the training order does not move.

        The rows are random, distinct while the domain has enough of them (over all ranks
        together), and depend on the seed, the delivered step, the rank and `draw` alone.

        Args:
            domain: name, or index into `domains`.
            num_rows: rows for this rank.
            draw: give another number for other rows at the same step.

        Returns:
            A batch as from the loop, num_rows in place of B.

        Raises:
            WeightsError: the domain does not exist, or has no rows.
        """
        addresses = probe_addresses(self.batches, self._step, domain, num_rows, draw)
        dataset: Any = self.dataset
        batch: Batch = dataset.batch(addresses)
        return batch

    def consumed(self) -> Consumption:
        """Rows, tokens and epochs of each domain that all ranks together were delivered."""
        return consumed_at(self.batches, self._step, self.corpus.seq_len)

    def remaining(self) -> Consumption:
        """What is left of each domain: until its max_epochs, or until each row came once."""
        return remaining_at(self.batches, self._step, self.corpus.seq_len)

    def state_dict(self) -> LoaderState:
        """The state after the last delivered batch; small, JSON-able, equal on all ranks."""
        batches = self.batches.state_dict(self._step)
        own_id = state_id(batches)
        if self._record is not None:
            self._begin_record()
            self._record.checkpoint(batches, own_id)
        return {
            "version": LOADER_STATE_VERSION,
            "corpus": self.corpus.fingerprint,
            "contents": self._lost | shard_contents(self.corpus),
            "id": own_id,
            "batches": batches,
        }

    def load_state_dict(self, state: LoaderState, *, on_retired: OnRetired = "raise") -> None:
        """Goes on after the last batch that was delivered when the state was saved.

        World size, batch size, workers and canonical nodes' ranks may be others than they were.
        The corpus may have grown since and may have lost domains, see MixSampler.load_state_dict.

        Args:
            state: from `state_dict`, perhaps by way of JSON.
            on_retired: what a domain does that has a positive weight in the state and is not in the
                corpus: "raise", or "redistribute" its weight to the others in proportion.

        Raises:
            StateError: the state is of another corpus, setting or version; both values are named.
        """
        check_loader_state(state, self.corpus)
        self.batches.load_state_dict(state["batches"], on_retired=on_retired)
        self._lost = lost_contents(state, self.corpus)
        self._step = state["batches"]["step"]
        self._meter.begin(self._step)
        self._iterator_number += 1
        if self._record is not None:
            self._record.resume(self.batches.state_dict(self._step), loaded=state["batches"])

    @classmethod
    def from_log(
        cls,
        corpus: Corpus,
        run: Run | str | os.PathLike[str],
        *,
        batch_size: int | None = None,
        **others: Any,
    ) -> Loader:
        """A Loader that streams the very rows of a recorded run again, to another model say.

        Seed, shuffle, weights and all changes come from the log; what was decided and not reached
        at its end is met, and then the last weights stay.

        Args:
            corpus: of the run.
            run: the run, or the path of its log.
            batch_size: of this rank; that of the run's start if not given.
            others: what else Loader takes and the order does not depend on.

        Raises:
            StateError: the run was over another corpus; both fingerprints are named.
        """
        found = run if isinstance(run, Run) else read_run(run)
        check_one_corpus(found)
        check_corpus(found, corpus.fingerprint)
        own = found.shapes[0].batch_size if batch_size is None else batch_size
        loader = cls(corpus, batch_size=own, **order_settings(found, with_stratum=False), **others)
        first: BatchSamplerState = {
            "step": found.step_of(found.first_row),
            "sampler": state_before(found, found.first_row, loader.batches.sampler),
        }
        loader.load_state_dict(
            {"version": LOADER_STATE_VERSION, "corpus": corpus.fingerprint, "batches": first}
        )
        return loader

    def _change(
        self, weights: WeightsLike, at_step: int | None, reason: str, source: str
    ) -> WeightChange:
        """Changes the weights on this rank alone, and records it."""
        if self._record is not None:
            self._begin_record()
        change = self.batches.set_weights(weights, at_step=at_step, reason=reason)
        self._meter.soon()
        if self._record is not None:
            self._record.weights(change, decided_step=self._step, source=source)
        return replace(change, num_batches_in_flight=self.batches.step - self._step)

    def _begin_record(self) -> None:
        """The log's first event, before any other."""
        if self._record is not None and not self._record.is_open:
            self._record.begin(self.batches.state_dict(self._step))

    def _asked(self, asked: Asked) -> WeightChange:
        """Takes what a person asked for."""
        return self._change(asked.weights, asked.at_step, asked.reason, "person")

    def _drawn(self) -> Iterator[Batch]:
        """The batches as they are drawn."""
        self._is_flushed = False
        if self.collate_fn is not passed_on:  # a trainer has put its own in its place
            return super().__iter__()
        return self._maker.batches(self.batches, first_step=self._step)

    def _delivered(self, iterator: Iterator[Batch], number: int) -> Iterator[Batch]:
        """Counts what the loop gets, and records where it ends."""
        try:
            while True:
                if number != self._iterator_number:
                    raise StateError(
                        "this iterator is over: its loader was iterated again or loaded a state "
                        "since; go on with iter(loader)."
                    )
                if self._step >= self._lookout.next_step:
                    self._lookout.look(self._step, self._asked)
                if self._is_flushed:
                    iterator = self._drawn()
                batch = self._meter.next_of(iterator, self._step)
                if batch is None:
                    # weights that were changed since the last draw may have set it going again
                    if not self.batches.has_next():
                        self._lookout.say_end("exhausted", self._step)
                        return
                    iterator = self._drawn()
                    continue
                self._step += 1
                if self._is_synced and self._step % _CHECKED_EVERY == 0:
                    check_same_place(self._step, state_id(self.batches.state_dict(self._step)))
                yield batch
        except ShardError as error:
            self._lookout.say_fault(error, self._step)
            raise
        finally:
            self._lookout.say_progress(self._step)
