"""A small real corpus, the rows of an uninterrupted run, and real trainers in processes."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import mixstream
from tests.raw_text import random_corpus

ROOT = Path(__file__).parents[2]
SIZES = {"web": 4000, "code": 1600, "books": 900}
FIRST = {"web": 0.7, "code": 0.2, "books": 0.1}
SECOND = {"web": 0.1, "code": 0.3, "books": 0.6}
NUM_STEPS, CHANGE_STEP, SAVE_STEP = 50, 20, 30
GLOBAL_ROWS = 4
SEED = 17


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory):
    return random_corpus(tmp_path_factory.mktemp("integrations"), SIZES, seed=3)


@pytest.fixture(scope="session")
def corpus(corpus_path):
    return mixstream.open_corpus(corpus_path)


@pytest.fixture(scope="session")
def plain_steps(corpus_path):
    """The rows of each of NUM_STEPS steps, sorted: one process, one loop, never stopped."""
    loader = make_loader(corpus_path)
    steps = []
    for batch in itertools.islice(loader, NUM_STEPS):
        steps.append(sorted(rows_of(batch)))
        if loader.step == CHANGE_STEP:
            loader.set_weights(SECOND)
    return steps


def make_loader(corpus_path, *, accumulation=1):
    """The run's loader; the rows of a step of the optimizer are GLOBAL_ROWS on any world size."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return mixstream.Loader(
        mixstream.open_corpus(corpus_path),
        FIRST,
        batch_size=GLOBAL_ROWS // world_size // accumulation,
        seed=SEED,
        labels=True,
    )


def steer(step, metrics):
    """What every trainer's test asks for."""
    return SECOND if step == CHANGE_STEP else None


def rows_of(batch):
    """What identifies a row: its ids, as a list."""
    return batch["input_ids"].tolist()


def write_report(folder, **report):
    """Called by each rank of a script: what it saw."""
    rank = os.environ.get("RANK", "0")
    (Path(folder) / f"{rank}.json").write_text(json.dumps(report))


def launched(num_processes, module, folder, *arguments, distributed=False, seconds=300):
    """The reports of all ranks of `python -m module folder ...`, with the variables of torchrun.

    A single process gets them if `distributed`. Every process ends within the limit or is killed.
    """
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", module, str(folder), *map(str, arguments)]
    usual = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    variables = torchrun_variables(num_processes) if distributed or num_processes > 1 else [{}]
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        processes = []
        for rank, mine in enumerate(variables):
            output = stack.enter_context((folder / f"{rank}.txt").open("w"))
            environment = {**usual, **mine}
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait)
            stack.callback(process.kill)  # called first; nothing happens to one that has ended
            processes.append(process)
        for rank, process in enumerate(processes):
            code = process.wait(timeout=max(0.1, deadline - time.monotonic()))
            assert code == 0, (folder / f"{rank}.txt").read_text()[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(num_processes)]


def torchrun_variables(num_processes):
    """What torchrun tells each process of one node; without it, as it imports torch once more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = str(num_processes)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]


def together(reports, key="rows"):
    """The sorted rows of each step, of all ranks."""
    steps = zip(*(report[key] for report in reports), strict=True)
    return [sorted(itertools.chain.from_iterable(step)) for step in steps]
