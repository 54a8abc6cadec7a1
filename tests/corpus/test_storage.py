"""Paths, settings, and downloaders that misbehave in ways that no server here does."""

import importlib.util
import json
import threading
import time
from pathlib import Path

import pytest
import zstandard

from mixstream.corpus.corpus import open_corpus
from mixstream.corpus.failures import failure_of, is_disk_full
from mixstream.corpus.index import read_index
from mixstream.corpus.remote import RemotePath, as_folder
from mixstream.corpus.storage import Storage, StorageSettings
from mixstream.errors import ShardCorruptError, ShardError, ShardUnreachableError
from tests.corpus.conftest import all_rows, time_limit
from tests.corpus.shards import make_rows, write_corpus, write_domain

QUICK = {"timeout_seconds": 0.3, "retry_seconds": 0.0, "first_wait_seconds": 0.01}


@pytest.mark.parametrize(
    "text",
    ["s3://b/c", "gs://b", "hf://datasets/a/b/c", "dbfs:/Volumes/x", "azure-dl://a/b", "S3://b/c/"],
)
def test_a_url_is_a_remote_folder(text):
    folder = as_folder(text)
    assert isinstance(folder, RemotePath)
    assert str(folder / "web") == (text[0].lower() + text[1:]).rstrip("/") + "/web"


@pytest.mark.parametrize("path", ["corpus", "/a/b", "./s3", Path("a"), "C:", "a b://c", "x:y/z"])
def test_anything_else_is_a_local_one(path):
    assert as_folder(path) == Path(path)


def test_a_url_that_became_a_path_or_has_another_scheme_is_refused():
    with pytest.raises(ShardError, match=r"loses a slash\. Give the URL as text: .*'s3://\.\.\.'"):
        open_corpus(Path("s3://bucket/corpus"))
    for text in ("http://host/corpus", "s3:/bucket/corpus"):
        with pytest.raises(ShardError, match=r"has a scheme that cannot be read; there are s3://"):
            open_corpus(text)


def test_parts_of_a_remote_path():
    path = RemotePath("sftp://me:secret@host:22/a/b")
    assert (path.scheme, path.name, path.server) == ("sftp", "b", "sftp://me:secret@host:22")
    assert path.parent == RemotePath("sftp://me:secret@host:22/a")
    assert path.parent.parent.parent == path.parent.parent
    assert str(path) == "sftp://me:***@host:22/a/b"


@pytest.mark.parametrize(
    "settings", [{"timeout_seconds": 0.0}, {"retry_seconds": -1.0}, {"max_downloads": 0}]
)
def test_settings_that_fetch_nothing_are_refused(settings):
    with pytest.raises(ValueError, match="would never fetch anything; give times and rates above"):
        StorageSettings(**settings)


def test_an_sdk_that_is_not_installed_is_named(tmp_path):
    pytest.importorskip("streaming")
    if importlib.util.find_spec("databricks") is not None:
        pytest.skip("databricks is installed")
    message = r"dbfs:/a/corpus\.json cannot be read with what is installed .*databricks"
    with pytest.raises(ShardError, match=message):
        open_corpus("dbfs:/a", cache=tmp_path)


def storage_with(download, **settings):
    """A Storage whose downloader is a function (remote, local, timeout)."""

    class Stub:
        def download(self, remote, local, timeout):
            download(remote, Path(local))

    storage = Storage(StorageSettings(**(QUICK | settings)))
    storage._take = lambda _: Stub()
    return storage


def fetch(storage, folder, max_bytes=1000):
    return storage.fetch(
        RemotePath("file:///far/object"), folder, lambda _: None, max_bytes=max_bytes
    )


def test_a_downloader_that_brings_no_file_is_told(tmp_path):
    with pytest.raises(ShardUnreachableError, match="the downloader of file:// brought no file"):
        fetch(storage_with(lambda remote, local: None), tmp_path)


def test_a_download_that_outgrows_its_index_is_stopped(tmp_path):
    ended = threading.Event()

    def pour(remote, local):
        with open(local, "wb", buffering=0) as file:
            while not ended.is_set():
                file.write(bytes(100))
                time.sleep(0.01)

    with time_limit(20), pytest.raises(ShardCorruptError, match="more than the 1000 bytes that it"):
        fetch(storage_with(pour, max_corrupt_downloads=2, timeout_seconds=30.0), tmp_path)
    ended.set()


def test_a_slow_download_goes_on_while_it_brings_enough(tmp_path):
    def drip(remote, local):
        with open(local, "wb", buffering=0) as file:
            for _ in range(10):
                file.write(bytes(100))
                time.sleep(0.06)

    path = fetch(storage_with(drip, min_bytes_per_second=500.0), tmp_path)
    assert path.stat().st_size == 1000
    with pytest.raises(ShardUnreachableError, match=r"TimeoutError: \d+ bytes came within 0\.\d s"):
        fetch(storage_with(drip, min_bytes_per_second=50_000.0), tmp_path)


def test_one_that_was_given_up_cannot_write_to_its_successor(tmp_path):
    locals_seen, ended = [], threading.Event()

    def stall(remote, local):
        locals_seen.append(local)
        ended.wait(10)

    storage = storage_with(stall, retry_seconds=0.5)
    with pytest.raises(ShardUnreachableError):
        fetch(storage, tmp_path)
    ended.set()
    assert len(set(locals_seen)) == len(locals_seen) > 1
    assert list(tmp_path.iterdir()) == []


class StatusError(OSError):
    def __init__(self, status):
        super().__init__(f"HTTP {status}")
        self.status_code = status


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (StatusError(404), "missing"),
        (StatusError(401), "forbidden"),
        (StatusError(400), "forbidden"),
        (StatusError(429), "unreachable"),
        (StatusError(500), "unreachable"),
        (FileNotFoundError(2, "gone"), "missing"),
        (PermissionError(13, "no"), "forbidden"),
        (RecursionError("asked for ever"), "forbidden"),
        (KeyError("ALIPAN_WEB_REFRESH_TOKEN"), "misused"),
        (ConnectionResetError(104, "reset"), "unreachable"),
        (RuntimeError("who knows"), "unreachable"),
    ],
)
def test_what_an_sdk_raises_is_sorted_by_what_it_carries(error, failure):
    assert failure_of(error) == failure
    wrapped = RuntimeError("an SDK's own")
    wrapped.__cause__ = error
    assert failure_of(wrapped) == failure
    assert not is_disk_full(wrapped)


def test_the_sdks_that_are_installed_raise_what_is_expected_of_them():
    hub = pytest.importorskip("huggingface_hub.errors")
    azure = pytest.importorskip("azure.core.exceptions")
    google = pytest.importorskip("google.api_core.exceptions")
    botocore = pytest.importorskip("botocore.exceptions")
    assert failure_of(hub.LocalEntryNotFoundError("offline")) == "unreachable"
    assert failure_of(google.NotFound("x")) == "missing"
    assert failure_of(google.Forbidden("x")) == "forbidden"
    assert failure_of(google.ServiceUnavailable("x")) == "unreachable"
    assert failure_of(azure.ClientAuthenticationError("x")) == "forbidden"
    assert failure_of(azure.ServiceRequestError("x")) == "unreachable"
    assert failure_of(botocore.NoCredentialsError()) == "forbidden"
    assert failure_of(botocore.ParamValidationError(report="x")) == "misused"
    assert failure_of(botocore.EndpointConnectionError(endpoint_url="x")) == "unreachable"


def edited(folder, change):
    """The index of a domain, changed by a function of its JSON."""
    path = folder / "index.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("basename", "../../../etc/passwd", "is not that of a file in this folder"),
        ("basename", "/etc/passwd", "is not that of a file in this folder"),
        ("bytes", 2**60, "key 'bytes' is 1152921504606846976, not from 0 to 4294967295"),
        ("bytes", -1, "key 'bytes' is -1"),
    ],
)
def test_a_remote_index_is_not_trusted(tmp_path, key, value, message):
    write_domain(tmp_path / "web", make_rows(21, 64))
    edited(tmp_path / "web", lambda index: index["shards"][1]["raw_data"].update({key: value}))
    with pytest.raises(ShardError, match=message):
        open_corpus({"web": f"file://{tmp_path / 'web'}"}, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_two_shards_of_one_name_are_refused(tmp_path):
    write_domain(tmp_path / "web", make_rows(21, 64))
    edited(tmp_path / "web", lambda index: index["shards"].append(index["shards"][2]))
    with pytest.raises(ShardError, match=r"2 shards are named 'shard\.00002\.mds'"):
        read_index(tmp_path / "web")


def test_pickled_columns_are_refused(tmp_path):
    write_domain(tmp_path / "web", make_rows(21, 64))

    def pickled(index):
        for shard in index["shards"]:
            shard["column_encodings"] = ["pkl"]

    edited(tmp_path / "web", pickled)
    with pytest.raises(ShardError, match="column 'tokens' has encoding 'pkl'"):
        open_corpus({"web": f"file://{tmp_path / 'web'}"}, cache=tmp_path / "cache")


def test_a_remote_zip_bomb_stops_at_the_size_of_its_index(tmp_path):
    write_corpus(tmp_path / "far", {"web": make_rows(7, 64)}, compression="zstd")
    bomb = zstandard.compress(bytes(1 << 28))
    (tmp_path / "far" / "web" / "shard.00000.mds.zst").write_bytes(bomb)

    def believed(index):
        index["shards"][0]["zip_data"].update({"bytes": len(bomb), "hashes": {}})

    edited(tmp_path / "far" / "web", believed)
    corpus = open_corpus(f"file://{tmp_path / 'far'}", cache=tmp_path / "cache")
    with pytest.raises(ShardCorruptError, match="decompresses to more than the"):
        all_rows(corpus, "web")
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [".usage"]


def test_streaming_is_imported_by_remote_use_alone(tmp_path):
    import subprocess
    import sys

    write_corpus(tmp_path / "far", {"web": make_rows(7, 64)})
    code = (
        "import sys, mixstream\n"
        f"corpus = mixstream.open_corpus('file://{tmp_path}/far', cache={str(tmp_path / 'c')!r})\n"
        "corpus.row('web', 0)\n"
        "assert not {'streaming', 'torch', 'boto3'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
