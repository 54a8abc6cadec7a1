"""Megatron-Energon: tar shards with its index, blended by a metadataset of weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import webdataset as wds
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    get_savable_loader,
    get_train_dataset,
    stateless,
)
from megatron.energon.flavors import BaseWebdatasetFactory

from peers import ROWS_PER_SHARD, Job, Stream, open_rows

PACKAGE, LACKS = "megatron-energon", "weights lie in a YAML file that is read when it starts"
BUFFER = 1000
DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
BLEND = "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n    blend:\n"


def write(source: Path, folder: Path) -> None:
    """Tars of one member a row, and what `energon prepare` adds."""
    for name, rows in open_rows(source).items():
        (folder / name).mkdir()
        (folder / name / "dtype").write_text(rows.dtype.name)
        size = max(1, min(ROWS_PER_SHARD, len(rows) // 8))
        with wds.ShardWriter(str(folder / name / "%06d.tar"), maxcount=size, verbose=0) as out:
            for number, row in enumerate(rows):
                out.write({"__key__": f"{number:09}", "bin": row.tobytes()})
        BaseWebdatasetFactory.prepare_dataset(
            folder / name,
            [path.name for path in sorted((folder / name).glob("*.tar"))],
            split_parts_ratio=[("train", 1.0)],
            shuffle_seed=None,
            workers=1,
        )
        (folder / name / ".nv-meta" / "dataset.yaml").write_text(DATASET)


@dataclass
class Tokens(Sample):
    """A row."""

    tokens: torch.Tensor


class RowEncoder(DefaultTaskEncoder[Any, Any, Any, Any]):
    """Bytes -> ids; its own batching stacks them."""

    def __init__(self, dtype: np.dtype[Any], native: bool) -> None:
        super().__init__(batch_type=Tokens)
        self.cookers = [Cooker(stateless(partial(_cooked, dtype, native)))]


class Energon(Stream):
    """Its savable loader over a blend with a shuffle buffer."""

    def __init__(self, job: Job) -> None:
        parts = "".join(
            f"      - weight: {weight}\n        path: ./{name}\n"
            for name, weight in job.weights.items()
        )
        blend = job.folder / f"blend-{crc32(parts.encode()):08x}-{job.rank}.yaml"
        blend.write_text(BLEND + parts)
        dtype = np.dtype((job.folder / job.domains[0] / "dtype").read_text())
        config = WorkerConfig(
            rank=job.rank,
            world_size=job.world_size,
            num_workers=job.num_workers,
            seed_offset=job.seed,
        )
        dataset = get_train_dataset(
            blend,
            worker_config=config,
            batch_size=job.batch_size,
            shuffle_buffer_size=job.options.get("buffer", BUFFER),
            max_samples_per_sequence=100,
            task_encoder=RowEncoder(dtype, job.native),
        )
        self.loader = get_savable_loader(dataset, watchdog_timeout_seconds=None)

    def __iter__(self) -> Iterator[Any]:
        return (batch.tokens for batch in self.loader)

    def state_dict(self) -> Any:
        """Its place."""
        return self.loader.save_state_rank()

    def load_state_dict(self, state: Any) -> None:
        """Goes there."""
        self.loader.restore_state_rank(state)


def _cooked(dtype: np.dtype[Any], native: bool, sample: dict[str, Any]) -> Tokens:
    row = np.frombuffer(sample["bin"], dtype)
    tokens = torch.from_numpy(row.copy() if native else row.astype(np.int64))
    return Tokens(**basic_sample_keys(sample), tokens=tokens)


open_stream = Energon
