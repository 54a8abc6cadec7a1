"""What does a loop wait for whose corpus lies in S3, before and after a change of the weights?

A server of the S3 API (moto) in a process of its own, on loopback; each run has a new, empty cache.
A step takes 20 ms of sleep, in place of the GPU's work; what is timed is the wait in `next`. The
change comes at the middle: to other weights of domains that are being read, and from 0 to 1 of one
that was not touched. Its floor are the same steps of a run that is not changed. Then one epoch on
1, 2 and 4 nodes with a cache each, beside a bare download of the same objects.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from harness import Line, Report, parser, report
from random_corpus import write_corpus

from mixstream import Corpus, Loader, open_corpus

SEQ_LEN, BATCH_SIZE, STEP_SECONDS = 2048, 16, 0.02
ROWS_A_SHARD, BLOCK_SHARDS = 128, 4
DOMAINS = ("web", "code", "books", "wiki", "maths")
FIRST = {"web": 0.5, "code": 0.25, "books": 0.15, "wiki": 0.1, "maths": 0.0}
CHANGES = {
    "unchanged": None,
    "to .1 .15 .25 .5": {"web": 0.1, "code": 0.15, "books": 0.25, "wiki": 0.5, "maths": 0.0},
    "0 to 1, untouched": {"maths": 1.0, "web": 0.0, "code": 0.0, "books": 0.0, "wiki": 0.0},
}
BUCKET, KEYS = "bench", {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
        return
    settings = parser(__doc__ or "").parse_args()
    num_steps, num_shards, rounds = (60, 8, 1) if settings.quick else (400, 48, 3)
    with tempfile.TemporaryDirectory() as scratch, report("remote", settings) as lines:
        folder = Path(scratch) / "corpus"
        rows = dict.fromkeys(DOMAINS, num_shards * ROWS_A_SHARD)
        write_corpus(folder, rows, seq_len=SEQ_LEN, num_shards=num_shards)
        with server(folder):
            changed(lines, Path(scratch), num_steps, rounds)
            for num_nodes in (1, 2, 4):
                epoch(lines, Path(scratch), num_nodes)


def changed(lines: Report, scratch: Path, num_steps: int, rounds: int) -> None:
    """Lines of the waits after a change, and of a run that fetches nothing ahead."""
    runs: dict[str, list[list[float]]] = {name: [] for name in (*CHANGES, "nothing ahead")}
    for number in range(rounds):
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            cache = scratch / f"{name}-{number}".replace(" ", "-")
            ahead = {"shards_ahead": 0} if name == "nothing ahead" else {}
            runs[name].append(waits(opened(cache), CHANGES.get(name), num_steps, ahead))
    middle = num_steps // 2
    floor = np.array(runs["unchanged"])[:, middle + 1 :]
    for name, found in runs.items():
        seconds = np.array(found)
        after = seconds[:, middle + 1 :]
        lines.add(
            Line(
                name=f"wait a step after the change: {name}",
                seconds=float(after.mean()),
                floor_seconds=float(floor.mean()),
                floor="of the unchanged run",
                note=f"{shares(after)}; before {shares(seconds[:, 1:middle])}; at the change "
                f"{seconds[:, middle].max() * 1e3:.1f} ms, first batch {seconds[:, 0].max():.2f} s",
            )
        )


def shares(seconds: np.ndarray) -> str:
    """The distribution of waits, in ms."""
    parts = np.percentile(seconds, [50, 90, 99, 100]) * 1e3
    return "p50 {:.2f} p90 {:.2f} p99 {:.1f} max {:.1f} ms".format(*parts)


def waits(
    corpus: Corpus, change: dict[str, float] | None, num_steps: int, ahead: dict[str, int]
) -> list[float]:
    """The wait for each step; the change is felt by the one in the middle."""
    block_rows = BLOCK_SHARDS * ROWS_A_SHARD
    loader = Loader(corpus, FIRST, batch_size=BATCH_SIZE, shuffle_block_rows=block_rows, **ahead)
    batches, found = iter(loader), []
    for step in range(num_steps):
        if change is not None and step == num_steps // 2:
            loader.set_weights(change)
        start = time.perf_counter()
        next(batches)
        found.append(time.perf_counter() - start)
        time.sleep(STEP_SECONDS)
    return found


def epoch(lines: Report, scratch: Path, num_nodes: int) -> None:
    """A line of one epoch, node after node; its floor downloads as many bytes, eight at a time."""
    corpora = [opened(scratch / f"nodes-{num_nodes}-{rank}") for rank in range(num_nodes)]
    ranks = [
        Loader(
            corpus,
            batch_size=BATCH_SIZE,
            rank=rank,
            world_size=num_nodes,
            num_canonical_nodes=4,
            max_epochs=1,
            shuffle_block_rows=BLOCK_SHARDS * ROWS_A_SHARD,
        )
        for rank, corpus in enumerate(corpora)
    ]
    start = time.perf_counter()
    num_batches = [sum(1 for _ in rank) for rank in ranks]
    seconds = time.perf_counter() - start
    found = [rank.stats for rank in ranks]
    fetched = [each.bytes_fetched for each in found]
    share = sum(fetched) / int(corpora[0].shard_bytes.sum())
    lines.add(
        Line(
            name=f"one epoch from a cold cache, nodes: {num_nodes}",
            seconds=seconds,
            floor_seconds=bare_download(),
            floor="bare download, 8 threads",
            rows=sum(num_batches) * BATCH_SIZE,
            note=f"downloaded {share:.3f} of the corpus, {[round(b / 1e6, 1) for b in fetched]} MB "
            f"a node, {sum(each.shards_fetched for each in found)} shards",
        )
    )


def bare_download() -> float:
    """Seconds to get every shard of the bucket into memory."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"])
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [each["Key"] for page in pages for each in page["Contents"]]
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as threads:
        list(
            threads.map(
                lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read(),
                [key for key in keys if key.endswith(".mds")],
            )
        )
    return time.perf_counter() - start


def opened(cache: Path) -> Corpus:
    """The corpus in the bucket, over an empty cache."""
    return open_corpus({name: f"s3://{BUCKET}/{name}" for name in DOMAINS}, cache=cache)


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """A server in a process of its own, with the corpus in its bucket."""
    command = [sys.executable, __file__, "--serve", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        os.environ.update(KEYS, AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true")
        os.environ["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        try:
            yield
        finally:
            process.communicate("", timeout=60)


def serve(folder: Path) -> None:
    """Serves a folder until standard input ends."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.servers.s3 import S3Server

    server = S3Server()
    server.start()
    bucket = server.make_bucket(BUCKET)
    for name in DOMAINS:
        server.upload(folder / name, bucket, f"{name}/")
    print(server.port, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
