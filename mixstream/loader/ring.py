"""Addresses -> batches that worker processes make, in order, through slots of shared memory.

The draw stays in this process. It puts the addresses of a batch into a free slot and 32 bytes into
a pipe that all workers read; whoever is free takes them, makes the batch, writes it over the
addresses, and says so in 32 bytes through a second pipe. No worker waits for another, and no batch
passes through a pipe.

A slot is free, or its worker's from the draw to the delivery, or lent to the loop, whose tensors
lie in it, until the last of them is gone. MAX_LENT slots are lent at once; a loop that keeps more
batches gets copies.
"""

from __future__ import annotations

import os
import pickle
import select
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Addresses
from mixstream.errors import StateError, WorkerError
from mixstream.loader.ring_worker import (
    DONE,
    FAILED,
    NUM_WORDS,
    RESULT,
    STOP,
    TASK,
    WANTED,
    Transformed,
    Worker,
    sigint_held_back,
    work,
)
from mixstream.loader.slots import Slots

__all__ = ["MAX_LENT", "Ring", "Transformed"]

MAX_LENT = 4
"""The batch of this step, of the last, and two that a prefetcher to a device holds."""

_GRACE_SECONDS = 1.0
_MAX_RESULTS = 64


class Ring:
    """Worker processes, and the memory that they hand batches over in.

    `batches` may be called again: the processes stay, what is in flight is given up. They end with
    `close`, or when neither the ring nor an iterator of it is held any more, and they never outlive
    this process, however it ends.

    Args:
        make_batch: (B,) addresses -> batch, called in the workers. With "spawn" and "forkserver" it
            must pickle.
        num_workers: processes, at least 1.
        prefetch_factor: batches that are drawn ahead for each.
        context: "fork", "spawn", "forkserver" or a context; None takes Python's default.
        seed: parts of a key. The random numbers of torch, numpy and Python are seeded with it and
            the step before each batch, so that they do not depend on who makes it; None leaves
            them as they start in each worker.
        worker_init: called once in each worker with its number, in [0, num_workers).

    Raises:
        WorkerError: make_batch or worker_init cannot be sent to a process.
    """

    def __init__(
        self,
        make_batch: Callable[[Addresses], Any],
        *,
        num_workers: int,
        prefetch_factor: int = 2,
        context: str | BaseContext | None = None,
        seed: tuple[int, ...] | None = None,
        worker_init: Callable[[int], None] | None = None,
    ) -> None:
        if num_workers < 1 or prefetch_factor < 1:
            raise ValueError(
                f"num_workers is {num_workers} and prefetch_factor is {prefetch_factor}; a ring "
                f"needs at least 1 of each."
            )
        self.max_in_flight = num_workers * prefetch_factor
        """Batches that are drawn and not delivered while a loop goes on."""
        num_slots = self.max_in_flight + MAX_LENT
        self._slots = Slots(num_slots, NUM_WORDS + num_workers)
        self._free = list(range(num_slots))  # a stack: what was used last is in the caches
        self._lent: dict[int, weakref.ref[NDArray[np.uint8]]] = {}
        chosen = context if isinstance(context, BaseContext) else get_context(context)
        self._pipes = [*chosen.Pipe(duplex=False), *chosen.Pipe(duplex=False)]
        task_reader, task_writer, result_reader, result_writer = self._pipes
        self._task_writer, self._result_reader = task_writer.fileno(), result_reader.fileno()
        self._serial = 0  # of the next task; every task of this ring has another
        self._results: dict[int, tuple[int, int, int]] = {}
        self.waits = (0, 0.0)
        """How often a batch was asked for that was not there yet, and the seconds until it was."""
        self._processes: list[BaseProcess] = []
        self._end = weakref.finalize(
            self, _end, os.getpid(), self._processes, self._slots, self._pipes
        )
        workers = [
            Worker(
                number=number,
                num_workers=num_workers,
                make_batch=make_batch,
                init=worker_init,
                slots=self._slots,
                tasks=task_reader,
                results=result_writer,
                seed=seed,
                parent=os.getpid(),
            )
            for number in range(num_workers)
        ]
        self._start(chosen, workers)
        self._poll = select.poll()
        for waited in (self._result_reader, *(process.sentinel for process in self._processes)):
            self._poll.register(waited, select.POLLIN)

    @property
    def closed(self) -> bool:
        """Whether the workers are gone: `close` was called, or an error came to a loop."""
        return not self._end.alive

    def close(self) -> None:
        """Ends the workers, within a second if need be by force. Batches that are held stay."""
        self._end()

    def batches(self, addresses: Iterable[Addresses], *, first_step: int = 0) -> Iterator[Any]:
        """The batches of addresses, in order; `max_in_flight` are drawn before this returns.

        An older iterator of this ring is over. The addresses' own errors come through as they are,
        and those of make_batch with the worker's traceback and the step as their cause; any error
        that comes from next closes the ring.

        Args:
            addresses: (B,) each; drawn one for each batch that is delivered.
            first_step: of the first batch, for messages.

        Raises:
            WorkerError: (from next) a worker ended, or raised what this process cannot rebuild.
            StateError: the ring is closed, or (from next) iterated anew.
        """
        if self.closed:
            raise StateError("this ring is closed; make another one.")
        self._give_up()
        return _Batches(self, iter(addresses), first_step)

    def _start(self, context: BaseContext, workers: Iterable[Worker]) -> None:
        make_process: Callable[..., BaseProcess] = getattr(context, "Process")  # noqa: B009 (untyped)
        for worker in workers:
            process = make_process(
                target=work, args=(worker,), name=f"mixstream-{worker.number}", daemon=True
            )
            try:
                with sigint_held_back():
                    process.start()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                self.close()
                raise WorkerError(
                    f"the transform cannot be sent to a worker process ({error}); define it at the "
                    f"top of a file that can be imported, without open files or locks in it, or "
                    f'take multiprocessing_context="fork".'
                ) from error
            self._processes.append(process)

    def _give_up(self) -> None:
        """Tasks that no worker has begun are passed over, results that come are thrown away."""
        self._slots.words[WANTED] = self._serial
        for slot, _, _ in self._results.values():
            self._free.append(slot)
        self._results.clear()

    def _submit(self, addresses: Addresses, step: int) -> int:
        """Gives a batch to the workers and returns its serial."""
        while not self._free:  # given up, and still made
            self._receive(step)
        serial, slot = self._serial, self._free.pop()
        content = addresses.tobytes()
        self._slots.put(slot, content)
        self._serial += 1
        os.write(self._task_writer, TASK.pack(serial, step, slot, len(content)))
        return serial

    def _result(self, serial: int, step: int) -> Any:
        """What came of a task, once it is there."""
        if serial not in self._results:
            started = time.monotonic()
            while serial not in self._results:
                self._receive(step)
            self.waits = (self.waits[0] + 1, self.waits[1] + time.monotonic() - started)
        slot, kind, num_bytes = self._results.pop(serial)
        lend = kind == DONE and len(self._lent) < MAX_LENT
        batch, memory = self._slots.read(slot, num_bytes, lend=lend)
        if lend:
            free, lent = self._free, self._lent

            def given_back(_: object) -> None:
                del lent[slot]
                free.append(slot)

            lent[slot] = weakref.ref(memory, given_back)
        else:
            self._free.append(slot)
        if kind == FAILED:
            raise batch.exception()
        return batch

    def _receive(self, step: int) -> None:
        """Waits for results, at least one.

        Raises:
            WorkerError: a worker has ended, and there is none.
        """
        while True:
            ready = {file for file, _ in self._poll.poll(1000)}
            if self._result_reader in ready:
                break
            # by the second, too: a process that the worker started may hold its sentinel
            for number, process in enumerate(self._processes):
                process.join(1.0 if process.sentinel in ready else 0.0)
                if process.exitcode is not None:
                    raise self._death(number, process, step)
        wanted = int(self._slots.words[WANTED])
        found = os.read(self._result_reader, RESULT.size * _MAX_RESULTS)
        for serial, slot, kind, num_bytes in RESULT.iter_unpack(found):
            if serial < wanted:
                self._free.append(slot)
            else:
                self._results[serial] = (slot, kind, num_bytes)

    def _death(self, number: int, process: BaseProcess, step: int) -> WorkerError:
        claimed = int(self._slots.words[NUM_WORDS + number]) - 1
        place = f"while it made step {claimed}" if claimed >= 0 else "between two batches"
        return WorkerError(
            f"worker {number} of {len(self._processes)} (process {process.pid}) ended with exit "
            f"code {process.exitcode} {place}; the loop waits for step {step}. "
            + (
                "It was killed, perhaps for want of memory: take a smaller num_workers, "
                "prefetch_factor or batch_size."
                if process.exitcode == -9
                else "What it printed before says why; num_workers=0 shows it in this process."
            )
        )


class _Batches(Iterator[Any]):
    """One iteration over a ring; it holds the ring until it ends."""

    def __init__(self, ring: Ring, addresses: Iterator[Addresses], first_step: int) -> None:
        self._ring: Ring | None = ring
        self._addresses = addresses
        self._first_serial, self._step = ring._serial, first_step
        self._pending: deque[int] = deque()
        self._more = True
        while self._more and len(self._pending) < ring.max_in_flight:
            self._draw(ring)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        ring = self._ring
        if ring is None or not self._pending:
            self._ring = None  # its processes end, if nobody else has it
            raise StopIteration
        if ring.closed or self._first_serial < ring._slots.words[WANTED]:
            raise StateError("this iterator is over: its ring was iterated again, or closed.")
        try:
            batch = ring._result(self._pending[0], self._step)
            self._pending.popleft()
            self._step += 1
            if self._more:
                self._draw(ring)
        except BaseException:
            self._ring = None
            ring.close()
            raise
        return batch

    def _draw(self, ring: Ring) -> None:
        addresses = next(self._addresses, None)
        if addresses is None:
            self._more = False
        else:
            self._pending.append(ring._submit(addresses, self._step + len(self._pending)))


def _end(
    owner: int, processes: list[BaseProcess], slots: Slots, pipes: Iterable[Connection]
) -> None:
    """Ends the workers and gives up what the ring holds."""
    if os.getpid() != owner:  # a fork of the ring's process, which lets its copy go
        return
    task_writer = tuple(pipes)[1].fileno()
    slots.words[STOP] = 1
    os.set_blocking(task_writer, False)
    with suppress(BlockingIOError):  # then there is something to read for each, which does as well
        os.write(task_writer, bytes(TASK.size * len(processes)))
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()
    processes.clear()
    for pipe in pipes:
        pipe.close()
    slots.close()
