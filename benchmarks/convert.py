"""How fast is `mixstream convert`, whole, beside its tokenizer alone on the same text in memory?

The text (mixed_text.py) is 100 MB and more, as jsonl, gzip, zstd and parquet. A measurement is a
process of its own with all its children, from the first import on; rounds take turns and the least
counts. Times are CPU seconds, or the wall's where the line says so. The floor is the tokenizer that
`convert` itself chooses, on texts that lie in memory as a reader gives them: its first pass in a
fresh process (cold), as a conversion's is; a second pass over the same texts (warm) finds every
word in the tokenizer's memory and is stated for comparison. Of CPU seconds the floor is one thread,
as `convert` takes where there are two cores; of the wall's a thread for each core, though two take
more of the processor than one. Each packing policy stands beside tokenizing the same documents in
one thread, both in nanoseconds a token. The goals of best_fit are 3 % of that time, no document cut
that fits a row, and 0.1 % padding. The peak is of all processes together, shared memory counted
once (PSS, ten times a second). Python's byte code is kept, as an installed package has it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import Line, parser, report
from mixed_text import NUM_FILES, mixed_texts, train_tokenizer, write_raw
from process_tree import Taken, run_tree

SEQ_LEN = 2048
NUM_CORES = 2
PACKED_SEQ_LENS = (2048, 8192)
CASES = {
    "jsonl, concat": ("jsonl", "concat"),
    "jsonl, best_fit": ("jsonl", "best_fit"),
    "jsonl.gz, best_fit": ("jsonl.gz", "best_fit"),
    "jsonl.zst, best_fit": ("jsonl.zst", "best_fit"),
    "parquet, best_fit": ("parquet", "best_fit"),
}


def floor_process(raw: str, tokenizer: str, threads: int) -> None:
    """Prints seconds of tokenizing the texts of a folder, reading left out; in one, packing too."""
    from mixstream.corpus.files import list_files
    from mixstream.corpus.packing import POLICIES
    from mixstream.corpus.records import FilePart
    from mixstream.corpus.sources import read_batches
    from mixstream.corpus.tokenizers import encoded, with_special_ids
    from mixstream.corpus.tokenizers.proof import proven_tokenizer

    parts = [FilePart(path) for path in list_files(Path(raw))]
    batches = [batch.texts for part in parts for batch in read_batches(part)]
    proven = proven_tokenizer(tokenizer, threads=threads)
    found: dict[str, object] = {}
    for name in ("cold", "warm"):
        wall, cpu = time.perf_counter(), time.process_time()
        for texts in batches:
            encoded(proven, texts)
        found[name] = time.process_time() - cpu, time.perf_counter() - wall
    if threads > 1:
        print(json.dumps(found))
        return
    documents = []
    for texts in batches:
        ids, lengths = encoded(proven, texts)
        documents.append(with_special_ids(ids, lengths, eos_id=proven.end_id))
    found["tokens"] = sum(len(ids) for ids, _ in documents)
    found["packing"] = {
        f"{policy} S={seq_len}": packed(documents, policy, seq_len, proven.end_id)
        for seq_len in PACKED_SEQ_LENS
        for policy in POLICIES
    }
    print(json.dumps(found))


def packed(
    documents: list[tuple[Any, Any]], policy: str, seq_len: int, end_id: int
) -> dict[str, float]:
    """Least seconds of three, and shares: documents cut, those that fit a row; padding of rows."""
    from mixstream.corpus.packing import RowForm, open_packer

    seconds, num_rows = [], 0
    for _ in range(3):
        packer = open_packer(policy, RowForm(seq_len, end_id, "uint16"))
        taken, num_rows = 0.0, 0
        for ids, lengths in documents:
            room = packer.room(len(ids))
            room[:] = ids  # where convert puts them, too, with the end ids between them
            start = time.thread_time()
            num_rows += sum(len(rows) for rows in packer.pack(room, lengths))
            taken += time.thread_time() - start
        start = time.thread_time()
        num_rows += sum(len(rows) for rows in packer.flush())
        seconds.append(taken + time.thread_time() - start)
    lengths = np.concatenate([lengths for _, lengths in documents])
    num_long = np.count_nonzero(lengths > seq_len)
    return {
        "seconds": min(seconds),
        "cut": packer.num_cut / len(lengths),
        "cut_though_fitting": (packer.num_cut - num_long) / len(lengths),
        "padding": 1 - lengths.sum() / (num_rows * seq_len),
    }


def convert_process(raw: str, out: str, tokenizer: str, packing: str) -> Taken:
    command = [sys.executable, "-m", "mixstream", "convert", raw, out, "--tokenizer", tokenizer]
    options = ["--seq-len", str(SEQ_LEN), "--packing", packing, "--workers", str(NUM_CORES)]
    taken = run_tree([*command, *options, "--quiet"], env=with_bytecode(Path(out).parent))
    shutil.rmtree(out)
    return taken


def with_bytecode(folder: Path) -> dict[str, str]:
    """An environment in which Python keeps what it has compiled."""
    names = os.environ.keys() - {"PYTHONDONTWRITEBYTECODE"}
    return {name: os.environ[name] for name in names} | {"PYTHONPYCACHEPREFIX": str(folder / "pyc")}


def run_floor(raw: Path, tokenizer: Path) -> dict[str, Any]:
    """Of one thread, and under "cores" the passes of as many as there are cores."""
    found: list[dict[str, Any]] = []
    for threads in (1, NUM_CORES):
        command = [sys.executable, __file__, "--floor", str(raw), str(tokenizer), str(threads)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        found.append(json.loads(said))
    return {**found[0], "cores": found[1]}


def least_passes(floors: list[dict[str, Any]]) -> dict[str, Any]:
    """The least CPU and wall seconds of a cold and of a warm pass."""
    return {
        name: [min(each) for each in zip(*(floor[name] for floor in floors), strict=True)]
        for name in ("cold", "warm")
    }


def least_floor(floors: list[dict[str, Any]]) -> dict[str, Any]:
    """The least of each time over the rounds."""
    packing = {
        name: {**one, "seconds": min(floor["packing"][name]["seconds"] for floor in floors)}
        for name, one in floors[0]["packing"].items()
    }
    cores = least_passes([floor["cores"] for floor in floors])
    return {
        **least_passes(floors),
        "cores": cores,
        "tokens": floors[0]["tokens"],
        "packing": packing,
    }


def packing_lines(floor: dict[str, Any]) -> Iterator[Line]:
    tokens, tokenizing = floor["tokens"], floor["cold"][0]
    for name, found in floor["packing"].items():
        seconds = found["seconds"]
        yield Line(
            name=f"packing {name}",
            seconds=seconds,
            floor_seconds=tokenizing,
            floor="tokenizing the same",
            note=f"{seconds / tokens * 1e9:.2f} ns a token, tokenizing "
            f"{tokenizing / tokens * 1e9:.1f}; {found['cut']:.2%} of documents cut, "
            f"{found['cut_though_fitting']:.2%} though they fit; {found['padding']:.3%} padding",
        )


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=int, default=128, help="of text")
    arguments.add_argument("--tokenizer", type=Path, help="a tokenizer.json; trained if left out")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument(
        "--floor", nargs=3, metavar=("RAW", "T", "THREADS"), help="measure the floor alone"
    )
    settings = arguments.parse_args()
    if settings.floor:
        floor_process(*settings.floor[:2], int(settings.floor[2]))
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
        convert_process(str(folder / "little"), str(folder / "out"), str(tokenizer), "concat")
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
    cold, cold_wall = floor["cold"][0], floor["cores"]["cold"][1]
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
            name=f"convert {name}, wall, {NUM_CORES} workers",
            seconds=wall,
            floor_seconds=cold_wall,
            floor=f"tokenizer alone, {NUM_CORES} threads",
            note=f"{num_mb / wall:.1f} MB/s",
        )


if __name__ == "__main__":
    main()
