"""Units of work -> their reports, in this process or in a pool of processes."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

from mixstream.errors import RecipeError

__all__ = ["run_all"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    run: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[tuple[Task, Result]]:
    """Runs every task once and yields each with its result as it ends, in any order.

    Args:
        run: a picklable function; it sees one task and nothing else.
        tasks: picklable.
        workers: 1 runs in this process; more run in so many processes, started afresh ("spawn"),
            so a script that calls this stands behind `if __name__ == "__main__":`.

    Raises:
        RecipeError: a worker process died, or `run` cannot be sent to one. What `run` raises comes
            through; tasks not started are dropped then, those that run are waited for.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, run(task)
        return
    try:
        pickle.dumps(run)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise RecipeError(
            f"the work cannot be sent to worker processes ({error}); define the tokenizer's class "
            f"in a file that can be imported, without open files or locks in it, or take workers=1."
        ) from error
    context = get_context("spawn")
    alive, parent_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=context,
        initializer=_end_with_parent,
        initargs=(alive,),
    )
    try:
        with _stop_by_hand_held_back():
            tasks_of = {pool.submit(run, task): task for task in tasks}
        yield from _as_they_end(tasks_of)
    except BrokenProcessPool as error:
        raise RecipeError(
            f"one of {workers} worker processes died, perhaps killed for want of memory. What is "
            f"finished is kept: run the same again, with fewer workers or a smaller unit_bytes."
        ) from error
    except (KeyboardInterrupt, GeneratorExit):
        parent_end.close()  # ends the workers: a task may take minutes, and is done again whole
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        parent_end.close()
        alive.close()


def _as_they_end(tasks_of: dict[Future[Result], Task]) -> Iterator[tuple[Task, Result]]:
    waiting = set(tasks_of)
    while waiting:
        ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ended:
            yield tasks_of[future], future.result()


@contextmanager
def _stop_by_hand_held_back() -> Iterator[None]:
    """Ctrl-C comes to all processes of a terminal; it is the parent's to act on, and to tell.

    It would end a worker in the middle of taking a task, after which its pool waits for ever. A
    process that starts here never sees it; this one does, at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(alive: Connection) -> None:
    """Ends this worker when the parent closes its end of a pipe, or is killed, which closes it too.

    A pool's own workers would wait for ever.
    """

    def watch() -> None:
        with suppress(EOFError, OSError):
            alive.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
