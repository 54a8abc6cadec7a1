"""How fast is each tokenizer back end? The floor is the reference library on the same text.

Text is in memory, as bytes; one thread; times are CPU time of the process for a MB of text. `first`
is a pass of a back end that has seen nothing, `again` a later pass over the same text. With
`--adversarial`: time and memory of documents without a space, each in a process of its own.
"""

from __future__ import annotations

import gzip
import json
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import zstandard
from harness import Line, parser, report
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mixstream.corpus.tokenizers import FastTokenizer, Utf8Tokenizer, open_tokenizer
from mixstream.corpus.tokenizers.backends import FAST_BACKENDS
from mixstream.corpus.tokenizers.patterns import LLAMA3

SHARED = Path(__file__).resolve().parents[2] / "shared" / "corpus"
RUNS = {"letters": b"a", "spaces": b" ", "ideographs": "漢字".encode(), "marks": b"\xcc\x81"}
NUM_IDS = 32_000


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--adversarial", action="store_true", help="documents without a space")
    arguments.add_argument("--one", nargs=4, help="(used by --adversarial itself)")
    settings = arguments.parse_args()
    if settings.one:
        print(json.dumps(one_long_document(*settings.one)))
        return
    texts = documents(num_bytes=1_000_000 if settings.quick else 40_000_000)
    num_ids = 2_000 if settings.quick else NUM_IDS
    question = "tokenizer_backends"
    with tempfile.TemporaryDirectory() as folder, report(question, settings) as lines:
        for path in trained(Path(folder), texts, num_ids):
            if settings.adversarial:
                for line in long_documents(path, 1 if settings.quick else 50):
                    lines.add(line)
            else:
                for line in speeds(path, texts):
                    lines.add(line)


def speeds(path: Path, texts: Sequence[bytes]) -> list[Line]:
    """Each back end that takes the tokenizer, beside its reference on a part of the text."""
    reference = open_tokenizer(path, threads=1)
    assert isinstance(reference, Utf8Tokenizer)
    some = texts[:: max(1, sum(map(len, texts)) // 3_000_000)]
    floor = min(cpu_seconds_a_mb(reference, some) for _ in range(2))
    found = []
    for name in FAST_BACKENDS:
        try:
            FastTokenizer(reference, name).encode_utf8([b"what is imported on first use"])
            fast = FastTokenizer(reference, name)
        except (ImportError, RuntimeError, ValueError):
            continue
        first = cpu_seconds_a_mb(fast, texts)
        again = min(cpu_seconds_a_mb(fast, texts) for _ in range(3))
        for what, seconds in (("first", first), ("again", again)):
            line = Line(
                name=f"{path.stem} {name} {what}",
                seconds=seconds,
                floor_seconds=floor,
                floor=str(reference.described()["library"]),
                note=f"{1 / seconds:.0f} MB per CPU-second against {1 / floor:.1f}",
            )
            found.append(line)
    return found


def cpu_seconds_a_mb(tokenizer: Utf8Tokenizer, texts: Sequence[bytes]) -> float:
    start = time.process_time()
    for i in range(0, len(texts), 1000):
        tokenizer.encode_utf8(texts[i : i + 1000])
    return (time.process_time() - start) / (sum(map(len, texts)) / 1e6)


# --- documents without a space


def long_documents(path: Path, num_mb: int) -> list[Line]:
    """Each back end beside the reference on num_mb of each kind of run."""
    found = []
    for run in RUNS:
        names = [*FAST_BACKENDS, "reference"]
        command = [sys.executable, __file__, "--one", str(path)]
        done = {}
        for name in names:
            args = [*command, name, run, str(num_mb)]
            printed = subprocess.run(args, check=False, capture_output=True, text=True)
            if printed.returncode == 0:
                done[name] = json.loads(printed.stdout)
        for name, (seconds, grown) in done.items():
            found.append(
                Line(
                    name=f"{path.stem} {num_mb} MB of {run}, {name}",
                    seconds=seconds,
                    floor_seconds=done["reference"][0],
                    floor="reference",
                    note=f"{grown / 1e6:.0f} MB of memory",
                )
            )
    return found


def one_long_document(path: str, name: str, run: str, num_mb: str) -> tuple[float, int]:
    """CPU seconds of one document, and bytes by which the peak of this process grows."""
    reference = open_tokenizer(path, threads=1)
    tokenizer = reference if name == "reference" else FastTokenizer(reference, name)
    assert isinstance(tokenizer, Utf8Tokenizer)
    text = RUNS[run] * (int(num_mb) * 1_000_000 // len(RUNS[run]))
    tokenizer.encode_utf8([b"warm"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    tokenizer.encode_utf8([text])
    seconds = time.process_time() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


# --- text and tokenizers


def documents(num_bytes: int) -> list[bytes]:
    """Texts of ../shared/corpus, where it is, and of Python's standard library."""
    texts = [path.read_bytes() for path in Path(sysconfig.get_path("stdlib")).glob("**/*.py")]
    texts = [text for text in texts if is_utf8(text)]
    for path in sorted(SHARED.glob("*/*.jsonl*")):
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        elif path.suffix == ".zst":
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        texts += [json.loads(line)["text"].encode() for line in raw.splitlines() if is_text(line)]
    random.Random(0).shuffle(texts)
    kept, size = [], 0
    for text in texts:
        if size < num_bytes:
            kept.append(text)
            size += len(text)
    return kept


def is_text(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line)["text"], str)
    except (ValueError, KeyError, TypeError):
        return False


def is_utf8(text: bytes) -> bool:
    try:
        return bool(text.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def trained(folder: Path, texts: Sequence[bytes], num_ids: int) -> list[Path]:
    """A GPT-2-like and a Llama-3-like tokenizer, and the latter with NFC."""
    level = pre_tokenizers.ByteLevel
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            level(add_prefix_space=False, use_regex=False),
        ]
    )
    kinds = {
        "gpt2": (level(add_prefix_space=False), None),
        "llama3": (split, None),
        "nfc": (split, normalizers.NFC()),
    }
    paths = []
    for name, (pre_tokenizer, normalizer) in kinds.items():
        model = Tokenizer(models.BPE())
        model.pre_tokenizer, model.decoder = pre_tokenizer, decoders.ByteLevel()
        if normalizer is not None:
            model.normalizer = normalizer
        trainer = trainers.BpeTrainer(
            vocab_size=num_ids,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=level.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator(
            (text[:4000].decode("utf-8", "ignore") for text in texts), trainer
        )
        paths.append(folder / f"{name}.json")
        model.save(str(paths[-1]))
    return paths


if __name__ == "__main__":
    main()
