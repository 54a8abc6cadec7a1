"""Real text of many kinds, repeated with changes -> texts, their files, and a tokenizer of them.

../shared/corpus with two letters swapped in a third of the lines, others each turn, so that a
tokenizer's cache meets new words; and Python sources of this machine, a third of all bytes.
"""

from __future__ import annotations

import gzip
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

SHARED = Path(__file__).resolve().parents[2] / "shared" / "corpus"
NUM_FILES = 4


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
