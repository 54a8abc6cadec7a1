"""A peer, tasks and jobs as JSON -> what was measured, each in a process of its own.

`python benchmarks/measure.py ours`, run by the peer's own Python (see install.py), imports the peer
and then reads lines of JSON: {"measurements": [{"task": ..., "job": {...}, ...}], "limit_seconds"}.
The measurements of a line run at the same time, each in a process that is forked here, so that
imports, which take seconds, are done once and are no part of any. `--once` ends after one line, and
forks nothing: for memory, of which a forked process holds some that is not its own.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.random  # or numpy imports it in the midst of a start, in 10 ms
import psutil
from marked_rows import marks_of
from peers import Job, Stream

# what peers raise where they have no state, or refuse one
STATE_ERRORS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
NUM_WARM = 4  # batches before the clock starts: workers' start, the fill of shuffle buffers
WARM_ROWS_A_DOMAIN = 8  # so that nearly every file has been opened, by whoever opens it on need
MAX_WARM_SECONDS = 3.0  # for those rows


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # a peer may print while it is imported
    os.dup2(2, 1)
    adapter = importlib.import_module(f"peers.{sys.argv[1]}")
    for line in sys.stdin:
        asked = json.loads(line)
        if "--once" in sys.argv:
            (each,) = asked["measurements"]
            measure(adapter, each)
        processes = [forked(adapter, each) for each in asked["measurements"]]
        print(json.dumps(ended(processes, asked["limit_seconds"])), file=answers, flush=True)


def forked(adapter: Any, asked: dict[str, Any]) -> int:
    """The process that measures: it begins with the imports that this one has done, and no more."""
    process = os.fork()
    if process == 0:
        os.setsid()
        measure(adapter, asked)
    return process


def measure(adapter: Any, asked: dict[str, Any]) -> NoReturn:
    """Writes what is found to a file, what a peer says to another, and ends this process."""
    said = os.open(asked["said"], os.O_WRONLY | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for file, number in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(file, number)
    code = 1
    try:
        os.environ.update(asked["environment"])
        paths = {key: Path(asked["job"][key]) for key in ("source", "folder")}
        job = Job(**{**asked["job"], **paths})
        join_ranks(job)
        found = TASKS[asked["task"]](adapter, job, **asked["arguments"])
        Path(asked["found"]).write_text(json.dumps(found))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stderr.flush()
        # what a peer does at exit (threads, shared memory) is no part of what is told
        os._exit(code)


def ended(processes: list[int], limit_seconds: float) -> list[int | None]:
    """The exit status of each; None of one that took too long. Their workers end with them."""
    deadline = time.monotonic() + limit_seconds
    codes: dict[int, int | None] = dict.fromkeys(processes)
    left = set(processes)
    while left and time.monotonic() < deadline:
        for process in list(left):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes[process] = os.waitstatus_to_exitcode(status)
                left.remove(process)
        time.sleep(0.01)
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        if process in left:
            os.waitpid(process, 0)
    return list(codes.values())


def join_ranks(job: Job) -> None:
    """torch.distributed on loopback, where there is more than one rank."""
    if job.world_size > 1:
        import torch.distributed

        torch.distributed.init_process_group("gloo", rank=job.rank, world_size=job.world_size)


def write(adapter: Any, job: Job) -> dict[str, Any]:
    """The rows in the peer's format."""
    job.folder.mkdir(parents=True)
    start = time.perf_counter()
    adapter.write(job.source, job.folder)
    sizes = (path.stat().st_size for path in job.folder.rglob("*") if path.is_file())
    return {"seconds": time.perf_counter() - start, "bytes": sum(sizes)}


def throughput(adapter: Any, job: Job, *, seconds: float) -> dict[str, Any]:
    """Wall and CPU time of batches, after the first ones, until time or data are out.

    The clock runs for so many seconds, or a quarter of what came before it, of which two count.
    """
    before, begun = own_bytes(), time.perf_counter()
    batches = iter(adapter.open_stream(job))
    for batch in islice(batches, NUM_WARM):
        assert tuple(batch.shape) == (job.batch_size, job.seq_len), f"a batch of {batch.shape}"
        marks_of(batch)
    num_warm = len(job.domains) * WARM_ROWS_A_DOMAIN // job.batch_size - NUM_WARM
    steps_within(batches, MAX_WARM_SECONDS, max(num_warm, 0))
    start, start_cpu = time.perf_counter(), cpu_seconds()
    num_steps = steps_within(batches, max(seconds, min((start - begun) / 4, 2.0)))
    if num_steps == 0:
        raise RuntimeError("the stream ended within the batches before the clock starts")
    wall, cpu = time.perf_counter() - start, cpu_seconds() - start_cpu
    held = own_bytes() - before
    return {"wall": wall, "cpu": cpu, "steps": num_steps, "held_bytes": held}


def steps_within(batches: Iterator[Any], seconds: float, most: int | None = None) -> int:
    """Takes batches until time, data or `most` of them are out; how many they were."""
    start, num_steps = time.perf_counter(), 0
    for _ in islice(batches, most):
        num_steps += 1
        if time.perf_counter() - start > seconds:
            break
    return num_steps


def first_batch(
    adapter: Any, job: Job, *, limit_bytes: int, state: str | None = None
) -> dict[str, Any]:
    """From opening to the first batch; memory above the imports; at the place of a state."""
    limit_memory(limit_bytes)
    before = reset_peak()
    saved = pickle.loads(Path(state).read_bytes()) if state else None
    start = time.perf_counter()
    stream = adapter.open_stream(job)
    if saved is not None:
        stream.load_state_dict(saved)
    next(iter(stream))
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes() - before}


def state_at_middle(adapter: Any, job: Job, *, save_state: str, limit_bytes: int) -> dict[str, Any]:
    """The state after half of the steps: as the adapter knows it, else by going there."""
    limit_memory(limit_bytes)
    stream = adapter.open_stream(job)
    middle = job.num_steps // 2
    if hasattr(stream, "state_at"):
        state = stream.state_at(middle)
    else:
        batches = iter(stream)
        for _ in range(middle):
            next(batches)
        state = stream.state_dict()
    Path(save_state).write_bytes(pickle.dumps(state))
    return {}


def record(
    adapter: Any,
    job: Job,
    *,
    marks: str,
    steps: int | None = None,
    state: str | None = None,
    save_state: str | None = None,
    save_at: int = 0,
) -> dict[str, Any]:
    """The marks of the next batches, (steps, B, 2), to a file; a state after some of them too."""
    stream = adapter.open_stream(job)
    if state is not None:
        stream.load_state_dict(pickle.loads(Path(state).read_bytes()))
    found, state_error = [], ""
    for batch in islice(stream, job.num_steps if steps is None else steps):
        if len(batch) < job.batch_size:
            break  # the end of an epoch
        found.append(marks_of(batch))
        if save_state is not None and len(found) == save_at:
            try:
                Path(save_state).write_bytes(pickle.dumps(stream.state_dict()))
            except STATE_ERRORS as error:
                state_error = _said(error)
    np.save(marks, np.array(found).reshape(-1, job.batch_size, 2))
    return {"steps": len(found), "state_error": state_error}


def change(
    adapter: Any, job: Job, *, marks: str, before: int, after: int, weights: dict[str, float]
) -> dict[str, Any]:
    """Weights that change in the middle: live where a peer can, else by another loader.

    Seconds are from the decision to the first batch that may feel it; `in_flight` batches that were
    drawn before come in between.
    """
    stream = adapter.open_stream(job)
    batches = iter(stream)
    found = [marks_of(next(batches)) for _ in range(before)]
    start = time.perf_counter()
    in_flight, how = 0, "set_weights"
    if hasattr(stream, "set_weights"):
        in_flight = stream.set_weights(weights)
    else:
        how, batches = rebuilt(adapter, job, stream, weights)
    late = [next(batches) for _ in range(in_flight)]
    first = next(batches)
    seconds = time.perf_counter() - start
    found += [marks_of(batch) for batch in (*late, first, *islice(batches, after - 1))]
    np.save(marks, np.array(found).reshape(-1, job.batch_size, 2))
    return {"seconds": seconds, "in_flight": in_flight, "how": how, "steps": len(found)}


def rebuilt(
    adapter: Any, job: Job, stream: Stream, weights: dict[str, float]
) -> tuple[str, Iterator[Any]]:
    """Another loader with other weights, at the state of the first where it has and takes one."""
    from dataclasses import replace

    other = replace(job, weights=weights)
    try:
        saved = stream.state_dict()
        new = adapter.open_stream(other)
        new.load_state_dict(saved)
        return "rebuilt, state loaded", _started(new)
    except NotImplementedError:
        return "rebuilt, no state", iter(adapter.open_stream(other))
    except STATE_ERRORS as error:
        return f"rebuilt, state refused ({_said(error)})", iter(adapter.open_stream(other))


def _started(stream: Stream) -> Iterator[Any]:
    """An iterator whose first batch is there, so that a state is refused here and not later."""
    batches = iter(stream)
    first = next(batches)

    def chained() -> Iterator[Any]:
        yield first
        yield from batches

    return chained()


def _said(error: Exception) -> str:
    """The kind of an error and the beginning of what it says."""
    return f"{type(error).__name__}: {str(error)[:100]}"


def cpu_seconds() -> float:
    """Of this process, its living children and those that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    living = (times.user + times.system for times in _of_children(lambda p: p.cpu_times()))
    return sum(usage.ru_utime + usage.ru_stime for usage in both) + sum(living)


def own_bytes() -> int:
    """What this process holds now, mapped files apart, and its children hold for themselves."""
    own = _status_bytes("RssAnon", "RssShmem")
    if own is None:
        own = int(psutil.Process().memory_full_info().uss)
    return own + _bytes_of_children()


def peak_bytes() -> int:
    """The most that was resident here, and what children hold for themselves now."""
    own = _status_bytes("VmHWM")
    if own is None:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return own + _bytes_of_children()


def limit_memory(num_bytes: int) -> None:
    """Ends this process where it takes so much for itself above what it has."""
    soft = psutil.Process().memory_info().data + num_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (soft, soft))


def reset_peak() -> int:
    """Forgets the peak of the imports, where the system can; what is resident now."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return int(psutil.Process().memory_info().rss)


def _status_bytes(*names: str) -> int | None:
    """What lines of this process's status add up to; None where there is none (not Linux)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return sum(int(lines[name].split()[0]) for name in names) * 1024


def _bytes_of_children() -> int:
    return sum(_of_children(lambda p: p.memory_full_info().uss))


def _of_children(of: Callable[[psutil.Process], Any]) -> list[Any]:
    """A number of each descendant that still lives."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found.append(of(child))
        except psutil.NoSuchProcess:
            continue
    return found


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "write": write,
    "throughput": throughput,
    "first_batch": first_batch,
    "state_at_middle": state_at_middle,
    "record": record,
    "change": change,
}

if __name__ == "__main__":
    main()
