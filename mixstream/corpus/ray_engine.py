"""Units of work -> their reports, as tasks of a Ray cluster.

A task of a machine that is lost runs again on another one. The driver holds nothing but its list
of tasks: it can be killed, and started again from any machine of the cluster.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from mixstream.arrays import Counts
from mixstream.corpus.engines import Tell
from mixstream.corpus.tokenizers.vocabulary import limit_threads
from mixstream.errors import MixstreamError, RecipeError

__all__ = ["run_on_ray"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_MAX_RETRIES = 5
"""Of a task whose machine or process was lost; what a task raises is not tried again."""
_TICK_SECONDS = 0.5
_TASKS_A_CORE = 4
"""That are handed to Ray at a time: enough to keep all cores busy, few enough for 10^6 tasks."""


def run_on_ray(
    run: Callable[[Task, Tell], Result],
    tasks: Sequence[Task],
    *,
    address: str | None,
    on_counts: Callable[[Counts], None] | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Runs every task and yields each with its result as it ends, in any order.

    A task may run more than once, and more than once at a time; its result is yielded once. It has
    one core.

    Args:
        run: a picklable function of one task, of modules that every machine has.
        tasks: picklable.
        address: of the cluster, as ray.init takes it; None for RAY_ADDRESS, or the cluster that
            runs on this machine, or a new one on this machine alone.
        on_counts: called about twice a second with (n, 3) int64 zeros: only finished tasks tell.

    Raises:
        RecipeError: Ray is not installed, no cluster answers, or a task was lost with its machine
            six times. What `run` raises comes through; the other tasks are cancelled then.
    """
    if not tasks:
        return
    ray = _imported()
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, address)
    running: dict[Any, Task] = {}
    try:
        submit = _submitter(ray, run)
        coming = iter(tasks)
        while True:
            most = _TASKS_A_CORE * max(2, int(ray.cluster_resources().get("CPU", 0)))
            while len(running) < most and (task := next(coming, None)) is not None:
                running[submit(task)] = task
            if not running:
                return
            ended, _ = ray.wait(list(running), num_returns=1, timeout=_TICK_SECONDS)
            for reference in ended:
                result = _result(ray, reference)
                yield running.pop(reference), result
            if on_counts is not None:
                on_counts(np.zeros((len(tasks), 3), np.int64))
    finally:
        if is_ours:
            ray.shutdown()  # ends what runs; to cancel it first may take Ray's driver down
        elif ray.is_initialized():
            for reference in running:
                ray.cancel(reference, force=True)


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RecipeError(
            "engine 'ray' needs Ray, which is not installed: pip install 'mixstream[ray]', on all "
            "machines of the cluster."
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"no Ray cluster answers at {address or 'the default address'} ({error}). Start one: "
            f"ray start --head; or give another --address."
        ) from error


def _submitter(ray: Any, run: Callable[[Task, Tell], Result]) -> Callable[[Task], Any]:
    """What hands one task to Ray; what is run goes once to each machine."""
    pickled = ray.put(ray.cloudpickle.dumps(run))
    options = {"num_cpus": 1, "max_retries": _MAX_RETRIES, "scheduling_strategy": "SPREAD"}
    remote = ray.remote(**options)(_run_there)
    return lambda task: remote.remote(pickled, task)


def _run_there(pickled: bytes, task: Any) -> Any:
    return _unpickled(pickled)(task, _tell_nobody)


@functools.lru_cache(maxsize=1)
def _unpickled(pickled: bytes) -> Any:
    """What is run, made once in each process with all that a tokenizer holds."""
    limit_threads(1)
    return pickle.loads(pickled)


def _tell_nobody(*_: int) -> None:
    return


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MixstreamError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise RecipeError(
            f"a unit of work was lost with its process or machine {_MAX_RETRIES + 1} times "
            f"({str(error).strip().splitlines()[0]}). What is finished is kept: run the same "
            f"again, with more memory or a smaller max_document_bytes."
        ) from error
