"""What the tests of conversion share: raw files in, documents and bytes of a corpus out."""

import gzip
import itertools
import json
import os
import signal
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mixstream.arrays import ADDRESS
from mixstream.corpus.segments import padding_mask, segment_starts

SHARED = Path(__file__).resolve().parents[3] / "shared"


def make_blocks_small(monkeypatch, impatient):
    """So that remote files of some kB are of many blocks, and nobody waits long for a server."""
    monkeypatch.setattr("mixstream.corpus.remote_file._FIRST_BYTES", 64)
    monkeypatch.setattr("mixstream.corpus.remote_file._BLOCK_BYTES", 1500)
    for name in ("remote_file", "remote_listing", "upload"):
        monkeypatch.setattr(f"mixstream.corpus.{name}.StorageSettings", lambda: impatient)


@contextmanager
def time_limit(seconds):
    """A hang is an error: of the main thread, as soon as it runs Python again."""

    def stop(*_):
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def memory_path(tmp_path):
    """A folder in memory where that goes: hundreds of conversions wait for nothing but fsync."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def write_texts(path, texts):
    """Writes texts as the ending of the path says; a .txt takes exactly one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts))
    if path.name.endswith(".jsonl"):
        path.write_bytes(lines.encode())
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode(), mtime=0))
    elif path.name.endswith(".zst"):
        path.write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
    elif path.name.endswith(".parquet"):
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path)
    else:
        assert path.name.endswith(".txt"), path
        (text,) = texts
        path.write_bytes(text.encode())
    return path


def make_raw(folder, *, domains=3, files=4, documents=6):
    """A raw folder of small domains of different size and of every kind of file."""
    endings = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
    for d in range(domains):
        for f in range(files):
            texts = [f"{d}/{f}/{i} äöü 中 " * (1 + (7 * i + f) % 5) for i in range(documents - d)]
            write_texts(folder / f"domain{d}" / f"part{f}{endings[f % len(endings)]}", texts)
    return folder


def tree(folder):
    """Every file of a folder, hidden ones too, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def all_rows(corpus, domain):
    """(R, S), every row of a domain in order."""
    number = corpus.domains.index(domain)
    addresses = np.zeros(int(corpus.num_rows[number]), ADDRESS)
    addresses["domain"] = number
    addresses["row"] = np.arange(len(addresses))
    return corpus.gather(addresses)


def stream(rows, end_id):
    """All ids of the rows but padding, one after the other."""
    return rows[~padding_mask(rows, end_id)]


def documents_of(rows, end_id):
    """The ids of each document of concat-packed rows, without its end id, as bytes objects."""
    ids = stream(rows, end_id)
    ends = np.flatnonzero(ids == end_id)
    assert len(ids) == 0 or ids[-1] == end_id, "the last document has no end"
    return [part.astype(np.uint32) for part in _cut(ids, ends)]


def _cut(ids, ends):
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else []
    return [ids[start:end] for start, end in zip(starts, ends, strict=True)]


def pieces_of(rows, end_id):
    """How often each segment stands in the rows, padding left out."""
    found = Counter()
    for row, starts, padding in zip(
        rows, segment_starts(rows, end_id), padding_mask(rows, end_id), strict=True
    ):
        edges = [*np.flatnonzero(starts & ~padding).tolist(), int((~padding).sum())]
        for start, end in itertools.pairwise(edges):
            found[row[start:end].astype(np.uint32).tobytes()] += 1
    return found


def expected_pieces(documents, seq_len, end_id):
    """The pieces that best_fit cuts documents (lists of ids without end) into."""
    found = Counter()
    for ids in documents:
        ended = np.append(np.asarray(ids, np.uint32), np.uint32(end_id))
        for start in range(0, len(ended), seq_len):
            found[ended[start : start + seq_len].tobytes()] += 1
    return found


def assert_counts_are_exact(corpus):
    """tokens = rows * S - padding, with rows and padding counted anew from the shards."""
    for name, entry in corpus.manifest.domains.items():
        rows = all_rows(corpus, name)
        padding = int(padding_mask(rows, corpus.end_id).sum())
        assert (entry.rows, entry.padding) == (len(rows), padding)
        assert entry.tokens + entry.padding == entry.rows * corpus.seq_len
        assert entry.dropped_tokens == 0


def assert_nothing_partial(out, finished):
    """What stands under a final name is whole, and indexes and manifest come after all they name.

    Args:
        out: a conversion that was killed somewhere.
        finished: `tree` of the same conversion, undisturbed.
    """
    found = {name: content for name, content in tree(out).items() if name[:11] != ".mixstream/"}
    for name, content in found.items():
        assert content == finished[name], f"{name} is partial"
    for name in found:
        if name.endswith("/index.json"):
            domain = name.removesuffix("index.json")
            shards = {each for each in finished if each.startswith(domain)}
            assert shards <= found.keys(), f"{name} stands before its shards"
    if "corpus.json" in found:
        assert found.keys() == finished.keys(), "corpus.json stands before the rest"
    return found
