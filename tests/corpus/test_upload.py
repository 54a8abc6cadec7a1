"""Conversions into a real S3 API behind a proxy that spoils requests: the same bytes, or an error.

moto's server compares neither Content-MD5 nor SHA-256 with what it gets, as S3 does: here it is
the ETag, which it computes, that finds a flipped bit.
"""

import shutil
import signal
import subprocess
import sys
import time
from itertools import count, pairwise

import pytest

from mixstream.corpus.convert import convert
from mixstream.corpus.corpus import open_corpus
from mixstream.corpus.object_store import ObjectFolder, digests_of
from mixstream.corpus.remote import RemotePath
from mixstream.corpus.s3_store import S3Store
from mixstream.corpus.storage import StorageSettings
from mixstream.errors import (
    RecipeError,
    ShardCorruptError,
    ShardForbiddenError,
    ShardMissingError,
    ShardUnreachableError,
    SourceError,
)
from tests.corpus.conftest import all_rows, make_raw, time_limit, tree
from tests.servers.faults import FaultProxy

SETTINGS = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 512, "unit_bytes": 600}
IMPATIENT = StorageSettings(timeout_seconds=1.5, retry_seconds=2.0, first_wait_seconds=0.05)
numbers = count()


class Bucket:
    """s3://NAME/runs/corpus on a server, seen past the proxy."""

    prefix = "runs/corpus/"

    def __init__(self, server, proxy):
        self.name = server.make_bucket(f"upload-{next(numbers)}")
        self.url = f"s3://{self.name}/runs/corpus"
        self.proxy, self._client = proxy, server.client()

    def tree(self):
        """Every object by its name, the work folder's apart."""
        return {
            name: content
            for name, content in self.everything().items()
            if not name.startswith(".mixstream/")
        }

    def everything(self):
        listed = self._client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return {
            each["Key"].removeprefix(self.prefix): self.read(each["Key"])
            for each in listed
            if each["Key"].startswith(self.prefix)
        }

    def read(self, key):
        return self._client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def write(self, name, content):
        self._client.put_object(Bucket=self.name, Key=self.prefix + name, Body=content)

    def sent(self, path=""):
        """Requests that sent an object's bytes, or copied one."""
        return self.proxy.num_requests("PUT", path)


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture
def proxy(s3_server, s3_keys, monkeypatch):
    with FaultProxy(s3_server.address) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def bucket(s3_server, proxy):
    return Bucket(s3_server, proxy)


@pytest.fixture
def impatient(monkeypatch):
    """Conversions that do not wait a minute for a store."""
    monkeypatch.setattr("mixstream.corpus.upload.StorageSettings", lambda: IMPATIENT)


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw", domains=2, files=2, documents=4)


@pytest.fixture
def finished(raw, tmp_path):
    convert(raw, tmp_path / "finished", **SETTINGS)
    return tree(tmp_path / "finished")


def assert_nothing_partial(found, finished):
    """What has a final name is right, and indexes and manifest come after all they name."""
    for name, content in found.items():
        assert content == finished[name], f"{name} is wrong"
    if any(name.endswith("index.json") for name in found):
        assert {name for name in finished if ".mds" in name} <= found.keys()
    if "corpus.json" in found:
        assert found.keys() == finished.keys()


@pytest.mark.parametrize(
    "settings", [{}, {"workers": 2}, {"compression": "zstd", "provenance": True}]
)
def test_a_bucket_gets_the_bytes_that_a_folder_gets_and_nothing_else(
    raw, bucket, tmp_path, settings
):
    convert(raw, tmp_path / "local", **SETTINGS, **settings)
    report = convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS, **settings)
    assert bucket.everything() == tree(tmp_path / "local")
    assert report.path == bucket.url
    assert set(tree(tmp_path / "work")) == {"corpus.json", "inputs.json"}, (
        "shards are left on this machine"
    )
    if settings:
        return
    corpus = open_corpus(report.path, cache=tmp_path / "cache")
    local = open_corpus(tmp_path / "local")
    for name in local.domains:
        assert (all_rows(corpus, name) == all_rows(local, name)).all()


def test_objects_appear_in_the_promised_order(raw, bucket, tmp_path):
    convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    puts = [r.path for r in bucket.proxy.requests if r.method == "PUT"]
    final = [path for path in puts if "/.mixstream/" not in path]
    kinds = ["mds" if ".mds" in path else path.rpartition("/")[2] for path in final]
    num_shards = kinds.count("mds")
    assert num_shards > 2
    assert kinds[:num_shards] == ["mds"] * num_shards
    assert kinds[num_shards : num_shards + 2] == ["index.json"] * 2
    assert kinds[-1] == "corpus.json"
    staged = [path.rpartition("/")[2] for path in puts if "/.mixstream/" in path]
    assert staged[:2] == ["inputs.json", "recipe.json"]
    assert staged.count("unit.json") > 1
    for before, after in pairwise(staged):
        assert (before == "files.json") == (after == "unit.json"), "unit.json comes last"


def test_a_finished_corpus_is_left_alone_from_any_machine(raw, bucket, tmp_path):
    convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    made, num_sent = bucket.everything(), bucket.sent()
    for work in ("work", "another"):
        report = convert(raw, bucket.url, work_folder=tmp_path / work, **SETTINGS)
        assert {name: entry.documents for name, entry in report.domains.items()}.keys() == {
            "domain0",
            "domain1",
        }
    assert (bucket.everything(), bucket.sent()) == (made, num_sent)
    with pytest.raises(RecipeError, match=rf"corpus .*{'work'} was made with seq_len=16, now"):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS | {"seq_len": 32})


def test_what_an_interrupted_run_uploaded_is_not_sent_again_by_another_machine(
    raw, finished, bucket, tmp_path
):
    bad = raw / "domain1" / "zzz.jsonl.gz"
    bad.write_bytes(b"no gzip")
    with pytest.raises(SourceError, match="zzz"):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    bad.unlink()
    assert bucket.tree() == {}
    staged = bucket.everything()
    units = {name.split("/")[1] for name in staged if name.endswith("unit.json")}
    assert len(units) > 0
    bucket.proxy.requests.clear()
    with pytest.raises(
        RecipeError, match=r"unfinished work in s3://.*domain1/zzz.jsonl.gz is gone"
    ):
        convert(raw, bucket.url, work_folder=tmp_path / "another", **SETTINGS)
    options = {"redo_changed": True, **SETTINGS}
    convert(raw, bucket.url, work_folder=tmp_path / "another", **options)
    assert bucket.everything() == finished
    for unit in units:
        assert bucket.sent(rf"/\.mixstream/{unit}/") == 0


def test_a_shard_of_an_unfinished_unit_that_is_right_is_not_sent_again(
    raw, finished, bucket, tmp_path
):
    bucket.proxy.add("status", r"/unit\.json", method="PUT", status=403)
    with pytest.raises(ShardForbiddenError, match=r"unit\.json may not be written .*HTTP 403"):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    shards = [r.path for r in bucket.proxy.requests if r.method == "PUT" and ".mds" in r.path]
    assert shards
    bucket.proxy.requests.clear()
    convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    assert bucket.everything() == finished
    for path in shards:
        assert bucket.sent(path) == 0


FAULTS = {
    "a connection that is refused": ("refuse", {"times": 2}),
    "a connection that is cut": ("reset", {"times": 2}),
    "some 503s": ("status", {"status": 503, "times": 2}),
    "slow down": ("status", {"status": 429}),
    "a stall": ("stall", {}),
    "a flipped bit on the way": ("flip_sent", {"after_bytes": 100}),
}


TARGETS = [
    r"\.mixstream/.*\.mds",
    *(pytest.param(each, marks=pytest.mark.slow) for each in ("0/shard", "index", r"corpus\.")),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_time_and_no_byte(
    raw, finished, bucket, tmp_path, impatient, fault, target
):
    kind, settings = FAULTS[fault]
    spoiled = bucket.proxy.add(kind, target, method="PUT", **settings)
    with time_limit(40):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    assert spoiled.times < settings.get("times", 1)
    assert bucket.everything() == finished


def test_bits_that_flip_each_time_are_an_error_and_leave_no_wrong_object(
    raw, finished, bucket, tmp_path, caplog
):
    bucket.proxy.add("flip_sent", r"\.mds", method="PUT", after_bytes=99, times=99)
    with pytest.raises(ShardCorruptError, match=r"did not come to hold what was sent, in 3 att.*"):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    assert "what was stored is not what was sent; again" in caplog.text
    assert not [name for name in bucket.everything() if name.endswith(".mds")]
    bucket.proxy.faults.clear()
    convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    assert bucket.everything() == finished


def test_a_store_that_is_away_is_named_and_waited_for_no_longer_than_asked(
    raw, finished, bucket, tmp_path, impatient, caplog
):
    fault = bucket.proxy.add("status", r"domain1/shard", method="PUT", times=10**6)
    message = r"domain1/shard.* could not be written in \d+ attempts over .*503.*What was uploaded"
    with time_limit(40), pytest.raises(ShardUnreachableError, match=message):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    assert "attempt 1 failed (HTTP 503" in caplog.text
    found = bucket.tree()
    assert_nothing_partial(found, finished)
    assert found.keys() & {"domain0/index.json", "corpus.json"} == set()
    fault.times = 0
    convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    assert bucket.everything() == finished


def test_a_bucket_that_is_not_there_is_named(raw, proxy, tmp_path):
    with pytest.raises(ShardMissingError, match=r"s3://no-such-bucket/a.* cannot be written.*Make"):
        convert(raw, "s3://no-such-bucket/a", work_folder=tmp_path / "work", **SETTINGS)


def test_an_out_with_other_things_in_it_is_refused(raw, bucket, tmp_path):
    bucket.write("notes.txt", b"mine")
    with pytest.raises(RecipeError, match=r"holds notes\.txt, which is no unfinished work"):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    assert bucket.everything() == {"notes.txt": b"mine"}


def test_unfinished_work_of_other_settings_is_refused_from_any_machine(raw, bucket, tmp_path):
    bucket.proxy.add("status", r"corpus\.json", method="PUT", status=403)
    with pytest.raises(ShardForbiddenError):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    with pytest.raises(RecipeError, match=r"the unfinished work in s3://.* with seq_len=16, now"):
        convert(raw, bucket.url, work_folder=tmp_path / "b", **SETTINGS | {"seq_len": 32})


def test_a_bucket_that_was_emptied_is_filled_again(raw, finished, s3_server, bucket, tmp_path):
    bucket.proxy.add("status", r"corpus\.json", method="PUT", status=403)
    with pytest.raises(ShardForbiddenError):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    for name in bucket.everything():
        s3_server.client().delete_object(Bucket=bucket.name, Key=bucket.prefix + name)
    convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    assert bucket.everything() == finished


def test_an_uploaded_shard_that_somebody_removed_is_named(raw, s3_server, bucket, tmp_path):
    bucket.proxy.add("status", r"domain0/shard\.00000", method="PUT", status=403)
    with pytest.raises(ShardForbiddenError):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)
    for name in bucket.everything():
        if name.endswith(".mds"):
            s3_server.client().delete_object(Bucket=bucket.name, Key=bucket.prefix + name)
    with pytest.raises(ShardMissingError, match=r"is not there any more: somebody else removed it"):
        convert(raw, bucket.url, work_folder=tmp_path / "work", **SETTINGS)


def test_stores_that_tell_no_md5_are_read_back(bucket, tmp_path, monkeypatch):
    head = S3Store.stat

    def keeps_quiet(store, name):
        found = head(store, name)
        return found and type(found)(num_bytes=found.num_bytes, md5=None)

    monkeypatch.setattr(S3Store, "stat", keeps_quiet)
    remote = RemotePath(bucket.url)
    folder = ObjectFolder(remote, S3Store(remote, 5.0), IMPATIENT)
    path = tmp_path / "a.mds"
    path.write_bytes(b"0123456789" * 99)
    bucket.proxy.add("flip_sent", "a.mds", method="PUT", after_bytes=77)
    folder.put("a.mds", path)
    assert bucket.everything() == {"a.mds": path.read_bytes()}
    assert (bucket.sent(), bucket.proxy.num_requests("GET", "a.mds")) == (2, 2)
    wanted = digests_of([path.read_bytes()])
    folder.copy("a.mds", "b.mds", num_bytes=wanted.num_bytes, xxh3=wanted.xxh3)
    assert bucket.everything()["b.mds"] == path.read_bytes()
    assert bucket.proxy.num_requests("GET", "b.mds") == 1


def test_s3_is_told_what_it_is_to_get(bucket, tmp_path, s3_server):
    remote = RemotePath(bucket.url)
    path = tmp_path / "a.mds"
    path.write_bytes(b"abc")
    S3Store(remote, 5.0).send("a.mds", path, digests_of([b"abc"]))
    head = s3_server.client().head_object(
        Bucket=bucket.name, Key=f"{bucket.prefix}a.mds", ChecksumMode="ENABLED"
    )
    assert head["ChecksumSHA256"] == "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="


def test_a_local_file_that_changed_after_it_was_written_is_never_sent(bucket, tmp_path):
    remote = RemotePath(bucket.url)
    folder = ObjectFolder(remote, S3Store(remote, 5.0), IMPATIENT)
    path = tmp_path / "a.mds"
    path.write_bytes(b"abd")
    with pytest.raises(ShardCorruptError, match=r"a\.mds has xxh3_64 .*, but was written with"):
        folder.put("a.mds", path, digests_of([b"abc"]).xxh3)
    assert bucket.everything() == {}


def test_settings_that_do_not_go_together_are_refused(raw, tmp_path):
    with pytest.raises(RecipeError, match=r"oci://b/c cannot be written to; .* to s3://, gs://"):
        convert(raw, "oci://b/c", **SETTINGS)
    with pytest.raises(RecipeError, match="which holds its own unfinished work; leave work out"):
        convert(raw, tmp_path / "out", work_folder=tmp_path / "work", **SETTINGS)
    with pytest.raises(RecipeError, match="engine is 'spark'; take 'local' or 'ray'"):
        convert(raw, tmp_path / "out", engine="spark", **SETTINGS)
    with pytest.raises(RecipeError, match=r"address is 'auto', which is a Ray cluster's"):
        convert(raw, tmp_path / "out", address="auto", **SETTINGS)
    with pytest.raises(RecipeError, match=r"workers 2 and memory None are for engine 'local'"):
        convert(raw, tmp_path / "out", engine="ray", workers=2, **SETTINGS)


def command(raw, bucket, work, *options):
    return [
        *(sys.executable, "-m", "mixstream", "convert", raw, bucket.url, "--work-folder", work),
        *("--tokenizer=bytes", "--seq-len=16", "--shard-bytes=512", "--unit-bytes=600"),
        *("--quiet", *options),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_request_the_same_command_yields_the_same_bytes(bucket, tmp_path, workers):
    raw = make_raw(tmp_path / "raw", domains=3, files=4)
    convert(raw, tmp_path / "finished", **SETTINGS)
    finished = tree(tmp_path / "finished")
    kills, step = 0, 10
    run = [*map(str, command(raw, bucket, tmp_path / "work", "--workers", workers))]
    while True:
        num_before = len(bucket.proxy.requests)
        process = subprocess.Popen(run, stderr=subprocess.PIPE, start_new_session=True)
        while process.poll() is None and len(bucket.proxy.requests) < num_before + step:
            time.sleep(0.0005)
        process.kill()
        _, errors = process.communicate()
        assert_nothing_partial(bucket.tree(), finished)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, errors.decode()
            break
        kills += 1
        step += 5
        if kills % 3 == 0:
            shutil.rmtree(tmp_path / "work")  # on another machine
    assert bucket.everything() == finished
    assert kills > 4, f"{kills} kills"
