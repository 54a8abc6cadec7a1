"""Soak: ranks under gloo over S3 and one small cache, steered and killed again and again.

Four gloo ranks (or fewer, after a restart) with two workers each read a remote corpus through one
cache folder of a tenth of its bytes. Rank 0 changes the weights 60 times; ranks and workers are
killed with -9 at random moments, and all start again from the last checkpoint. At the end every row
that any rank was ever delivered is compared with an undisturbed run of a single process. That no
shared segment is left is seen while the run lives: none of its processes ever has one with a name.

CI plays a story of 200 steps and 5 kills, in about a minute. MIXSTREAM_SOAK_MINUTES=20 plays one
of 1,000 steps and 12 kills after the other, over the same cache folder, until the minutes have
passed (with -s pytest shows the figures):

    MIXSTREAM_SOAK_MINUTES=20 python -m pytest -s tests/loader/test_soak.py
"""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import mixstream
from mixstream.corpus.cache_folder import CacheFolder
from tests.corpus.shards import make_rows, write_corpus, write_domain
from tests.loader.soak_rank import GLOBAL_ROWS, LAG, ORDER, digests_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

MINUTES = float(os.environ.get("MIXSTREAM_SOAK_MINUTES", "0"))
NUM_SHARDS = {"web": 200, "code": 100, "books": 60, "wiki": 30, "maths": 10}
ROWS_PER_SHARD, SEQ_LEN = 7, 128
NUM_STEPS, NUM_KILLS, NUM_CHANGES = (1000, 12, 60) if MINUTES else (200, 5, 60)
"""Of one story."""
LIVES = (
    (4, "rank", "SIGTERM"),
    (4, "rank", None),
    (2, "worker", "SIGTERM"),
    (4, "worker", None),
    (3, "rank", "SIGKILL"),
)
"""In turn: the ranks, who of them is killed, and how the others end: None is by themselves. Batch
sizes make the global batch the same. The first of a story is killed while it starts; ranks that
wait for another one to start would do so for minutes, so they are ended, as torchrun does."""
MAX_LIFE_STEPS = NUM_STEPS // (NUM_KILLS + 2)
"""Of a life that is killed, about; the last one has steps left."""
TIMEOUT_SECONDS = 120
"""For anything that should happen at once, and for the next step."""


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """The corpus as files; one of its domains is compressed."""
    folder = tmp_path_factory.mktemp("soak") / "far"
    rows = {
        name: make_rows(number * ROWS_PER_SHARD, SEQ_LEN, seed=number)
        for name, number in NUM_SHARDS.items()
    }
    write_corpus(folder, rows)
    shutil.rmtree(folder / "books")
    write_domain(folder / "books", rows["books"], rows_per_shard=ROWS_PER_SHARD, compression="zstd")
    return folder


def some_weights(chance):
    """A point on the simplex at which some domains may rest."""
    weights = [chance.random() ** 2 * (chance.random() < 0.8) for _ in NUM_SHARDS]
    return weights if any(weights) else [1.0, *weights[1:]]


def some_changes(chance, num_steps):
    """Changes at random steps, of the three kinds, each with the step that feels it first."""
    changes = []
    for step in sorted(chance.sample(range(1, num_steps - 2 * LAG), NUM_CHANGES)):
        kind = chance.choice(["plain", "flush", "planned"])
        later = {"plain": LAG, "flush": 0, "planned": LAG + chance.randrange(10)}[kind]
        at_step, weights = step + later, some_weights(chance)
        changes.append({"step": step, "kind": kind, "at_step": at_step, "weights": weights})
    return changes


def undisturbed(far, story):
    """The rows of each step of one process without workers, faults, cache and restarts."""
    loader = mixstream.Loader(
        mixstream.open_corpus(far), story["weights"], batch_size=GLOBAL_ROWS, **ORDER
    )
    changes = {change["step"]: change for change in story["changes"]}
    steps = []
    for batch in itertools.islice(loader, story["num_steps"]):
        steps.append(Counter(digests_of(batch)))
        if loader.step in changes:
            change = changes[loader.step]
            loader.set_weights(change["weights"], at_step=change["at_step"])
    return steps


class CacheWatch:
    """Looks into a cache folder all the time; a context.

    What two looks find, one after the other, was there between them, all at once. So the bytes of
    it are what the cache took at that moment, at least.
    """

    def __init__(self, path):
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peak_bytes = self.num_looks = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _look(self):
        last = {}
        while not self._ended.wait(0.02):
            found = sizes_in(self._path)
            between = sum(last[file] for file in last.keys() & found.keys())
            self.peak_bytes = max(self.peak_bytes, between)
            self.num_looks += 1
            last = found


def sizes_in(folder):
    """The bytes of each file in the folders of a cache, by its inode: some are just renamed.

    Locks and the ledger hold a number each, which is no shard's.
    """
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            if Path(parent) != folder and not name.endswith(".lock"):
                found[status.st_ino] = status.st_size
    return found


class Agent:
    """The process that starts the ranks; a context, at whose end nothing of it lives."""

    def __init__(self, folder):
        self.folder, self.ranks = folder, []

    def __enter__(self):
        command = [sys.executable, "-m", "tests.loader.soak_rank", str(self.folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True
        )
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        for rank in filter(group_lives, self.ranks):
            os.killpg(rank, signal.SIGKILL)

    def start(self, **life):
        """Starts the ranks of a life and returns their process ids."""
        print(json.dumps(life), file=self._process.stdin, flush=True)
        self.ranks = self.told(f"ranks-{life['number']}.json")
        return self.ranks

    def ended(self, life):
        """The exit codes of the ranks of a life, once neither they nor their workers are there."""
        codes = self.told(f"ended-{life}.json")
        self.wait_until(lambda: not any(map(group_lives, self.ranks)), "the end of all workers")
        self.ranks = []
        return codes

    def told(self, name):
        """What stands in a file of the run, once it is there."""
        self.wait_until(lambda: (self.folder / name).exists(), name)
        return json.loads((self.folder / name).read_text())

    def wait_until(self, condition, what):
        """Waits as long as the ranks go on, and for TIMEOUT_SECONDS after they did last."""
        written = deadline = 0
        while not condition():
            if (now_written := self._bytes_written()) > written:
                written, deadline = now_written, time.monotonic() + TIMEOUT_SECONDS
            deadline = deadline or time.monotonic() + TIMEOUT_SECONDS
            assert self._process.poll() is None, f"the agent has ended\n{self.logs()}"
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.logs()}"
            time.sleep(0.01)

    def _bytes_written(self):
        return sum(path.stat().st_size for path in self.folder.glob("rows-*.jsonl"))

    def logs(self):
        """The last words of the ranks that spoke last."""
        logs = sorted(self.folder.glob("log-*.txt"), key=lambda path: path.stat().st_mtime)
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in logs[-4:])


def group_lives(leader):
    """Whether a process of a rank is there: itself, or a worker."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def delivered(folder, life, rank):
    """The lines of a rank that are whole: (step, rows)."""
    path = folder / f"rows-{life}-{rank}.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def kill_one(agent, chance, life):
    """One life, which ends by kill -9 at a random moment; the first one's while it starts."""
    world_size, victim, others = LIVES[life % len(LIVES)]
    num_steps = chance.randrange(1, MAX_LIFE_STEPS) if life % len(LIVES) else 0
    ranks = agent.start(number=life, world_size=world_size, others=others, held_after=num_steps + 5)
    rank = chance.randrange(world_size)
    pids = [ranks[rank]]
    if num_steps == 0:
        time.sleep(chance.random())
    else:
        agent.wait_until(lambda: len(delivered(agent.folder, life, rank)) >= num_steps, "a step")
        time.sleep(chance.random() * 0.05)
        if victim == "worker":
            pids = agent.told(f"workers-{life}-{rank}.json")
    os.kill(chance.choice(pids), signal.SIGKILL)
    codes = agent.ended(life)
    assert 0 not in codes, agent.logs()
    assert victim == "worker" or codes[rank] == -signal.SIGKILL, agent.logs()


def play(agent, chance):
    """All lives of a story, until its last step."""
    for life in range(NUM_KILLS):
        kill_one(agent, chance, life)
    agent.start(number=NUM_KILLS, world_size=4, others=None, held_after=NUM_STEPS)
    assert agent.ended(NUM_KILLS) == [0] * 4, agent.logs()


def assert_right(folder, expected):
    """Every row that any rank of any life was delivered stands in its step; returns their number.

    Of a step that all ranks of a life were delivered the rows are those of the step, neither more
    nor less; and there is such a life for every step.
    """
    complete, num_rows = set(), 0
    for life in range(NUM_KILLS + 1):
        world_size = len(json.loads((folder / f"ranks-{life}.json").read_text()))
        steps = {}
        for rank in range(world_size):
            for step, rows in delivered(folder, life, rank):
                steps.setdefault(step, []).append(rows)
        for step, parts in steps.items():
            rows = Counter(itertools.chain.from_iterable(parts))
            assert rows <= expected[step], f"wrong rows in step {step} of life {life}"
            if len(parts) == world_size:
                assert rows == expected[step], f"rows are missing in step {step} of life {life}"
                complete.add(step)
            num_rows += rows.total()
    assert complete == set(range(len(expected)))
    return num_rows


def left_in(cache, max_bytes):
    """What is in a cache beside its ledger and whole shards."""
    names = [path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()]
    shards = [name for name in names if re.fullmatch(r".*-[0-9a-f]{16}/[0-9a-f]{16}\..*", name)]
    assert sum((cache / name).stat().st_size for name in shards) <= max_bytes
    return sorted(set(names) - set(shards) - {".usage"})


def test_rows_are_those_of_an_undisturbed_run_whatever_is_killed(
    far, s3_server, s3_keys, monkeypatch, tmp_path
):
    monkeypatch.setenv("S3_ENDPOINT_URL", s3_server.url)
    bucket = s3_server.make_bucket(f"soak-{time.monotonic_ns()}")
    s3_server.upload(far, bucket)
    local = mixstream.open_corpus(far)
    raw_bytes = sum(int(d.index.raw_bytes.sum()) for d in local.pool.shards.domains)
    cache, cache_bytes = tmp_path / "cache", raw_bytes // 10
    ends_at = time.monotonic() + 60 * MINUTES
    for number in itertools.count():
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        chance = random.Random(number)
        story = {
            "url": f"s3://{bucket}",
            "cache": str(cache),
            "cache_bytes": cache_bytes,
            "num_steps": NUM_STEPS,
            "weights": some_weights(chance),
            "changes": some_changes(chance, NUM_STEPS),
        }
        (folder / "story.json").write_text(json.dumps(story))
        started = time.monotonic()
        with CacheWatch(cache) as watch, Agent(folder) as agent:
            play(agent, chance)
        num_rows = assert_right(folder, undisturbed(far, story))
        assert 0 < watch.peak_bytes <= cache_bytes
        left = left_in(cache, cache_bytes)
        CacheFolder(cache, max_bytes=cache_bytes).sweep()  # as the next run does
        assert left_in(cache, cache_bytes) == []
        told = [json.loads(path.read_text()) for path in folder.glob("told-*.json")]
        print(
            f"\nrun {number}: {time.monotonic() - started:.0f} s, {NUM_STEPS} steps, {num_rows} "
            f"rows delivered, {NUM_CHANGES} changes, {NUM_KILLS} kills; cache at most "
            f"{watch.peak_bytes / cache_bytes:.1%} of its budget in {watch.num_looks} looks; "
            f"last life {told}; swept {left}"
        )
        if time.monotonic() >= ends_at:
            break
