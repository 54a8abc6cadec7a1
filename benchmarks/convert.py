"""How fast is `mixstream convert`, whole, beside its tokenizer alone on the same text in memory?

The text is ../shared/corpus repeated with changes (letters swapped in a third of the lines, so that
a tokenizer's cache meets new words) and Python sources of this machine, at least 100 MB, as jsonl,
gzip, zstd and parquet. Every measurement is a process of its own with all its children, from the
first import on; rounds take turns and the least counts. Times are CPU seconds, or the wall's where
the line says so. The floor is the tokenizer that `convert` itself chooses, on texts that lie in
memory as bytes: its first pass in a fresh process (cold), as a conversion's is; a second pass over
the same texts (warm) finds every word in the tokenizer's memory and is stated for comparison. Each
packing policy stands beside tokenizing the same documents, both in nanoseconds a token; the goal is
3 %. The peak is of all processes together, shared memory counted once (PSS, ten times a second).
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from harness import Line, parser, report

SHARED = Path(__file__).resolve().parents[2] / "shared" / "corpus"
SEQ_LEN = 2048
NUM_FILES = 4
CASES = {
    "jsonl, concat": ("jsonl", "concat"),
    "jsonl, best_fit": ("jsonl", "best_fit"),
    "jsonl.gz, best_fit": ("jsonl.gz", "best_fit"),
    "jsonl.zst, best_fit": ("jsonl.zst", "best_fit"),
    "parquet, best_fit": ("parquet", "best_fit"),
}


def shared_texts() -> list[str]:
    from mixstream.corpus.files import list_files
    from mixstream.corpus.sources import Document, read_documents

    files = list_files(SHARED) if SHARED.is_dir() else []
    found = [each for path in files if path.suffix != ".md" for each in read_documents(path)]
    return [each.text for each in found if isinstance(each, Document)]


def python_sources(max_bytes: int) -> Iterator[str]:
    folders = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        text = path.read_bytes().decode("utf-8", errors="ignore").replace("\0", "")
        max_bytes -= len(text)
        if max_bytes < 0:
            return
        if text:
            yield text


def changed(text: str, turn: int) -> str:
    """The text with two letters swapped in every third line, other ones each turn."""
    if turn == 0:
        return text
    pair = "eatsnrioldchum"[2 * (turn - 1) % 14 :][:2]
    swap = str.maketrans(pair, pair[::-1])
    lines = text.split("\n")
    return "\n".join(line.translate(swap) if i % 3 == 0 else line for i, line in enumerate(lines))


def mixed_texts(num_bytes: int) -> list[str]:
    """About as many bytes, a third of them Python, in a fixed random order."""
    texts, size, turn = list(python_sources(num_bytes // 3)), num_bytes // 3, 0
    known = shared_texts() or list(texts)
    random.Random(1).shuffle(known)
    while size < num_bytes:
        for text in known:
            if size < num_bytes:
                texts.append(changed(text, turn))
                size += len(text.encode())
        turn += 1
    random.Random(0).shuffle(texts)
    return texts


def write_raw(folder: Path, kind: str, texts: list[str]) -> None:
    """The texts as four files of one domain."""
    (folder / "mixed").mkdir(parents=True)
    for number in range(NUM_FILES):
        path, part = folder / "mixed" / f"part{number}.{kind}", texts[number::NUM_FILES]
        if kind == "parquet":
            pq.write_table(pa.table({"text": part}), path)
            continue
        rows = [{"id": i, "text": text, "length": len(text)} for i, text in enumerate(part)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if kind == "jsonl.gz":
            lines = gzip.compress(lines)
        elif kind == "jsonl.zst":
            lines = zstandard.compress(lines)
        path.write_bytes(lines)


def train_tokenizer(texts: list[str], path: Path) -> None:
    """A byte-level BPE of 50,257 ids; no network gives one here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=50_257,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text[:5000] for text in texts[::12]], trainer)
    tokenizer.save(str(path))


def floor_process(raw: str, tokenizer: str) -> None:
    """Prints seconds of tokenizing and of packing the texts of a folder, reading left out."""
    from mixstream.corpus.files import list_files
    from mixstream.corpus.packing import POLICIES
    from mixstream.corpus.records import FilePart
    from mixstream.corpus.sources import read_batches
    from mixstream.corpus.tokenizers import encoded, with_special_ids
    from mixstream.corpus.tokenizers.proof import proven_tokenizer

    parts = [FilePart(path) for path in list_files(Path(raw))]
    batches = [batch.texts for part in parts for batch in read_batches(part)]
    proven = proven_tokenizer(tokenizer)
    found: dict[str, object] = {}
    for name in ("cold", "warm"):
        wall, cpu = time.perf_counter(), time.process_time()
        for texts in batches:
            encoded(proven, texts)
        found[name] = time.process_time() - cpu, time.perf_counter() - wall
    documents = []
    for texts in batches:
        ids, lengths = encoded(proven, texts)
        documents.append(with_special_ids(ids, lengths, eos_id=proven.end_id))
    found["tokens"] = sum(len(ids) for ids, _ in documents)
    found["packing"] = {
        name: min(packing_seconds(documents, name, proven.end_id) for _ in range(3))
        for name in POLICIES
    }
    print(json.dumps(found))


def packing_seconds(documents: list[tuple[Any, Any]], policy: str, end_id: int) -> float:
    from mixstream.corpus.packing import open_packer

    packer = open_packer(policy, SEQ_LEN, end_id, dtype="uint16")
    start = time.thread_time()
    for ids, lengths in documents:
        for _rows in packer.pack(ids, lengths):
            pass
    for _rows in packer.flush():
        pass
    return time.thread_time() - start


@dataclass(frozen=True)
class Taken:
    """What one conversion took, all its processes included."""

    cpu: float
    wall: float
    peak_bytes: int


def convert_process(raw: str, out: str, tokenizer: str, packing: str) -> Taken:
    command = [sys.executable, "-m", "mixstream", "convert", raw, out, "--tokenizer", tokenizer]
    options = ["--seq-len", str(SEQ_LEN), "--packing", packing, "--workers", "2", "--quiet"]
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([*command, *options])
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        peak = max(peak, tree_bytes(process.pid))
        time.sleep(0.1)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"convert ended with {process.returncode}")
    shutil.rmtree(out)
    return Taken(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, peak)


def tree_bytes(pid: int) -> int:
    """Memory of a process and of those below it; what ends meanwhile counts nothing."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(tree_bytes(int(child)) for child in children)


def run_floor(raw: Path, tokenizer: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--floor", str(raw), str(tokenizer)]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    )
    return found


def least_floor(floors: list[dict[str, Any]]) -> dict[str, Any]:
    """The least of each time over the rounds."""
    passes = {
        name: [min(each) for each in zip(*(floor[name] for floor in floors), strict=True)]
        for name in ("cold", "warm")
    }
    packing = {
        name: min(floor["packing"][name] for floor in floors) for name in floors[0]["packing"]
    }
    return {**passes, "tokens": floors[0]["tokens"], "packing": packing}


def packing_lines(floor: dict[str, Any]) -> Iterator[Line]:
    tokens, tokenizing = floor["tokens"], floor["cold"][0]
    for name, seconds in floor["packing"].items():
        yield Line(
            name=f"packing {name}",
            seconds=seconds,
            floor_seconds=tokenizing,
            floor="tokenizing the same",
            note=f"{seconds / tokens * 1e9:.2f} ns a token, tokenizing "
            f"{tokenizing / tokens * 1e9:.1f}",
        )


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=int, default=128, help="of text")
    arguments.add_argument("--tokenizer", type=Path, help="a tokenizer.json; trained if left out")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--floor", nargs=2, metavar=("RAW", "T"), help="measure the floor alone")
    settings = arguments.parse_args()
    if settings.floor:
        floor_process(*settings.floor)
        return
    megabytes, rounds = (4, 1) if settings.quick else (settings.megabytes, settings.rounds)
    with report("convert", settings) as lines, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = mixed_texts(megabytes * 10**6)
        num_mb = sum(len(text.encode()) for text in texts) / 1e6
        tokenizer = settings.tokenizer or folder / "tokenizer.json"
        if not settings.tokenizer:
            train_tokenizer(texts, tokenizer)
        for kind in dict.fromkeys(kind for kind, _ in CASES.values()):
            write_raw(folder / kind, kind, texts)
        write_raw(folder / "little", "jsonl", texts[:NUM_FILES])
        del texts
        cases = {**CASES, "start, proof and end alone": ("little", "best_fit")}
        taken: dict[str, list[Taken]] = {name: [] for name in cases}
        floors = []
        for _ in range(rounds):
            floors.append(run_floor(folder / "jsonl", tokenizer))
            for name, (kind, packing) in cases.items():
                out = str(folder / "out")
                taken[name].append(
                    convert_process(str(folder / kind), out, str(tokenizer), packing)
                )
        floor = least_floor(floors)
        for name in cases:
            for line in convert_lines(name, taken[name], floor, num_mb):
                lines.add(line)
        for line in packing_lines(floor):
            lines.add(line)


def convert_lines(
    name: str, taken: list[Taken], floor: dict[str, Any], num_mb: float
) -> Iterator[Line]:
    """A line of processor time and, where there is enough to do, one of the wall's."""
    cpu, wall = min(each.cpu for each in taken), min(each.wall for each in taken)
    peak = f"peak {max(each.peak_bytes for each in taken) / 2**20:.0f} MiB"
    cold, cold_wall = floor["cold"]
    speeds = f"{num_mb / cold:.0f} MB/CPU s, warm {num_mb / floor['warm'][0]:.0f}"
    is_whole = not name.startswith("start")
    yield Line(
        name=f"convert {name}",
        seconds=cpu,
        floor_seconds=cold,
        floor=f"tokenizer alone, {speeds}",
        note=f"{num_mb / cpu:.1f} MB/CPU s, {peak}" if is_whole else f"wall {wall:.2f} s, {peak}",
    )
    if is_whole:
        yield Line(
            name=f"convert {name}, wall, 2 workers",
            seconds=wall,
            floor_seconds=cold_wall / 2,
            floor="half of the tokenizer alone",
            note=f"{num_mb / wall:.1f} MB/s",
        )


if __name__ == "__main__":
    main()
