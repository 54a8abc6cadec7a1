"""What all processes of a conversion take together, whatever the input: measured, not assumed."""

import json
import random
import string
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tokenizers import pre_tokenizers

from tests.corpus.conftest import write_texts
from tests.corpus.tokenizers.trained import byte_pairs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc"),
]

GIB = 2**30
NUM_FILES = 2

CONVERT = """
import sys
from mixstream import convert

if __name__ == "__main__":
    report = convert(*sys.argv[1:3], tokenizer=sys.argv[3], seq_len=2048, packing="best_fit",
                     workers=2, unit_bytes=2**20)
    entry = report.domains["web"]
    print(entry.documents, entry.dropped)
"""


@pytest.fixture(scope="module")
def byte_pair_file(tmp_path_factory):
    """A tokenizer.json whose fast back end runs in threads."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False)).save(str(path))
    return path


@pytest.fixture(params=["in threads", "in two processes"])
def tokenizer(request, byte_pair_file):
    return byte_pair_file if request.param == "in threads" else "bytes"


@pytest.fixture
def web(tmp_path):
    (tmp_path / "raw" / "web").mkdir(parents=True)
    return tmp_path / "raw" / "web"


def tree_bytes(pid):
    """Memory of a process and of those below it, shared pages counted once (PSS)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(tree_bytes(child) for child in children)


def converted(web, tokenizer):
    """The most bytes that the processes of a conversion took together, and what it said."""
    script = web.parent / "_convert.py"
    script.write_text(CONVERT)
    command = [sys.executable, str(script), str(web.parent), str(web.parent.parent / "out")]
    with subprocess.Popen([*command, str(tokenizer)], stdout=subprocess.PIPE, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.1)
        said = process.stdout.read().strip()
    assert process.returncode == 0
    assert peak > 2**25, "it was seen at work"
    return peak, said


def test_ordinary_documents_take_less_than_a_gib(web, tokenizer):
    text = "an ordinary document of a few words, and then some more of them. " * 12
    for number in range(NUM_FILES):
        write_texts(web / f"{number}.jsonl", [f"{number} {i} {text}" for i in range(15_000)])
    peak, said = converted(web, tokenizer)
    assert said == "30000 {}"
    assert peak < GIB


def test_lines_of_30_mb_take_less_than_two_gib(web, tokenizer):
    words = "café of many words ".encode() * 1_500_000
    for number in range(NUM_FILES):
        (web / f"{number}.jsonl").write_bytes(b'{"text": "' + words + b'"}\n')
    peak, said = converted(web, tokenizer)
    assert said == "2 {}"
    assert peak < 2 * GIB


def test_a_line_of_256_mib_in_a_few_kib_of_zstd_takes_less_than_two_gib(web, byte_pair_file):
    for number in range(NUM_FILES):
        packer = zstandard.ZstdCompressor(level=19).compressobj()
        with (web / f"{number}.jsonl.zst").open("wb") as file:
            file.write(packer.compress(b'{"text": "'))
            for _ in range(256):
                file.write(packer.compress(b"a" * 2**20))
            file.write(packer.compress(b'"}\n{"text": "good"}\n') + packer.flush())
    peak, said = converted(web, byte_pair_file)
    assert said == "2 {'too_long': 2}"
    assert peak < 2 * GIB


def test_parquet_of_one_row_group_takes_less_than_two_gib(web, byte_pair_file):
    texts = ["a text of some length " * 50 + str(i) for i in range(30_000)]
    for number in range(NUM_FILES):
        path = web / f"{number}.parquet"
        pq.write_table(pa.table({"text": texts}), path, row_group_size=10**6)
        assert pq.ParquetFile(path).num_row_groups == 1
    peak, said = converted(web, byte_pair_file)
    assert said == "60000 {}"
    assert peak < 2 * GIB


def test_a_document_of_50_mb_without_a_space_takes_less_than_two_gib(web, byte_pair_file):
    letters = random.Random(1).choices(string.ascii_letters, k=1_000_000)
    line = json.dumps({"text": "".join(letters) * 50})
    (web / "a.jsonl").write_text(line + "\n")
    peak, said = converted(web, byte_pair_file)
    assert said == "1 {}"
    assert peak < 2 * GIB
