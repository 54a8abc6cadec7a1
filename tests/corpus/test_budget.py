"""Memory is a number that is kept: in what is asked for, and in what a process really takes."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mixstream import RecipeError, convert
from mixstream.corpus import machine
from mixstream.corpus.budget import worker_bytes, workers_within
from mixstream.corpus.machine import memory_bytes, num_cores, processes_and_threads
from mixstream.corpus.recipe import RowSettings
from mixstream.corpus.tokenizers import ByteTokenizer
from tests.corpus.conftest import SHARED, make_raw, tree, write_texts

needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def settings(**changes):
    return RowSettings(**({"tokenizer": ByteTokenizer(), "seq_len": 8} | changes))


# --- the number


def test_workers_are_as_many_as_the_memory_holds_and_never_more_than_asked():
    one = worker_bytes(settings())
    assert [workers_within(n * one, settings(), 4) for n in (1, 2, 3, 9)] == [1, 2, 3, 4]
    assert 1 <= workers_within(None, settings(), 10**6) <= max(1, memory_bytes() // one)
    huge = settings(max_document_bytes=2**50)
    assert workers_within(None, huge, 4) == 1, "without a promise one worker runs anyway"


def test_memory_that_holds_no_worker_is_refused_with_what_it_would_take():
    one = worker_bytes(settings())
    with pytest.raises(RecipeError, match=rf"memory is 5 bytes, but one process may take {one:,}"):
        workers_within(5, settings(), 1)
    for wrong, message in ((0, "memory is 0; give at least 1"), (1.5, "give a whole number")):
        with pytest.raises(RecipeError, match=message):
            workers_within(wrong, settings(), 1)


def test_longer_documents_wider_windows_and_larger_shards_take_more():
    least = settings(max_document_bytes=1, shard_bytes=16)
    for change in (
        {"max_document_bytes": 2**20},
        {"shard_bytes": 2**20},
        {"packing": "best_fit"},
        {"compression": "zstd"},
    ):
        more = settings(**({"max_document_bytes": 1, "shard_bytes": 16} | change))
        assert worker_bytes(more) > worker_bytes(least)


def test_the_result_does_not_depend_on_the_memory(tmp_path):
    raw = make_raw(tmp_path / "raw")
    options = {"tokenizer": "bytes", "seq_len": 16, "unit_bytes": 1500, "packing": "best_fit"}
    convert(raw, tmp_path / "a", workers=2, **options)
    one = worker_bytes(settings(packing="best_fit"))
    convert(raw, tmp_path / "b", workers=2, memory=one, **options)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


# --- the machine


def test_the_least_limit_of_a_control_group_or_one_above_it_counts(tmp_path):
    process = tmp_path / "cgroup"
    process.write_text("0::/outer/inner\n")
    inner = tmp_path / "fs" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    machine = memory_bytes(tmp_path / "fs", process)
    (inner.parent / "memory.max").write_text("5000000\n")
    assert memory_bytes(tmp_path / "fs", process) == 5_000_000
    (inner / "memory.max").write_text("4000000\n")
    assert memory_bytes(tmp_path / "fs", process) == 4_000_000
    assert machine == memory_bytes(tmp_path / "fs", tmp_path / "none") > 2**26


def test_the_limit_of_an_old_control_group_counts_too(tmp_path):
    (tmp_path / "cgroup").write_text("5:memory:/job\n3:cpu:/\n")
    (tmp_path / "fs" / "memory" / "job").mkdir(parents=True)
    (tmp_path / "fs" / "memory" / "job" / "memory.limit_in_bytes").write_text("3000000")
    assert memory_bytes(tmp_path / "fs", tmp_path / "cgroup") == 3_000_000
    assert num_cores() >= 1


@pytest.mark.parametrize(
    ("cores", "workers", "num_tasks", "expected"),
    [
        (1, 4, 9, (1, 1)),
        (2, 2, 9, (1, 1)),
        (3, 3, 9, (1, 2)),
        (4, 4, 9, (2, 1)),
        (4, 1, 9, (1, 3)),
        (64, 64, 9, (9, 6)),
        (64, 64, 99, (32, 1)),
        (64, 2, 99, (2, 31)),
    ],
)
def test_threads_come_before_processes_and_leave_each_a_core_to_read_and_pack(
    monkeypatch, cores, workers, num_tasks, expected
):
    monkeypatch.setattr(machine, "num_cores", lambda: cores)
    assert processes_and_threads(workers, num_tasks) == expected


# --- what a process takes

PEAK = """
import sys
from pathlib import Path
from mixstream import convert
report = convert(sys.argv[1], sys.argv[2], tokenizer="bytes", seq_len=2048, packing="best_fit")
entry = report.domains["web"]
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(peak // 1024, entry.documents, entry.dropped)
"""


def peak_mib(raw, out):
    """MiB that a conversion in a process of its own takes at most, and what became of the input."""
    command = [sys.executable, "-c", PEAK, str(raw), str(out)]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    peak, documents, dropped = output.split(" ", 2)
    return int(peak), int(documents), dropped.strip()


@pytest.fixture
def web(tmp_path):
    (tmp_path / "raw" / "web").mkdir(parents=True)
    return tmp_path / "raw" / "web"


@needs_linux
def test_many_ordinary_documents_take_less_than_a_gib(web, tmp_path):
    text = "an ordinary document of a few words, and then some more of them. " * 12
    write_texts(web / "a.jsonl", [f"{i} {text}" for i in range(50_000)])
    peak, documents, _ = peak_mib(web.parent, tmp_path / "out")
    assert documents == 50_000
    assert peak < 700  # 408 measured; ids of bytes are four times as many as of words


@needs_linux
def test_a_line_of_30_mb_takes_less_than_two_gib(web, tmp_path):
    line = json.dumps({"text": "é" + "x" * 30_000_000}, ensure_ascii=False)
    (web / "a.jsonl").write_text(line + "\n" + line)
    peak, documents, _ = peak_mib(web.parent, tmp_path / "out")
    assert documents == 2
    assert peak < 1200  # 544 measured; 1,309 for a line of 120 MB


@needs_linux
def test_a_parquet_file_of_one_row_group_takes_less_than_a_gib(web, tmp_path):
    texts = ["a text of some length " * 50 + str(i) for i in range(60_000)]
    pq.write_table(pa.table({"text": texts}), web / "a.parquet", row_group_size=10**6)
    assert pq.ParquetFile(web / "a.parquet").num_row_groups == 1
    peak, documents, _ = peak_mib(web.parent, tmp_path / "out")
    assert documents == 60_000
    assert peak < 1000


@needs_linux
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/nasty is not here")
def test_a_line_of_256_mib_in_8_kib_of_zstd_is_dropped_in_less_than_a_gib(web, tmp_path):
    bomb = (SHARED / "nasty/zst/bomb_256mib_line.jsonl.zst").read_bytes()
    good = zstandard.compress(b'\n{"text": "good"}\n')
    (web / "a.jsonl.zst").write_bytes(bomb + good)
    peak, documents, dropped = peak_mib(web.parent, tmp_path / "out")
    assert (documents, dropped) == (1, "{'too_long': 1}")
    assert peak < 700
