"""Servers that tests of several parts share."""

import signal
import threading

import pytest

if threading.current_thread() is threading.main_thread():
    # a job in a shell's background ignores SIGINT, and so would all that the tests start and stop
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 API on loopback, without objects of its own; make a bucket for each test."""
    pytest.importorskip("moto", reason="needs moto[server]: pip install 'moto[server]'")
    from tests.servers.s3 import S3Server

    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_keys(monkeypatch, tmp_path):
    """Keys that the server takes, and nothing of this machine's own settings."""
    from tests.servers.s3 import KEY, SECRET

    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
