"""Megatron-Core: GPTDataset over .bin/.idx, blended; its batches are consecutive samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from torch.utils.data import DataLoader

from peers import Job, Stream, as_signed, open_rows

PACKAGE, LACKS = "megatron-core", "the blend is an index of all samples, built before the first one"


def write(source: Path, folder: Path) -> None:
    """A document a row, so that a sample of S tokens is a row."""
    for name, unsigned in open_rows(source).items():
        rows = as_signed(unsigned)
        builder = IndexedDatasetBuilder(str(folder / f"{name}.bin"), dtype=rows.dtype.type)
        for row in rows:
            builder.add_document(row, [len(row)])
        builder.finalize(str(folder / f"{name}.idx"))


class Megatron(Stream):
    """The state is the number of consumed samples, as in its training loop."""

    def __init__(self, job: Job) -> None:
        if not torch.distributed.is_initialized():  # the builder asks for a rank
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        prefixes = [str(job.folder / name) for name in job.domains]
        tokenizer = SimpleNamespace(
            eod=60_000, pad=60_001, vocab_size=60_002, unique_identifiers={"name": "none"}
        )
        config = GPTDatasetConfig(
            random_seed=job.seed,
            sequence_length=job.seq_len,
            blend=(prefixes, list(job.weights.values())),
            split="1,0,0",
            tokenizer=tokenizer,
            path_to_cache=str(job.folder / "cache"),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            add_extra_token_to_sequence=False,
        )
        builder = BlendedMegatronDatasetBuilder(
            GPTDataset, [job.num_rows, 0, 0], lambda: True, config
        )
        self.dataset, self.job, self.consumed = builder.build()[0], job, 0

    def __iter__(self) -> Iterator[Any]:
        size, step = self.job.batch_size, self.job.batch_size * self.job.world_size
        starts = range(self.consumed + self.job.rank * size, len(self.dataset) - step + 1, step)
        batches = [range(start, start + size) for start in starts]
        loader = DataLoader(self.dataset, batch_sampler=batches, num_workers=self.job.num_workers)
        for batch in loader:
            self.consumed += step
            yield batch["tokens"]

    def state_dict(self) -> Any:
        """Its place."""
        return self.consumed

    def state_at(self, step: int) -> Any:
        """It counts."""
        return step * self.job.batch_size * self.job.world_size

    def load_state_dict(self, state: Any) -> None:
        """Goes there."""
        self.consumed = state


open_stream = Megatron
