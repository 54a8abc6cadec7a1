"""Corpus + weights -> a torch DataLoader whose mixture may change while it runs."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypedDict

import torch
from torch.utils.data import DataLoader

from mixstream.arrays import Vector
from mixstream.corpus.corpus import Corpus
from mixstream.errors import StateError, WeightsError
from mixstream.loader.batch_sampler import BatchSamplerState, MixBatchSampler
from mixstream.loader.dataset import Batch, RowDataset, passed_on
from mixstream.loader.ranks import (
    check_same_place,
    is_distributed,
    of_rank_0,
    rank_and_world_size,
)
from mixstream.mixing.sampler import MixSampler
from mixstream.mixing.settings import OnExhausted, Sampling
from mixstream.mixing.state import check_keys
from mixstream.mixing.weights import WeightChange, WeightsLike

__all__ = ["Loader", "LoaderState"]

_STATE_VERSION = 1


class LoaderState(TypedDict):
    """A place in a run over a corpus, as JSON holds it; equal on all ranks."""

    version: int
    corpus: str
    batches: BatchSamplerState


class Loader(DataLoader[Any]):
    """A torch DataLoader over a corpus whose domain weights may change while it runs.

    Iterating ends only where max_epochs ends it: under on_exhausted="stop", or with no domain left.
    Leaving the loop and iterating again goes on with the next undelivered batch. With
    num_workers=0, which is the recommended setting (gathering rows from mapped shards is a memcpy),
    a change of the weights is felt by the very next batch.

    Args:
        corpus: from `open_corpus`.
        weights: a number a domain, by name or (K,) in manifest order; None draws every domain by
            its share of the rows.
        batch_size: B, rows of a batch on this rank.
        seed: of the order, in [0, 2^64).
        rank: data-parallel rank; from torch.distributed if it is initialised, else 0.
        world_size: W; likewise, else 1.
        num_canonical_nodes: see MixSampler.
        sampling: "independent", or "stratified" with a global batch of the run's start as stratum.
        shuffle: see MixSampler.
        shuffle_block_rows: see MixSampler.
        max_epochs: see MixSampler.
        on_exhausted: see MixSampler; "stop" ends the loop before the first batch that is not full.
        labels: see RowDataset.
        position_ids: see RowDataset.
        cu_seqlens: see RowDataset.
        num_workers: worker processes; a change of the weights then waits for the batches in flight.
        prefetch_factor: batches in flight for each worker; torch's default is 2.
        pin_memory: see torch.utils.data.DataLoader.
        persistent_workers: see torch.utils.data.DataLoader.
        multiprocessing_context: "fork", "spawn" or "forkserver".
    """

    def __init__(
        self,
        corpus: Corpus,
        weights: WeightsLike | None = None,
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
        labels: bool = False,
        position_ids: bool = False,
        cu_seqlens: bool = False,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        multiprocessing_context: str | None = None,
    ) -> None:
        rank, world_size = rank_and_world_size(rank, world_size)
        batch_size = operator.index(batch_size)
        sampler = MixSampler(
            corpus.layout,
            weights,
            seed=seed,
            num_canonical_nodes=num_canonical_nodes,
            sampling=sampling,
            stratum=batch_size * world_size if sampling == "stratified" else None,
            shuffle=shuffle,
            shuffle_block_rows=shuffle_block_rows,
            max_epochs=max_epochs,
            on_exhausted=on_exhausted,
        )
        super().__init__(
            RowDataset(corpus, labels=labels, position_ids=position_ids, cu_seqlens=cu_seqlens),
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
    def fingerprint(self) -> str:
        """16 hex digits of what is drawn and decided: equal on all ranks at the same step."""
        return self.batches.sampler.fingerprint

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """The batches from the next undelivered one on; an older iterator of this loader ends."""
        self._iterator_number += 1
        self.batches.rewind(self._step)
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
        self, weights: WeightsLike, *, at_step: int | None = None, reason: str = ""
    ) -> WeightChange:
        """Changes the weights from the next undrawn step on, or from a later one.

        Under torch.distributed every process calls this; rank 0's weights, step and reason are
        taken.

        Args:
            weights: by name or (K,), an array or a tensor.
            at_step: the first step that feels them; None means the next undrawn one.
            reason: why, for the record.

        Returns:
            The change, with the first row and step that feel it.

        Raises:
            WeightsError: weights that are no point on the simplex; the old ones stay.
            StepError: at_step is drawn already.
            StateError: the ranks are not at the same place of the same run.
        """
        if is_distributed():
            mine = (weights, at_step, reason)
            check_same_place(self.batches.step, self.fingerprint)
            weights, at_step, reason = of_rank_0(
                lambda: (self.batches.sampler.checked(mine[0]), *mine[1:])
            )
        change = self.batches.set_weights(weights, at_step=at_step, reason=reason)
        return replace(change, num_batches_in_flight=self.batches.step - self._step)

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
        if isinstance(domain, str) and domain not in self.domains:
            raise WeightsError(
                f"unknown domain {domain!r} in a probe; the corpus holds "
                f"{', '.join(self.domains[:10])}."
            )
        if num_rows < 0 or draw < 0:
            raise ValueError(f"num_rows is {num_rows} and draw is {draw}; give at least 0.")
        index = self.domains.index(domain) if isinstance(domain, str) else domain
        place = self.batches.row(self._step)
        addresses = self.batches.sampler.probe(
            index,
            range(self.batches.rank * num_rows, (self.batches.rank + 1) * num_rows),
            place=place,
            draw=draw,
        )
        dataset: Any = self.dataset
        batch: Batch = dataset.batch(addresses)
        return batch

    def state_dict(self) -> LoaderState:
        """The state after the last delivered batch; small, JSON-able, equal on all ranks."""
        return {
            "version": _STATE_VERSION,
            "corpus": self.corpus.fingerprint,
            "batches": self.batches.state_dict(self._step),
        }

    def load_state_dict(self, state: LoaderState) -> None:
        """Goes on after the last batch that was delivered when the state was saved.

        World size, batch size, workers and canonical nodes' ranks may be others than they were.

        Raises:
            StateError: the state is of another corpus, setting or version; both values are named.
        """
        check_keys(state, LoaderState.__annotations__, "loader's")
        if state["version"] != _STATE_VERSION:
            raise StateError(
                f"the loader's state has version {state.get('version')!r}, this mixstream reads "
                f"version {_STATE_VERSION}; load it with the mixstream that saved it."
            )
        if state["corpus"] != self.corpus.fingerprint:
            raise StateError(
                f"the state was saved on the corpus with fingerprint {state['corpus']}, this one "
                f"has {self.corpus.fingerprint}; open the corpus of the run."
            )
        self.batches.load_state_dict(state["batches"])
        self._step = state["batches"]["step"]
        self._iterator_number += 1

    def _drawn(self) -> Iterator[Batch]:
        """The batches as they are drawn."""
        if self.num_workers == 0 and not self.pin_memory and self.collate_fn is passed_on:
            # torch's own loop around a dataset in this process would cost a fifth of a step
            dataset: Any = self.dataset
            return map(dataset.batch, self.batches)
        return super().__iter__()

    def _delivered(self, iterator: Iterator[Batch], number: int) -> Iterator[Batch]:
        """Counts what the loop gets."""
        while True:
            if number != self._iterator_number:
                raise StateError(
                    "this iterator is over: its loader was iterated again or loaded a state "
                    "since; go on with iter(loader)."
                )
            batch = next(iterator, None)
            if batch is None:
                # weights that were changed since the last draw may have set it going again
                if not self.batches.has_next():
                    return
                iterator = self._drawn()
                continue
            self._step += 1
            self.batches.forget(self._step)
            yield batch
