"""Running loaders over a small real corpus, watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mixstream
from mixstream.runlog import read_run
from mixstream.watch import Watch
from tests.raw_text import random_corpus

SIZES = {"web": 4000, "code": 2000, "books <b>&amp;": 900}


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory):
    return random_corpus(tmp_path_factory.mktemp("watch"), SIZES, seed=7)


class RunningLoader:
    """A steerable Loader in a process of its own."""

    def __init__(self, corpus_path, log):
        self.log = Path(log)
        script = Path(__file__).with_name("steered_run.py")
        arguments = [corpus_path, log]
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)], stderr=subprocess.PIPE, text=True
        )

    def wait_for_step(self, step, timeout_seconds=60):
        until = time.monotonic() + timeout_seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                pytest.fail(f"the run ended: {self.process.stderr.read()}")
            has_begun = self.log.exists() and b"\n" in self.log.read_bytes()
            if has_begun and read_run(self.log).last_step >= step:
                return
            time.sleep(0.05)
        pytest.fail(f"the run did not come to step {step} in {timeout_seconds} s")

    def changes(self):
        """The weights events so far."""
        return read_run(self.log).of("weights")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def run(corpus_path, tmp_path_factory):
    """A steerable run that goes on."""
    running = RunningLoader(corpus_path, tmp_path_factory.mktemp("run") / "live.jsonl")
    try:
        running.wait_for_step(20)
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def closed_run(corpus_path, tmp_path_factory):
    """The log of a run that was not started steerable; it is over."""
    log = tmp_path_factory.mktemp("closed") / "closed.jsonl"
    loader = mixstream.Loader(mixstream.open_corpus(corpus_path), batch_size=8, run_log=log)
    for _ in loader:
        if loader.step == 50:
            break
    loader.log_signal("loss", [1.0, 2.0, 3.0], unit="nats per token")
    return log


@pytest.fixture
def watched():
    """Starts the page of a log; every page ends with the test."""
    started = []

    def start(log):
        watch = Watch(log)
        thread = threading.Thread(target=watch.serve)
        thread.start()
        started.append((watch, thread))
        return watch

    yield start
    for watch, thread in started:
        watch.stop()
        thread.join(timeout=10)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Where screenshots go: $MIXSTREAM_TEST_PICTURES, or pytest's own folder."""
    named = os.environ.get("MIXSTREAM_TEST_PICTURES")
    folder = Path(named) if named else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def body_of(weights, reason=""):
    return json.dumps({"weights": weights, "reason": reason}).encode()
