"""Appending to and deduplicating into a corpus on an S3 server: what a folder gets, whatever is
stopped where and goes on from which machine."""

import shutil
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest

from mixstream.corpus import s3_store
from mixstream.corpus.convert import convert
from mixstream.corpus.corpus import open_corpus
from mixstream.corpus.drop import drop_domain
from mixstream.corpus.object_store import ObjectFolder, digests_of
from mixstream.corpus.remote import RemotePath
from mixstream.corpus.s3_store import S3Store
from mixstream.corpus.storage import StorageSettings
from mixstream.corpus.verify import corpus_faults
from mixstream.errors import RecipeError, ShardCorruptError, ShardMissingError
from tests.corpus.conftest import all_rows, make_raw, tree, write_texts
from tests.servers.faults import FaultProxy

SETTINGS = {"tokenizer": "bytes", "seq_len": 32, "shard_bytes": 2**16, "unit_bytes": 10**6}
ALL = {**SETTINGS, "provenance": True, "dedup": "exact"}
IMPATIENT = StorageSettings(timeout_seconds=1.5, retry_seconds=2.0, first_wait_seconds=0.05)
numbers = count()


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw", domains=2, files=2)


@pytest.fixture
def bucket(s3_server, s3_keys, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT_URL", s3_server.url)
    return Bucket(s3_server)


class Bucket:
    def __init__(self, server):
        self.name, self._client = server.make_bucket(f"append-{next(numbers)}"), server.client()
        self.url = f"s3://{self.name}/corpus"

    def tree(self):
        listed = self._client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return {
            each["Key"].removeprefix("corpus/"): self._client.get_object(
                Bucket=self.name, Key=each["Key"]
            )["Body"].read()
            for each in listed
        }

    def fill(self, files):
        for name in self.tree().keys() - files.keys():
            self._client.delete_object(Bucket=self.name, Key=f"corpus/{name}")
        for name, content in files.items():
            self._client.put_object(Bucket=self.name, Key=f"corpus/{name}", Body=content)


def add_files(raw):
    write_texts(raw / "domain0" / "aa.jsonl", [f"before {n} äö" for n in range(20)])
    write_texts(raw / "domain0" / "zz.parquet", ["0/0/0 äöü 中 ", "behind", "behind"])
    write_texts(raw / "animals" / "a.jsonl.gz", ["a domain in front", "behind"])


@pytest.mark.parametrize(
    "options", [{**ALL, "compression": "zstd"}, pytest.param({}, marks=pytest.mark.slow)]
)
def test_a_bucket_grows_to_the_bytes_that_a_folder_grows_to(raw, bucket, tmp_path, options):
    options = {**SETTINGS, **options}
    places = (tmp_path / "local", {}), (bucket.url, {"work_folder": tmp_path / "w"})
    for out, more in places:
        convert(raw, out, **options, **more)
    assert bucket.tree() == tree(tmp_path / "local")
    add_files(raw)
    for out, more in places:
        with pytest.raises(RecipeError, match=r"domain0/aa.jsonl is new \(append takes new files"):
            convert(raw, out, **options, **more)
        convert(raw, out, append=True, **options, **more)
    grown = tree(tmp_path / "local")
    assert bucket.tree() == grown
    assert list(corpus_faults(tmp_path / "local")) == []
    for work in ("w", "another"):
        for append in (True, False):
            convert(raw, bucket.url, append=append, on_progress=pytest.fail,
                    work_folder=tmp_path / work, **options)  # fmt: skip
    assert bucket.tree() == grown
    assert set(tree(tmp_path / "w")) == {"corpus.json", "inputs.json"}
    write_texts(raw / "animals" / "b.jsonl", ["one more", "behind"])
    for out, more in ((tmp_path / "local", {}), (bucket.url, {"work_folder": tmp_path / "new"})):
        convert(raw, out, append=True, **options, **more)
    assert bucket.tree() == tree(tmp_path / "local")


class Killed(BaseException):
    """Stands for kill -9."""


def dying_after(monkeypatch, num_writes):
    """Kills at a request that would write; tells how many there were."""
    done = []

    def guarded(method):
        def call(self, *arguments):
            if len(done) == num_writes:
                raise Killed
            done.append(arguments[0])
            return method(self, *arguments)

        return call

    for name in ("send", "copy", "remove"):
        monkeypatch.setattr(S3Store, name, guarded(getattr(S3Store, name)))
    return done


@contextmanager
def dying(monkeypatch, num_writes):
    """A block that is killed at a request that would write."""
    dying_after(monkeypatch, num_writes)
    with pytest.raises(Killed):
        yield


def kills(num, most):
    """Some of the numbers from 0 on, the last ones all: there things are put in place."""
    return sorted({*range(0, num, max(1, num // most)), *range(max(0, num - most), num)})


@pytest.mark.parametrize("most", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_kill_at_any_write_of_an_append_leaves_old_or_new_and_any_machine_goes_on(
    raw, bucket, tmp_path, monkeypatch, most
):
    options = {**ALL, "workers": 1}
    convert(raw, tmp_path / "old", **options)
    old = tree(tmp_path / "old")
    add_files(raw)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    convert(raw, tmp_path / "new", append=True, **options)
    new = tree(tmp_path / "new")
    bucket.fill(old)
    with monkeypatch.context() as patch:
        done = dying_after(patch, 10**6)
        convert(raw, bucket.url, append=True, work_folder=tmp_path / "w", **options)
    assert bucket.tree() == new
    like = {name: open_corpus(tmp_path / name) for name in ("old", "new")}
    for number in kills(len(done), most):
        bucket.fill(old)
        with monkeypatch.context() as patch, dying(patch, number):
            convert(raw, bucket.url, append=True, work_folder=tmp_path / f"w{number}", **options)
        bucket_now = {n: c for n, c in bucket.tree().items() if not n.startswith(".mixstream/")}
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        for name, content in bucket_now.items():
            (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "copy" / name).write_bytes(content)
        found = open_corpus(tmp_path / "copy")
        same = like["old" if bucket_now["corpus.json"] == old["corpus.json"] else "new"]
        assert found.fingerprint == same.fingerprint
        for name in same.domains:
            np.testing.assert_array_equal(all_rows(found, name), all_rows(same, name))
        work = tmp_path / (f"w{number}" if number % 2 else "another")
        convert(raw, bucket.url, append=True, work_folder=work, **options)
        assert bucket.tree() == new, number


def test_an_unfinished_append_is_not_lost_to_a_conversion_of_the_old_files(
    raw, bucket, tmp_path, monkeypatch
):
    convert(raw, bucket.url, work_folder=tmp_path / "w", **SETTINGS)
    old = sorted(raw.rglob("*.*"))
    add_files(raw)
    with monkeypatch.context() as patch, dying(patch, 9):
        convert(raw, bucket.url, append=True, work_folder=tmp_path / "w", **SETTINGS)
    before = bucket.tree()
    same = {name: [str(p) for p in old if p.parent.name == name] for name in ("domain0", "domain1")}
    convert(None, bucket.url, domains=same, work_folder=tmp_path / "x", **SETTINGS)
    assert bucket.tree() == before
    write_texts(raw / "domain0" / "aa.jsonl", ["other"])
    with pytest.raises(
        RecipeError, match=r"unfinished work in s3://.*domain0/aa.jsonl has 27 bytes"
    ):
        convert(raw, bucket.url, append=True, work_folder=tmp_path / "x", **SETTINGS)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_texts_are_deduplicated_into_a_bucket_as_into_a_folder(
    tmp_path, bucket, workers, monkeypatch
):
    raw = tmp_path / "raw"
    for number, name in enumerate(("a", "b", "c")):
        write_texts(raw / name / "x.jsonl", [f"text {n % 40}" for n in range(number, 150)])
    options = {**SETTINGS, "unit_bytes": 1500, "dedup": "exact", "workers": workers}
    convert(raw, tmp_path / "local", **options)
    if workers == 1:  # one machine begins, another ends
        with monkeypatch.context() as patch, dying(patch, 8):
            convert(raw, bucket.url, work_folder=tmp_path / "w", **options)
        staged = {n.split("/")[1] for n in bucket.tree() if n.endswith("unit.json")}
        assert staged
        ended = []
        convert(raw, bucket.url, work_folder=tmp_path / "x", on_progress=ended.append, **options)
        assert not staged & {each.unit.digest for each in ended}
    else:
        convert(raw, bucket.url, work_folder=tmp_path / "w", **options)
    assert bucket.tree() == tree(tmp_path / "local")


def test_what_cannot_be_done_is_refused(raw, bucket, tmp_path, s3_server):
    message = r"dedup is 'exact', for which all machines need one folder, .*Take engine 'local'"
    with pytest.raises(RecipeError, match=message):
        convert(raw, bucket.url, engine="ray", dedup="exact", **SETTINGS)
    with pytest.raises(RecipeError, match=r"append adds to a finished corpus, and s3://.* is none"):
        convert(raw, bucket.url, append=True, work_folder=tmp_path / "w", **SETTINGS)
    with pytest.raises(RecipeError, match=r"in a local folder, and s3://.* is remote. Give it we"):
        drop_domain(bucket.url, "domain0")
    convert(raw, bucket.url, work_folder=tmp_path / "w", **SETTINGS)
    key = "corpus/domain1/index.json"
    s3_server.client().delete_object(Bucket=bucket.name, Key=key)
    with pytest.raises(
        ShardMissingError, match=r"domain1/index.json is not there, but corpus.json"
    ):
        convert(raw, bucket.url, append=True, work_folder=tmp_path / "w", **SETTINGS)


def test_a_file_fetched_from_a_store_is_compared_with_what_it_tells(
    bucket, tmp_path, s3_server, monkeypatch
):
    bucket.fill({"a.bin": b"0123456789" * 99})
    with FaultProxy(s3_server.address) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        remote = RemotePath(bucket.url)
        folder = ObjectFolder(remote, S3Store(remote, 5.0), IMPATIENT)
        proxy.add("flip", "a.bin", after_bytes=77)
        proxy.add("reset", "a.bin", after_bytes=77)
        assert folder.fetch("a.bin", tmp_path / "a.bin")
        assert (tmp_path / "a.bin").read_bytes() == b"0123456789" * 99
        assert not folder.fetch("b.bin", tmp_path / "b.bin")
        proxy.add("flip", "a.bin", after_bytes=77, times=99)
        with pytest.raises(ShardCorruptError, match=r"a\.bin does not come as it was stored, in 3"):
            folder.fetch("a.bin", tmp_path / "a.bin")
        assert not (tmp_path / "a.bin").exists()


def test_a_file_that_is_too_large_for_one_request_is_sent_in_parts_and_read_back(
    bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(s3_store, "_MAX_PUT_BYTES", 9 * 2**20)
    (tmp_path / "big.bin").write_bytes(bytes(range(256)) * 2**16)  # 16 MiB: two parts
    remote = RemotePath(bucket.url)
    ObjectFolder(remote, S3Store(remote, 5.0), IMPATIENT).put("big.bin", tmp_path / "big.bin")
    assert bucket.tree()["big.bin"] == (tmp_path / "big.bin").read_bytes()
    found = S3Store(remote, 5.0).stat("big.bin")
    assert (found.num_bytes, found.md5) == (2**24, None)
    assert digests_of(S3Store(remote, 5.0).read("big.bin")).num_bytes == 2**24
