"""Four nodes with a cache each: no shard comes twice, and together they read what one would.

Run as a script, this file is one rank under gloo.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import mixstream
from tests.corpus.conftest import time_limit
from tests.corpus.shards import make_rows, write_corpus
from tests.loader.conftest import next_rows, rows_of
from tests.servers.faults import FaultProxy

SIZES = {"web": 280, "code": 140, "books": 84}
"""7 rows a shard: 40, 20 and 12 shards."""
NUM_SHARDS = 72
ORDER = {"seed": 3, "num_canonical_nodes": 4, "shuffle_block_rows": 14, "max_epochs": 1}
BATCH_SIZE, WORLD_SIZE = 3, 4


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes") / "far"
    write_corpus(folder, {name: make_rows(n, 32, seed=n) for name, n in SIZES.items()})
    return folder


def rows_of_one(far):
    """The rows of each step of one process that has the batches of all."""
    batch_size = BATCH_SIZE * WORLD_SIZE
    loader = mixstream.Loader(mixstream.open_corpus(far), batch_size=batch_size, **ORDER)
    return [sorted(rows_of(batch)) for batch in loader]


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_four_nodes_download_every_shard_once_and_read_what_one_reads(
    far, s3_server, s3_keys, monkeypatch, tmp_path, num_workers
):
    with FaultProxy(s3_server.address) as proxy, time_limit(100):
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        bucket = s3_server.make_bucket(f"nodes-{time.monotonic_ns()}")
        s3_server.upload(far, bucket)
        corpora = [
            mixstream.open_corpus(f"s3://{bucket}", cache=tmp_path / f"node-{rank}")
            for rank in range(WORLD_SIZE)
        ]
        nodes = [
            mixstream.Loader(
                corpus,
                batch_size=BATCH_SIZE,
                rank=rank,
                world_size=WORLD_SIZE,
                num_workers=num_workers,
                **ORDER,
            )
            for rank, corpus in enumerate(corpora)
        ]
        iterators = [iter(node) for node in nodes]
        found = list(iter(lambda: next_rows(iterators), None))
        assert found == rows_of_one(far)
        assert sum(map(len, found)) > 0.8 * sum(SIZES.values())
        wanted = [r.path for r in proxy.requests if r.method == "GET" and ".mds" in r.path]
    assert set(Counter(wanted).values()) == {1}
    assert num_shards_of(far, found) <= len(wanted) <= NUM_SHARDS


@pytest.mark.slow
def test_four_processes_under_gloo_do_the_same(far, tmp_path):
    arguments = [str(far), str(tmp_path)]
    command = [sys.executable, "-m", "tests.loader.test_four_nodes", *arguments]
    root = Path(__file__).parents[2]
    ranks = [
        subprocess.Popen([*command, str(rank)], cwd=root, stderr=subprocess.PIPE, text=True)
        for rank in range(WORLD_SIZE)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * WORLD_SIZE, "\n".join(errors)
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD_SIZE)]
    steps = [
        sorted((domain, bytes.fromhex(content)) for rows in step for domain, content in rows)
        for step in zip(*(each["rows"] for each in said), strict=True)
    ]
    assert steps == rows_of_one(far)
    kept = [
        p.name for rank in range(WORLD_SIZE) for p in (tmp_path / f"node-{rank}").rglob("*.mds")
    ]
    assert len(set(kept)) == len(kept)
    fetched = sum(each["fetched"] for each in said)
    assert num_shards_of(far, steps) <= fetched <= len(kept), "what is fetched ahead comes later"


def num_shards_of(far, steps):
    """From how many shards the rows of some steps come."""
    corpus = mixstream.open_corpus(far)
    shard_of = {
        (domain, corpus.row(domain, row).astype("int64").tobytes()): (domain, row // 7)
        for domain, name in enumerate(corpus.domains)
        for row in range(SIZES[name])
    }
    return len({shard_of[row] for rows in steps for row in rows})


def one_rank(far, folder, rank):
    """Reads its share of the first epoch, and writes what it read and fetched."""
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=WORLD_SIZE
    )
    corpus = mixstream.open_corpus(f"file://{far}", cache=Path(folder) / f"node-{rank}")
    loader = mixstream.Loader(corpus, batch_size=BATCH_SIZE, **ORDER)
    rows = [[(domain, row.hex()) for domain, row in rows_of(batch)] for batch in loader]
    said = {"rows": rows, "fetched": loader.stats.shards_fetched}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(said))
    dist.destroy_process_group()


if __name__ == "__main__":
    one_rank(*sys.argv[1:])
