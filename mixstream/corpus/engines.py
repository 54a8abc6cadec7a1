"""Units of work -> their reports, in this process or in a pool of processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
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
        RecipeError: a worker process died. What `run` raises comes through; tasks not started are
            dropped then, those that run are waited for.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, run(task)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=get_context("spawn"), initializer=_die_with_parent
    )
    try:
        tasks_of = {pool.submit(run, task): task for task in tasks}
        yield from _as_they_end(tasks_of)
    except BrokenProcessPool as error:
        raise RecipeError(
            f"one of {workers} worker processes died, perhaps killed for want of memory. What is "
            f"finished is kept: run the same again, with fewer workers or a smaller unit_bytes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _as_they_end(tasks_of: dict[Future[Result], Task]) -> Iterator[tuple[Task, Result]]:
    waiting = set(tasks_of)
    while waiting:
        ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ended:
            yield tasks_of[future], future.result()


def _die_with_parent() -> None:
    """Ends this worker when its parent is killed: a pool's own workers would wait for ever."""
    parent = parent_process()
    assert parent is not None, "a worker without a parent"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
