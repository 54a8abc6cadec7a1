"""A run of the soak test, as torchrun would have it: an agent that forks ranks, and what they do.

    python -m tests.loader.soak_rank FOLDER

A line of JSON on its standard input starts the ranks of one life; when all of them have ended, by
whatever means, FOLDER/ended-LIFE.json says how. What the ranks are to do stands in
FOLDER/story.json, what they were delivered in FOLDER/rows-LIFE-RANK.jsonl.
"""

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import streaming.base.storage  # noqa: F401 (takes seconds: here once, not in each rank)
import torch
import torch.distributed as dist

import mixstream
from mixstream.loader.loader import Loader
from tests.loader.conftest import rows_of

GLOBAL_ROWS = 12
NUM_WORKERS, PREFETCH_FACTOR = 2, 2
LAG = NUM_WORKERS * PREFETCH_FACTOR
"""Steps between a plain change of the weights and the first batch that feels it."""
CHECKPOINT_EVERY = 10
STEP_SECONDS, HELD_STEP_SECONDS = 0.01, 0.5
"""Of a step's work; and of the work of ranks that should have been killed by then."""
ORDER = {"seed": 11, "num_canonical_nodes": 2, "shuffle_block_rows": 14}


def digests_of(batch):
    """What identifies each row of a batch: its domain and its content."""
    return [
        f"{domain}:{hashlib.blake2b(content, digest_size=8).hexdigest()}"
        for domain, content in rows_of(batch)
    ]


def write_whole(path, found):
    """JSON under a name that never names a part of it."""
    path.with_suffix(".new").write_text(json.dumps(found))
    path.with_suffix(".new").replace(path)


def named_segments(pid):
    """Shared memory of a process that would outlive it, if it were killed now."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in maps if "/dev/shm/" in line and not line.endswith("(deleted)")]


class Rank:
    """One process of one life.

    Args:
        folder: of the run.
        story: what all lives have in common.
        life: its number, its world size, how its ranks end when one has failed ("others": a
            signal's name, or None), and after how many steps they go slowly ("held_after").
        rank: of this process.
    """

    def __init__(self, folder, story, life, rank):
        self.folder, self.story, self.life, self.rank = folder, story, life, rank
        self.changes = {change["step"]: change for change in story["changes"]}
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store-{life['number']}",
            rank=rank,
            world_size=life["world_size"],
            timeout=timedelta(seconds=120),
        )
        corpus = mixstream.open_corpus(
            story["url"], cache=story["cache"], cache_bytes=story["cache_bytes"]
        )
        self.loader = Loader(
            corpus,
            story["weights"],
            batch_size=GLOBAL_ROWS // life["world_size"],
            num_workers=NUM_WORKERS,
            prefetch_factor=PREFETCH_FACTOR,
            **ORDER,
        )
        if (folder / "checkpoint.json").exists():
            state = json.loads((folder / "checkpoint.json").read_text())
            self.loader.load_state_dict(state)
        self.held_at = self.loader.step + life["held_after"]

    def run(self):
        """Steps until the last one, if nothing comes between."""
        path = self.folder / f"rows-{self.life['number']}-{self.rank}.jsonl"
        with path.open("wb", buffering=0) as file:
            for batch in self.loader:
                line = [self.loader.step - 1, digests_of(batch)]
                file.write(json.dumps(line).encode() + b"\n")
                self.train()
                if self.loader.step in self.changes:
                    self.change(**self.changes[self.loader.step])
                if self.loader.step % CHECKPOINT_EVERY == 0:
                    self.save()
                if self.loader.step >= self.story["num_steps"]:
                    break
        dist.barrier()
        self.tell()
        dist.destroy_process_group()

    def train(self):
        """What a step of data-parallel training does as far as the loader sees it."""
        step = self.loader.step
        seen = torch.tensor([step, -step])
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        assert seen.tolist() == [step, -step], "the ranks are at different steps"
        workers = self.folder / f"workers-{self.life['number']}-{self.rank}.json"
        if not workers.exists():
            write_whole(workers, [child.pid for child in multiprocessing.active_children()])
        time.sleep(HELD_STEP_SECONDS if step >= self.held_at else STEP_SECONDS)

    def change(self, step, kind, at_step, weights):
        """Rank 0's weights at rank 0's step; the other ranks give others, which are not taken."""
        if self.rank != 0:
            weights = [1.0] * len(weights)
        if kind == "planned":
            asked = {"at_step": at_step if self.rank == 0 else None}
        else:
            asked = {"flush": kind == "flush"}
        made = self.loader.set_weights(weights, reason=f"{kind} {step}", **asked)
        assert (made.at_step, made.at_row) == (at_step, at_step * GLOBAL_ROWS), kind

    def save(self):
        """A checkpoint, of a state that is the same on all ranks; and a look at what they hold."""
        state = self.loader.state_dict()
        states = [None] * dist.get_world_size()
        dist.all_gather_object(states, json.dumps(state, sort_keys=True))
        assert len(set(states)) == 1, states
        ours = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
        assert [name for pid in ours for name in named_segments(pid)] == []
        if self.rank == 0:
            write_whole(self.folder / "checkpoint.json", state)

    def tell(self):
        """Figures of this life, for the report."""
        stats = self.loader.stats
        told = {
            "fetched": stats.shards_fetched,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "files": len(os.listdir("/proc/self/fd")),
        }
        write_whole(self.folder / f"told-{self.life['number']}-{self.rank}.json", told)


def forked_rank(folder, story, life, rank):
    """The id of a new process, which leads a process group of its own."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    log = os.open(folder / f"log-{life['number']}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    Rank(folder, story, life, rank).run()
    sys.exit()


def play(folder, story, life):
    """One life: its ranks are started, and the others ended as asked when the first one fails."""
    ranks = [forked_rank(folder, story, life, rank) for rank in range(life["world_size"])]
    write_whole(folder / f"ranks-{life['number']}.json", ranks)
    codes = {}
    while len(codes) < len(ranks):
        process, status = os.wait()
        codes[process] = os.waitstatus_to_exitcode(status)
        if codes[process] != 0 and life["others"] is not None:
            for other in set(ranks) - codes.keys():
                os.kill(other, signal.Signals[life["others"]])
    ended = [codes[process] for process in ranks]
    write_whole(folder / f"ended-{life['number']}.json", ended)


def main(folder):
    story = json.loads((folder / "story.json").read_text())
    while line := sys.stdin.readline():
        play(folder, story, json.loads(line))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
