"""Conversions from and to kinds of storage other than S3: the same bytes as of folders.

sftp:// is a real openssh server. gs:// is an emulator, which computes MD5 and answers ranges, but
knows no generations. hf:// is a stand-in that answers the four requests that are made of a hub.
"""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mixstream.corpus.convert import convert
from mixstream.corpus.object_store import ObjectFolder, digests_of
from mixstream.corpus.remote import RemotePath
from mixstream.corpus.remote_listing import matching_files
from mixstream.corpus.sftp_store import SftpStore
from mixstream.corpus.storage import StorageSettings
from mixstream.errors import RecipeError, ShardForbiddenError, ShardMissingError, SourceError
from tests.corpus.conftest import make_blocks_small, make_raw, tree
from tests.servers.gcs import GcsServer
from tests.servers.sftp import SftpServer, missing_for_sftp

SETTINGS = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 4096, "unit_bytes": 4000}
IMPATIENT = StorageSettings(timeout_seconds=3.0, retry_seconds=2.0, first_wait_seconds=0.05)

pytestmark = [
    # paramiko 3 imports ciphers that cryptography is about to move
    pytest.mark.filterwarnings("ignore:.*has been moved to cryptography.hazmat.decrepit.*"),
    # its threads close their sockets when they are collected
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning"),
]


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    make_blocks_small(monkeypatch, IMPATIENT)


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw", domains=2, documents=12)


@pytest.fixture
def local(raw, tmp_path):
    convert(raw, tmp_path / "local", **SETTINGS)
    return tree(tmp_path / "local")


def without_times(files):
    return {name: content for name, content in files.items() if name != "inputs.json"}


# --- sftp


@pytest.fixture
def sftp(tmp_path, monkeypatch):
    if missing_for_sftp() is not None:
        pytest.skip(missing_for_sftp())
    (tmp_path / "keys").mkdir()
    with SftpServer(tmp_path / "keys") as server:
        monkeypatch.setenv("COMPOSER_SFTP_KEY_FILE", str(server.key))
        monkeypatch.setenv("COMPOSER_SFTP_KNOWN_HOSTS_FILE", str(server.known_hosts))
        yield server


def test_raw_files_behind_sftp_give_the_bytes_that_they_give_here(sftp, raw, local, tmp_path):
    (raw / "domain0" / "linked.jsonl").symlink_to(raw / "domain1" / "part0.jsonl")
    shutil.rmtree(tmp_path / "local")
    convert(raw, tmp_path / "local", **SETTINGS)
    convert(sftp.url(raw), tmp_path / "out", **SETTINGS)
    assert without_times(tree(tmp_path / "out")) == without_times(tree(tmp_path / "local"))
    ((_, file),) = matching_files("d", [RemotePath(sftp.url(raw / "*0" / "*0.jsonl"))], None)
    (raw / "domain0" / "part0.jsonl").write_bytes(b"other")
    with pytest.raises(SourceError, match=r"part0\.jsonl is no more what it was"):
        file.open().read()
    with pytest.raises(RecipeError, match=r"/none has no sub-folders"):
        convert(sftp.url(tmp_path / "none"), tmp_path / "x", **SETTINGS)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corpus_behind_sftp_gets_the_bytes_of_a_folder_and_nothing_else(
    sftp, raw, local, tmp_path, workers
):
    out = tmp_path / "far" / "deep"
    for _ in range(2):
        convert(raw, sftp.url(out), work_folder=tmp_path / "w", workers=workers, **SETTINGS)
    assert tree(tmp_path / "far") == {f"deep/{name}": each for name, each in local.items()}
    assert [path.name for path in out.iterdir() if path.is_dir()] in (
        ["domain0", "domain1"], ["domain1", "domain0"]
    )  # fmt: skip


def test_a_conversion_to_sftp_that_was_stopped_goes_on_from_another_machine(
    sftp, raw, local, tmp_path, monkeypatch
):
    send, left = SftpStore.send, [7]

    def stop(self, name, path, digests):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        send(self, name, path, digests)

    with monkeypatch.context() as patch:
        patch.setattr(SftpStore, "send", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(raw, sftp.url(tmp_path / "far"), work_folder=tmp_path / "one", **SETTINGS)
    renamed, rename = [], SftpStore.copy

    def stop_placing(self, source, target):
        renamed.append(target)
        if len(renamed) == 3:
            raise KeyboardInterrupt
        rename(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(SftpStore, "copy", stop_placing)
        with pytest.raises(KeyboardInterrupt):
            convert(raw, sftp.url(tmp_path / "far"), work_folder=tmp_path / "two", **SETTINGS)
    convert(raw, sftp.url(tmp_path / "far"), work_folder=tmp_path / "three", **SETTINGS)
    assert tree(tmp_path / "far") == local


def test_what_an_sftp_server_refuses_is_named(sftp, raw, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPOSER_SFTP_KEY_FILE", str(tmp_path / "keys" / "host"))
    with pytest.raises(ShardForbiddenError, match=r"may not be written .*Authentication"):
        convert(raw, sftp.url(tmp_path / "far"), work_folder=tmp_path / "w", **SETTINGS)
    with pytest.raises(SourceError, match=r"cannot be listed \(forbidden; .*Check the key"):
        convert(sftp.url(raw) + "/.", tmp_path / "out", **SETTINGS)


# --- gs


@pytest.fixture
def google(monkeypatch):
    pytest.importorskip("gcp_storage_emulator", reason="needs pip install gcp-storage-emulator")
    from google.cloud.storage import Client

    with GcsServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "tests")
        client = Client()
        client.create_bucket("bucket")
        yield client


def test_raw_files_in_a_google_bucket_give_the_bytes_that_they_give_here(
    google, raw, local, tmp_path
):
    for path in sorted(raw.rglob("*.*")):
        google.bucket("bucket").blob(f"raw/{path.relative_to(raw)}").upload_from_filename(path)
    convert("gs://bucket/raw", tmp_path / "out", **SETTINGS)
    assert without_times(tree(tmp_path / "out")) == without_times(local)
    with pytest.raises(SourceError, match=r"gs://none/x: cannot be listed \(missing"):
        convert("gs://none/x", tmp_path / "x", **SETTINGS)


def test_a_corpus_in_a_google_bucket_gets_the_bytes_of_a_folder_and_nothing_else(
    google, raw, local, tmp_path
):
    for _ in range(2):
        convert(raw, "gs://bucket/a/corpus", work_folder=tmp_path / "w", **SETTINGS)
    found = {blob.name.removeprefix("a/corpus/"): blob.download_as_bytes()
             for blob in google.list_blobs("bucket")}  # fmt: skip
    assert found == local
    with pytest.raises(ShardMissingError, match=r"gs://none/.* cannot be written .*Make the buck"):
        convert(raw, "gs://none/x", work_folder=tmp_path / "x", **SETTINGS)


def test_google_credentials_that_are_not_there_are_named(raw, tmp_path, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ShardForbiddenError, match=r"gs://b/c may not be written .*none\.json"):
        convert(raw, "gs://b/c", work_folder=tmp_path / "w", **SETTINGS)
    with pytest.raises(SourceError, match=r"gs://b/c: cannot be listed \(forbidden; .*none\.json"):
        convert("gs://b/c", tmp_path / "out", **SETTINGS)


# --- hf


class Hub(BaseHTTPRequestHandler):
    """A hub with one data set, owner/set, that is a local folder; its commit is 40 times "a"."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.partition("?")[0]
        tree_of = f"/api/datasets/owner/set/tree/{'a' * 40}"
        if (
            path.startswith("/api/datasets/owner/set/revision/")
            or path == "/api/datasets/owner/set"
        ):
            self._json({"id": "owner/set", "sha": "a" * 40, "tags": [], "siblings": []})
        elif path.startswith(tree_of):
            folder = self.server.folder / path.removeprefix(tree_of).lstrip("/")
            self._json([self._entry(each) for each in sorted(folder.rglob("*.*"))])
        elif path.startswith(f"/datasets/owner/set/resolve/{'a' * 40}/"):
            content = (self.server.folder / path.split("/", 6)[6]).read_bytes()
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self._answer(206, content[first : last + 1])
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _entry(self, path):
        content = path.read_bytes()
        name = path.relative_to(self.server.folder).as_posix()
        found = {"type": "file", "path": name, "size": len(content), "oid": "b" * 40}
        if path.suffix in (".gz", ".zst"):
            digest = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        return found

    def _json(self, value):
        self._answer(200, json.dumps(value).encode())

    def _answer(self, status, content, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub(raw, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder = raw.parent
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    yield url
    server.shutdown()
    server.server_close()


def test_a_data_set_of_a_hub_gives_the_bytes_that_its_files_give_here(hub, raw, local, tmp_path):
    for number, name in enumerate(("owner/set", "owner/set@refs%2Fpr%2F1")):
        convert(f"hf://datasets/{name}/raw", tmp_path / f"out{number}", **SETTINGS)
        assert without_times(tree(tmp_path / f"out{number}")) == without_times(local)
    with pytest.raises(SourceError, match=r"hf://.*nobody/set.*cannot be listed \(missing"):
        convert("hf://datasets/nobody/set/raw", tmp_path / "x", **SETTINGS)
    with pytest.raises(RecipeError, match=r"hf://models is no data set of the Hugging Face hub"):
        convert("hf://models/a/b", tmp_path / "x", **SETTINGS)
    with pytest.raises(RecipeError, match=r"names no data set; write hf://datasets/OWNER/NAME"):
        convert("hf://datasets/a", tmp_path / "x", **SETTINGS)
    with pytest.raises(RecipeError, match=r"hf://datasets/a/b cannot be written to"):
        convert(raw, "hf://datasets/a/b", **SETTINGS)


def test_a_store_without_digests_is_read_back(sftp, tmp_path):
    remote = RemotePath(sftp.url(tmp_path / "far"))
    folder = ObjectFolder(remote, SftpStore(remote, 5.0), IMPATIENT)
    (tmp_path / "a").write_bytes(b"0123456789" * 9)
    folder.put("x/a.mds", tmp_path / "a")
    wanted = digests_of([b"0123456789" * 9])
    folder.copy("x/a.mds", "y/b.mds", num_bytes=wanted.num_bytes, xxh3=wanted.xxh3)
    folder.copy("x/a.mds", "y/b.mds", num_bytes=wanted.num_bytes, xxh3=wanted.xxh3)
    assert folder.names() == ["y/b.mds"]
    assert (folder.read("y/b.mds"), folder.read("y/c.mds")) == (b"0123456789" * 9, None)
    folder.remove(["y/b.mds", "y/none"])
    assert folder.names() == []
