"""What runs in a worker of a ring: tasks from one pipe -> batches in slots, told by a second."""

from __future__ import annotations

import os
import pickle
import random
import select
import signal
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from mixstream.arrays import ADDRESS, Addresses
from mixstream.errors import WorkerError
from mixstream.loader.slots import Slots
from mixstream.rng import stream_key

__all__ = ["Failure", "Transformed", "Worker", "sigint_held_back", "work"]

# Records are shorter than PIPE_BUF, so that they are written and read whole.
TASK = struct.Struct("<qqqq")
"""serial, step, slot, bytes of its addresses."""
RESULT = struct.Struct("<qqqq")
"""serial, slot, what is in it (of the three below), bytes of that."""
DONE, FAILED, PASSED_OVER = range(3)

# The words that ring and workers share: these, then each worker's step plus 1, or 0.
STOP, WANTED = range(2)
NUM_WORDS = 2
"""Words before the first worker's."""


@dataclass(frozen=True)
class Transformed:
    """A batch that is made, then transformed; it pickles if both do."""

    make_batch: Callable[[Addresses], Any]
    transform: Callable[[Any], Any]

    def __call__(self, addresses: Addresses) -> Any:
        """What the transform makes of the batch of these addresses."""
        return self.transform(self.make_batch(addresses))


class Failure(NamedTuple):
    """An exception, as far as it can leave its process."""

    error: bytes | None
    """Its pickle; None if it does not come back from one, or would end a loop in silence."""
    told: str

    def exception(self) -> Exception:
        """The exception, with the worker's account of it as its cause; or else the account."""
        told = WorkerError(self.told)
        if self.error is None:
            return told
        try:
            error: Exception = pickle.loads(self.error)
        except (ImportError, AttributeError):  # of a module that the worker alone has
            return told
        error.__cause__ = told
        return error


@dataclass(frozen=True, kw_only=True)
class Worker:
    """All that one process of a ring is given."""

    number: int
    """In [0, num_workers)."""
    num_workers: int
    make_batch: Callable[[Addresses], Any]
    init: Callable[[int], None] | None
    slots: Slots
    tasks: Connection
    """All workers read it; whoever is free takes the next task."""
    results: Connection
    """All workers write it."""
    seed: tuple[int, ...] | None
    """Parts of the key of each step's random numbers."""
    parent: int
    """The process that made the ring."""


def work(worker: Worker) -> None:
    """Makes batches until the ring says stop; the process ends with its parent, come what may."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on, and to tell
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has its parent's handler
    _end_with(worker.parent)
    torch.set_num_threads(1)  # the processes are the parallelism
    if worker.init is not None:
        worker.init(worker.number)
    words, tasks, results = worker.slots.words, worker.tasks.fileno(), worker.results.fileno()
    while True:
        task = os.read(tasks, TASK.size)
        if not task or words[STOP]:
            return
        serial, step, slot, num_bytes = TASK.unpack(task)
        if serial < words[WANTED]:
            os.write(results, RESULT.pack(serial, slot, PASSED_OVER, 0))
            continue
        words[NUM_WORDS + worker.number] = step + 1
        kind, length = _made(worker, step, slot, num_bytes)
        words[NUM_WORDS + worker.number] = 0
        os.write(results, RESULT.pack(serial, slot, kind, length))


def _made(worker: Worker, step: int, slot: int, num_bytes: int) -> tuple[int, int]:
    """What is in the slot after a task, and its bytes."""
    addresses = np.frombuffer(worker.slots.get(slot, num_bytes), ADDRESS)
    try:
        if worker.seed is not None:
            _seed(*worker.seed, step)
        return DONE, worker.slots.write(slot, worker.make_batch(addresses))
    except Exception as error:  # noqa: BLE001 (the loop raises it)
        told = (
            f"step {step} failed in worker {worker.number} of {worker.num_workers} (process "
            f"{os.getpid()}):\n\n{traceback.format_exc()}"
        )
        return FAILED, worker.slots.write(slot, Failure(_portable(error), told))


def _portable(error: Exception) -> bytes | None:
    if isinstance(error, StopIteration):
        return None
    try:
        content = pickle.dumps(error)
        pickle.loads(content)  # a constructor of its own often takes other arguments
    except Exception:  # noqa: BLE001 (whatever it is, the text goes in its place)
        return None
    return content


def _seed(*parts: int) -> None:
    """Sets the three global generators to a function of the parts."""
    key = int(stream_key(*parts))
    torch.default_generator.manual_seed(key)  # torch.manual_seed would look for devices, too
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002 (transforms use it)


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended, in the middle of whatever it does."""
    try:
        ended = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        process = parent_process()
        assert process is not None, "a ring's workers are started by multiprocessing"
        ended = process.sentinel

    def watch() -> None:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, name="mixstream-parent", daemon=True).start()


@contextmanager
def sigint_held_back() -> Iterator[None]:
    """Ctrl-C comes to all processes of a terminal; one that starts in here never sees it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
