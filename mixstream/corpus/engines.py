"""Units of work -> their reports, in this process or in a pool of processes."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from mixstream.arrays import Counts
from mixstream.corpus.machine import num_cores
from mixstream.corpus.tokenizers.vocabulary import limit_threads
from mixstream.errors import RecipeError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Tell", "run_all"]

Task = TypeVar("Task")
Result = TypeVar("Result")

Tell: TypeAlias = Callable[[int, int, int], None]
"""Takes three counts of what a task has done so far."""

_TICK_SECONDS = 0.2


def run_all(
    run: Callable[[Task, Tell], Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    on_counts: Callable[[Counts], None] | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Runs every task once and yields each with its result as it ends, in any order.

    Args:
        run: a picklable function of one task, and of what it may tell about itself.
        tasks: picklable.
        workers: 1 runs in this process; more run in so many processes, started afresh ("spawn"),
            so a script that calls this stands behind `if __name__ == "__main__":`. Each gives its
            tokenizer an even share of the cores as threads.
        on_counts: called a few times a second with (n, 3) int64, what each task told last.

    Raises:
        RecipeError: a worker process died, or `run` cannot be sent to one. What `run` raises comes
            through; tasks not started are dropped then, those that run are waited for.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from _run_here(run, tasks, on_counts)
        return
    try:
        pickled = pickle.dumps(run)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise RecipeError(
            f"the work cannot be sent to worker processes ({error}); define the tokenizer's class "
            f"in a file that can be imported, without open files or locks in it, or take workers=1."
        ) from error
    from concurrent.futures import ProcessPoolExecutor  # which one process need not import
    from multiprocessing import get_context

    context = get_context("spawn")
    alive, parent_end = context.Pipe(duplex=False)
    num_processes = min(workers, len(tasks))
    told = context.RawArray("q", 3 * len(tasks))
    pool = ProcessPoolExecutor(
        num_processes,
        mp_context=context,
        initializer=_start_worker,
        initargs=(alive, pickled, told, max(1, num_cores() // num_processes)),
    )
    counts = np.frombuffer(told, np.int64).reshape(-1, 3)
    try:
        with _stop_by_hand_held_back(), _one_blas_thread():
            tasks_of = {
                pool.submit(_run_in_worker, number, task): task for number, task in enumerate(tasks)
            }
        yield from _as_they_end(tasks_of, counts, on_counts)
    except BrokenExecutor as error:
        raise RecipeError(
            f"one of {workers} worker processes died, perhaps killed for want of memory. What is "
            f"finished is kept: run the same again, with fewer workers or a smaller "
            f"max_document_bytes."
        ) from error
    except (KeyboardInterrupt, GeneratorExit):
        parent_end.close()  # ends the workers: a task may take minutes, and is done again whole
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        parent_end.close()
        alive.close()


def _run_here(
    run: Callable[[Task, Tell], Result],
    tasks: Sequence[Task],
    on_counts: Callable[[Counts], None] | None,
) -> Iterator[tuple[Task, Result]]:
    counts = np.zeros((len(tasks), 3), np.int64)
    last = time.monotonic()

    def tell(number: int, *told: int) -> None:
        nonlocal last
        counts[number] = told
        if on_counts is not None and time.monotonic() - last > _TICK_SECONDS:
            last = time.monotonic()
            on_counts(counts.copy())

    for number, task in enumerate(tasks):
        yield task, run(task, partial(tell, number))


def _as_they_end(
    tasks_of: dict[Future[Result], Task],
    counts: Counts,
    on_counts: Callable[[Counts], None] | None,
) -> Iterator[tuple[Task, Result]]:
    waiting = set(tasks_of)
    seconds = None if on_counts is None else _TICK_SECONDS
    while waiting:
        ended, waiting = wait(waiting, timeout=seconds, return_when=FIRST_COMPLETED)
        for future in ended:
            yield tasks_of[future], future.result()
        if on_counts is not None:
            on_counts(counts.copy())


@contextmanager
def _stop_by_hand_held_back() -> Iterator[None]:
    """Ctrl-C comes to all processes of a terminal; it is the parent's to act on, and to tell.

    It would end a worker in the middle of taking a task, after which its pool waits for ever. A
    process that starts here never sees it; this one acts on it at the end. Blocking alone would not
    hold it back: another thread, such as one of a BLAS, may take it for the main one.
    """
    caught: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and handler is not None:
        signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main and handler is not None:
            signal.signal(signal.SIGINT, handler)
            if caught:
                signal.raise_signal(signal.SIGINT)


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Processes that start here do no algebra; numpy would start a thread a core in each for it.

    They look when numpy is imported, which is before any line of ours runs in them.
    """
    name = "OPENBLAS_NUM_THREADS"
    is_ours = name not in os.environ
    if is_ours:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if is_ours:
            os.environ.pop(name, None)


_worker: dict[str, Any] = {}
"""Of a worker process: what to run, pickled or not, and where its tasks tell how far they are."""


def _start_worker(alive: Connection, pickled: bytes, told: Any, threads: int) -> None:
    """Ends this worker when the parent closes its end of a pipe, or is killed, which closes it too.

    A pool's own workers would wait for ever.
    """

    def watch() -> None:
        with suppress(EOFError, OSError):
            alive.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    limit_threads(threads)
    _worker.update(pickled=pickled, counts=np.frombuffer(told, np.int64).reshape(-1, 3))


def _run_in_worker(number: int, task: Any) -> Any:
    """Runs one task; what is run comes once to each worker, with all that the tokenizer holds."""
    if "run" not in _worker:
        _worker["run"] = pickle.loads(_worker["pickled"])

    def tell(first: int, second: int, third: int) -> None:
        _worker["counts"][number] = first, second, third

    return _worker["run"](task, tell)
