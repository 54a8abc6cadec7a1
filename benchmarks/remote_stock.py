"""Epochs from S3, beside MosaicML Streaming on the same shards and the same server.

Cold is a new, empty cache on each node, warm the same cache again, on one node for ten epochs on
end: what it costs to open is then little of what a row costs. The server (moto, on loopback) and
every node are processes of their own; nodes run at the same time. Time and processor time of a
node, its threads included, go from opening to the last batch; imports are not counted. Batches are
int64 in both, no workers in either, shuffled in blocks of as many rows. Processor time is a row's:
max_epochs ends our epochs some 3 % of the rows early, where a slice of a domain is used up. Bytes
are those of the shards in each node's cache at the end; 1.000 of the corpus is each shard once.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Line, Report, parser, report
from random_corpus import write_corpus
from remote import BATCH_SIZE, BLOCK_SHARDS, BUCKET, DOMAINS, ROWS_A_SHARD, SEQ_LEN, server

OURS, STOCK = "mixstream", "mosaicml-streaming"
NUM_CANONICAL_NODES = 4
WARM_EPOCHS = 10
"""Some 300,000 rows; of a quarter of a minute and more by stock."""
OWN_SHM = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
"""A /dev/shm for each of stock's nodes, as on machines of their own (Linux, as root): in one they
trip over each other's segments (FileExistsError)."""


def main() -> None:
    if sys.argv[1:2] == ["--node"]:
        print(json.dumps(one_node(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
        return
    settings = parser(__doc__ or "").parse_args()
    num_shards = 8 if settings.quick else 48
    with tempfile.TemporaryDirectory() as scratch, report("remote_stock", settings) as lines:
        folder = Path(scratch) / "corpus"
        rows = dict.fromkeys(DOMAINS, num_shards * ROWS_A_SHARD)
        write_corpus(folder, rows, seq_len=SEQ_LEN, num_shards=num_shards)
        corpus_bytes = sum(path.stat().st_size for path in folder.rglob("*.mds"))
        with server(folder):
            for num_nodes in (1,) if settings.quick else (1, 2, 4):
                rounds = 3 if num_nodes == 1 and not settings.quick else 1
                compared(lines, Path(scratch) / "caches", num_nodes, rounds, corpus_bytes)


def compared(lines: Report, caches: Path, num_nodes: int, rounds: int, corpus_bytes: int) -> None:
    """Lines of cold and warm epochs: the least of the rounds, in which both take turns."""
    found: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    num_epochs = {"cold": 1, "warm": WARM_EPOCHS if num_nodes == 1 else 1}
    for number in range(rounds):
        for who in (OURS, STOCK)[:: 1 if number % 2 == 0 else -1]:
            for state, epochs in num_epochs.items():
                nodes = measured(who, caches / who, num_nodes, epochs)
                found.setdefault((who, state), []).append(nodes)
            shutil.rmtree(caches / who)
    for state in ("cold", "warm"):
        ours, stock = found[OURS, state], found[STOCK, state]
        shares = {
            who: sum(node["bytes"] for node in found[who, state][0]) / corpus_bytes
            for who in (OURS, STOCK)
        }
        nodes = [round(node["bytes"] / 1e6, 1) for node in found[OURS, state][0]]
        others = [round(node["bytes"] / 1e6, 1) for node in found[STOCK, state][0]]
        lines.add(
            Line(
                name=f"{state} epochs: {num_epochs[state]}, nodes: {num_nodes}",
                seconds=least(ours, "wall"),
                floor_seconds=least(stock, "wall"),
                floor=STOCK,
                rows=sum(node["rows"] for node in ours[0]),
                note=f"cached {shares[OURS]:.3f} of the corpus, {nodes} MB a node; stock "
                f"{shares[STOCK]:.3f}, {others} MB",
            )
        )
        lines.add(
            Line(
                name=f"{state} processor time a row, nodes: {num_nodes}",
                seconds=least(ours, "cpu"),
                floor_seconds=least(stock, "cpu"),
                floor=STOCK,
            )
        )


def least(rounds: list[list[dict[str, Any]]], what: str) -> float:
    """Of the rounds: seconds until the last node ends, or processor seconds a row of all nodes."""
    if what == "wall":
        return float(min(max(node["wall"] for node in nodes) for nodes in rounds))
    return float(
        min(
            sum(node["cpu"] for node in nodes) / sum(node["rows"] for node in nodes)
            for nodes in rounds
        )
    )


def measured(who: str, caches: Path, num_nodes: int, num_epochs: int) -> list[dict[str, Any]]:
    """What the nodes tell of some epochs, all at the same time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = []
    for rank in range(num_nodes):
        place = {"RANK": rank, "WORLD_SIZE": num_nodes, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        cache = str(caches / f"node-{rank}")
        command = [sys.executable, __file__, "--node", who, cache, str(num_epochs)]
        if who == STOCK and num_nodes > 1:
            command = [*OWN_SHM, *command]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{who} failed on {num_nodes} nodes")
    return [json.loads(each.splitlines()[-1]) for each in said]


def one_node(who: str, cache: Path, num_epochs: int) -> dict[str, Any]:
    """Reads the share of this process, and tells what that took."""
    rank, num_nodes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    batches = {OURS: ours, STOCK: stock}[who]
    import streaming.base.storage  # noqa: F401 (imports are not counted, of either)
    import torch  # noqa: F401

    import mixstream.loader.loader  # noqa: F401

    wall, cpu = time.perf_counter(), time.process_time()
    num_rows = batches(cache, rank, num_nodes, num_epochs)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "rows": num_rows,
        "bytes": sum(path.stat().st_size for path in cache.rglob("*.mds")),
    }


def ours(cache: Path, rank: int, num_nodes: int, num_epochs: int) -> int:
    """Rows of this node's share of some epochs."""
    from mixstream import Loader, open_corpus

    corpus = open_corpus({name: f"s3://{BUCKET}/{name}" for name in DOMAINS}, cache=cache)
    loader = Loader(
        corpus,
        batch_size=BATCH_SIZE,
        rank=rank,
        world_size=num_nodes,
        num_canonical_nodes=NUM_CANONICAL_NODES,
        max_epochs=num_epochs,
        shuffle_block_rows=BLOCK_SHARDS * ROWS_A_SHARD,
    )
    return sum(len(batch["input_ids"]) for batch in loader)


def stock(cache: Path, rank: int, num_nodes: int, num_epochs: int) -> int:  # noqa: ARG001
    """The same by StreamingDataset in a StreamingDataLoader."""
    import torch
    from streaming import Stream, StreamingDataLoader, StreamingDataset

    if num_nodes > 1:
        torch.distributed.init_process_group("gloo")
    dataset = StreamingDataset(
        streams=[
            Stream(remote=f"s3://{BUCKET}/{name}", local=str(cache / name)) for name in DOMAINS
        ],
        shuffle=True,
        batch_size=BATCH_SIZE,
        num_canonical_nodes=NUM_CANONICAL_NODES,
        shuffle_block_size=BLOCK_SHARDS * ROWS_A_SHARD,
    )
    loader = StreamingDataLoader(dataset, batch_size=BATCH_SIZE, num_workers=0)
    epochs = itertools.chain.from_iterable(loader for _ in range(num_epochs))
    return sum(len(batch["tokens"].to(torch.int64)) for batch in epochs)


if __name__ == "__main__":
    main()
