"""Corpora behind a real SFTP server."""

import threading

import numpy as np
import pytest

from mixstream.corpus.corpus import open_corpus
from mixstream.errors import ShardForbiddenError, ShardMissingError
from tests.corpus.conftest import all_rows, time_limit
from tests.corpus.shards import make_rows, write_corpus
from tests.servers.sftp import SftpServer, missing_for_sftp

pytestmark = [
    pytest.mark.skipif(missing_for_sftp() is not None, reason=str(missing_for_sftp())),
    # paramiko 3 imports ciphers that cryptography is about to move
    pytest.mark.filterwarnings("ignore:.*has been moved to cryptography.hazmat.decrepit.*"),
    # its threads close their sockets when they are collected
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

ROWS = {"web": make_rows(21, 512), "code": make_rows(9, 512)}


@pytest.fixture
def server(tmp_path, monkeypatch):
    pytest.importorskip("paramiko")
    (tmp_path / "keys").mkdir()
    with SftpServer(tmp_path / "keys") as server:
        monkeypatch.setenv("COMPOSER_SFTP_KEY_FILE", str(server.key))
        monkeypatch.setenv("COMPOSER_SFTP_KNOWN_HOSTS_FILE", str(server.known_hosts))
        yield server


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_corpus_behind_sftp_is_read(server, tmp_path, compression):
    write_corpus(tmp_path / "far", ROWS, compression=compression)
    corpus = open_corpus(server.url(tmp_path / "far"), cache=tmp_path / "cache")
    for name, rows in ROWS.items():
        np.testing.assert_array_equal(all_rows(corpus, name), rows)


def test_missing_files_and_refused_keys_are_told_apart(server, tmp_path, monkeypatch):
    with pytest.raises(ShardMissingError, match=r"none/corpus\.json is not there \(1 attempt\)"):
        open_corpus(server.url(tmp_path / "none"), cache=tmp_path / "cache")
    monkeypatch.setenv("COMPOSER_SFTP_KEY_FILE", str(tmp_path / "keys" / "host"))
    with pytest.raises(ShardForbiddenError, match=r"may not be read .*Authentication"):
        open_corpus(server.url(tmp_path / "far"), cache=tmp_path / "cache")
    monkeypatch.setenv("COMPOSER_SFTP_KEY_FILE", str(server.key))
    (tmp_path / "nobody").write_text("")
    monkeypatch.setenv("COMPOSER_SFTP_KNOWN_HOSTS_FILE", str(tmp_path / "nobody"))
    with pytest.raises(ShardForbiddenError, match="not found in known_hosts"):
        open_corpus(server.url(tmp_path / "far"), cache=tmp_path / "cache")


@pytest.mark.slow
def test_a_server_that_is_away_for_three_seconds_is_waited_for(server, tmp_path):
    write_corpus(tmp_path / "far", ROWS)
    server.stop()
    timer = threading.Timer(3.0, server.start)
    timer.start()
    with time_limit(60):
        corpus = open_corpus(
            server.url(tmp_path / "far"), cache=tmp_path / "cache", retry_seconds=30
        )
        np.testing.assert_array_equal(all_rows(corpus, "web"), ROWS["web"])
    timer.join()
