"""Conversions on a real Ray cluster of two nodes on this machine: the bytes of a local run.

Drivers run as commands of their own, as users start them; nodes are real raylets, and are killed.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

from mixstream.corpus.convert import convert
from mixstream.corpus.ray_engine import run_on_ray
from mixstream.errors import RecipeError
from tests.corpus.conftest import make_raw, tree, write_texts
from tests.servers.s3 import KEY, SECRET

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of its sockets and pipes
]

SETTINGS = {"tokenizer": "bytes", "seq_len": 64, "shard_bytes": 4096, "unit_bytes": 3000}
OPTIONS = ("--tokenizer=bytes", "--seq-len=64", "--shard-bytes=4096", "--unit-bytes=3000")
STORE_BYTES = 80 * 2**20


@pytest.fixture(scope="module")
def cluster(s3_server):
    """A head without cores, as clusters have it, and a node with one; `add_node` adds more.

    All processes of it have the keys of the S3 server.
    """
    pytest.importorskip("ray", reason="needs Ray: pip install 'mixstream[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_ENDPOINT_URL", s3_server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        arguments = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=arguments)
        made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        yield made
        made.shutdown()


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw", domains=3, files=8, documents=40)


@pytest.fixture
def finished(raw, tmp_path):
    convert(raw, tmp_path / "finished", **SETTINGS)
    return tree(tmp_path / "finished")


def start(cluster, raw, out, *options):
    command = [sys.executable, "-m", "mixstream", "convert", raw, out, *OPTIONS, *options]
    return subprocess.Popen(
        [*map(str, command), "--engine=ray", f"--address={cluster.address}", "--quiet"],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def end(process):
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors.decode()


def wait_for_units(work, number, process):
    deadline = time.monotonic() + 60
    while len(list(work.glob("*/unit.json"))) < number:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_node_that_is_killed_in_the_middle_costs_its_units_and_no_byte(
    cluster, raw, finished, tmp_path
):
    doomed = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    process = start(cluster, raw, tmp_path / "out")
    wait_for_units(tmp_path / "out" / ".mixstream", 3, process)
    cluster.remove_node(doomed, allow_graceful=False)
    assert process.poll() is None, "it was over before the node was gone"
    end(process)
    assert tree(tmp_path / "out") == finished


def test_a_killed_driver_goes_on_where_it_was(cluster, raw, finished, tmp_path):
    process = start(cluster, raw, tmp_path / "out")
    work = tmp_path / "out" / ".mixstream"
    wait_for_units(work, 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in work.glob("*/unit.json")}
    again = start(cluster, raw, tmp_path / "out")
    kept = set()
    while again.poll() is None:
        kept |= {p for p in before if p.exists() and p.stat().st_mtime_ns == before[p]}
        time.sleep(0.05)
    end(again)
    assert kept == before.keys()
    assert tree(tmp_path / "out") == finished


def test_nodes_that_share_no_folder_meet_in_a_bucket(cluster, raw, finished, tmp_path, s3_server):
    bucket = s3_server.make_bucket("ray")
    s3_server.upload(raw, bucket, "raw/")
    out = f"s3://{bucket}/corpus"
    end(start(cluster, f"s3://{bucket}/raw", out, "--work-folder", tmp_path / "work"))
    client = s3_server.client()
    listed = client.list_objects_v2(Bucket=bucket, Prefix="corpus/")["Contents"]
    keys = [each["Key"] for each in listed]
    found = {
        key.removeprefix("corpus/"): client.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in keys
    }
    assert found.keys() == finished.keys()
    for name in finished.keys() - {"inputs.json"}:  # it holds times, which S3 gives its own
        assert found[name] == finished[name]
    assert not [name for name in tree(tmp_path / "work") if name.endswith(".mds")]


def test_a_cluster_drops_duplicates_and_appends_as_one_machine_does(cluster, raw, tmp_path):
    options = {**SETTINGS, "dedup": "exact", "provenance": True}
    write_texts(raw / "domain0" / "again.jsonl", ["0/0/0 äöü 中 ", "new", "new"])
    for append in (False, True):
        convert(raw, tmp_path / "local", append=append, **options)
        asked = ["--dedup=exact", "--provenance", *["--append"] * append]
        end(start(cluster, raw, tmp_path / "out", *asked))
        assert tree(tmp_path / "out") == tree(tmp_path / "local")
        write_texts(raw / "domain1" / "zz.jsonl", ["new", "newer"])


def test_a_damaged_file_is_named_by_the_driver(cluster, raw, tmp_path):
    (raw / "domain1" / "zzz.jsonl.gz").write_bytes(b"no gzip")
    process = start(cluster, raw, tmp_path / "out")
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert b"zzz.jsonl.gz: its name says gzip" in errors
    assert b"Traceback" not in errors


def test_a_cluster_that_does_not_answer_is_named():
    with pytest.raises(RecipeError, match=r"no Ray cluster answers at here \(.*ray start"):
        list(run_on_ray(len, [()], address="here"))


def test_a_task_that_takes_its_process_down_each_time_is_given_up(cluster):
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    try:
        with pytest.raises(RecipeError, match=r"was lost with its process or machine 6 times"):
            list(run_on_ray(lambda task, tell: os._exit(1), [0], address=cluster.address))
        assert list(run_on_ray(lambda task, tell: task, [7], address=None)) == [(7, 7)]
    finally:
        ray.shutdown()
