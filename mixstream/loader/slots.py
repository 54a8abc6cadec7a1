"""A batch <-> the bytes of a slot, in memory that processes share and no name leads to.

A slot holds the table of its sizes, a pickle of the batch's shape, then the bytes of each tensor
and array, each at a multiple of 64:

    | int64 n | int64 size of the pickle | n int64 sizes | pickle |..| buffer |..| buffer |..

The pickle is protocol 5 with its buffers out of band, so any object may be a batch; what lies in
tensors and arrays is copied once, into the slot, and not at all out of it.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.errors import StateError

__all__ = ["SLOT_BYTES", "Slots"]

SLOT_BYTES = 1 << 34
"""The largest batch. It costs address space and file length: pages come with their first use."""

_HEADER_BYTES = 1 << 16  # whole pages on every processor
_LEAST_MAP_BYTES = 1 << 18
_ALIGNMENT = 64


class Slots:
    """Slots of any size up to SLOT_BYTES, one after the other in a file without a name.

    The file is a memfd where there is one (Linux), else a temporary file that is unlinked at birth:
    when the last process that has it ends, by whatever means, nothing is left. Pickling works while
    a process starts, and gives it the same memory.

    Args:
        num_slots: how many.
        num_words: int64 words that the processes share besides.
    """

    def __init__(self, num_slots: int, num_words: int) -> None:
        assert num_words * 8 <= _HEADER_BYTES, f"{num_words} words do not fit the header"
        self._file = _nameless_file()
        self._num_words = num_words
        os.ftruncate(self._file, _HEADER_BYTES + num_slots * SLOT_BYTES)
        self._open()

    def _open(self) -> None:
        header = mmap.mmap(self._file, _HEADER_BYTES)
        self.words: NDArray[np.int64] = np.frombuffer(header, np.int64, self._num_words)
        """Shared; zero at first. Whoever reads one has read a pipe since it was written."""
        self._maps: dict[int, mmap.mmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"file": reduction.DupFd(self._file), "num_words": self._num_words}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._file, self._num_words = state["file"].detach(), state["num_words"]
        self._open()

    def close(self) -> None:
        """Gives up the file; memory under batches that are held goes with the last of them."""
        self._maps.clear()
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def put(self, slot: int, content: bytes) -> None:
        """Bytes as they are, from the slot's start on."""
        self._map(slot, len(content))[: len(content)] = content

    def get(self, slot: int, num_bytes: int) -> bytes:
        """A copy of the slot's first bytes."""
        return self._map(slot, num_bytes)[:num_bytes]

    def write(self, slot: int, batch: object) -> int:
        """Copies a batch into a slot and returns the bytes that it takes there.

        Raises:
            StateError: it takes more than SLOT_BYTES.
        """
        buffers: list[pickle.PickleBuffer] = []
        shape = io.BytesIO()
        _Pickler(shape, protocol=5, buffer_callback=buffers.append).dump(batch)
        contents = [buffer.raw() for buffer in buffers]
        sizes = [content.nbytes for content in contents]
        table = np.array([len(sizes), shape.tell(), *sizes], np.int64).tobytes()
        *places, end = _places(len(table) + shape.tell(), sizes)
        if end > SLOT_BYTES:
            raise StateError(
                f"a batch of {end} bytes is too large for worker processes, which hand over at "
                f"most {SLOT_BYTES}; take a smaller batch_size, or num_workers=0."
            )
        memory = self._map(slot, end)
        memory[: len(table)] = table
        memory[len(table) : len(table) + shape.tell()] = shape.getvalue()
        for place, content in zip(places, contents, strict=False):
            memory[place : place + content.nbytes] = content
        return end

    def read(self, slot: int, num_bytes: int, *, lend: bool) -> tuple[Any, NDArray[np.uint8]]:
        """The batch in a slot, and the array that its tensors and arrays lie in.

        Args:
            slot: where `write` put it.
            num_bytes: what `write` returned.
            lend: let the tensors lie in the slot itself. The slot may be written again when the
                array is no more, which is when nothing that lies in it is any more.
        """
        memory: NDArray[np.uint8] = np.frombuffer(self._map(slot, num_bytes), np.uint8, num_bytes)
        if not lend:
            memory = memory.copy()
        num_buffers, shape_bytes = memory[:16].view(np.int64).tolist()
        start = 16 + 8 * num_buffers
        sizes = memory[16:start].view(np.int64).tolist()
        buffers = [
            memory[place : place + size]
            for place, size in zip(_places(start + shape_bytes, sizes), sizes, strict=False)
        ]
        batch = pickle.loads(memory[start : start + shape_bytes].data, buffers=buffers)
        # torch lists every sparse tensor that is unpickled, for torch.load to check, for ever
        torch._utils._validate_loaded_sparse_tensors()  # type: ignore[no-untyped-call]
        return batch, memory

    def _map(self, slot: int, num_bytes: int) -> mmap.mmap:
        """A map of at least the first bytes of a slot; an older one lives while it is lent."""
        found = self._maps.get(slot)
        if found is None or len(found) < num_bytes:
            length = max(_LEAST_MAP_BYTES, 1 << (num_bytes - 1).bit_length())
            found = mmap.mmap(self._file, length, offset=_HEADER_BYTES + slot * SLOT_BYTES)
            self._maps[slot] = found
        return found


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        with suppress(OSError):  # a sandbox may forbid it
            return os.memfd_create("mixstream", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _places(start: int, sizes: Iterable[int]) -> Iterator[int]:
    """Where each buffer starts, then the end: for 100 and sizes [8, 65] it is 128, 192, 320."""
    place = start
    for size in sizes:
        place = -(-place // _ALIGNMENT) * _ALIGNMENT
        yield place
        place += size
    yield -(-place // _ALIGNMENT) * _ALIGNMENT


class _Pickler(pickle.Pickler):
    """Takes the bytes of tensors out of band, as numpy does with those of arrays."""

    def reducer_override(self, found: Any) -> Any:
        if type(found) is not torch.Tensor or not _is_plain(found):
            return NotImplemented
        if found.numel() == 0:  # torch's own pickle of some dtypes does not come back
            return _empty, (tuple(found.shape), found.dtype)
        content = found.contiguous().view(-1).view(torch.uint8).numpy().data
        return _tensor, (pickle.PickleBuffer(content), found.dtype, tuple(found.shape))


def _is_plain(found: torch.Tensor) -> bool:
    """Whether a tensor is its bytes, dtype and shape, and nothing else."""
    return (
        found.layout is torch.strided
        and found.device.type == "cpu"
        and not (found.requires_grad or found.is_quantized or found.is_conj() or found.is_neg())
    )


def _tensor(content: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    frombuffer: Callable[..., torch.Tensor] = torch.frombuffer
    return frombuffer(content, dtype=dtype).view(shape)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)
