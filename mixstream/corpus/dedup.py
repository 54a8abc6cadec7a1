"""The texts of all units -> which of them repeat an earlier one, in any domain.

Three steps. Each unit's texts are hashed (xxh3_128 of their UTF-8) and the hashes sorted, in any
number of processes; one process goes through all hashes, range by range, and decides; then units
are converted without the texts that repeat others. Earlier means: an earlier domain in the corpus's
order, then an earlier file, then an earlier record; what the corpus held before it was appended to
is earlier than all. So the answer does not depend on workers. A unit is known by a digest of its
own and of what was decided about it, so work that was finished under another decision is not taken
for finished.

Costs: the input is read and parsed once more (not tokenized); on disk 20 bytes a document while the
work goes on and 16 a text in the corpus (`hashes.bin`, for appending); in memory 28 a document of
the largest unit in each process, and in the deciding one a bit a document and about 200 MB.

Two texts of one hash are taken for one: among 10^9 texts that happens once in 10^21 corpora.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.arrays import Counts, Words
from mixstream.corpus.document_batches import document_batches, made_ahead
from mixstream.corpus.engines import Tell
from mixstream.corpus.file_bytes import Meter
from mixstream.corpus.jsonfile import Json, read_object, write_json
from mixstream.corpus.plan import Unit
from mixstream.corpus.recipe import RowSettings
from mixstream.corpus.shard import sync_folder, write_whole

__all__ = ["DEDUP", "HASHES", "decide", "decided_units", "hash_unit", "kept_hashes", "read_repeats"]

HASHES = "hashes.bin"
"""Of a corpus: (n, 2) uint64, the hashes of all its texts, sorted."""

DEDUP = "dedup"
"""In a work folder, the folder of hashes and decisions."""

_RANGE_HASHES = 2**21
"""Hashes that are compared at a time."""


def hash_unit(unit: Unit, tell: Tell, *, settings: RowSettings, folder: Path) -> int:
    """Hashes the texts of one unit into `folder`, whole or not at all; how many there are.

    The file holds (n, 2) uint64, high and low half of each hash, sorted, then (n,) uint32, which
    text of the unit each is of; equal hashes stand in the order of their texts.

    Raises:
        SourceError: a damaged file, or a bad document under on_bad_document="raise".
        ShardError: the file cannot be written.
    """
    path, meter = folder / f"{unit.digest}.hashes", Meter()
    if path.exists():
        return len(_pairs(path, is_unit=True))
    found = [b""]
    num_texts = 0
    with closing(made_ahead(document_batches(unit, settings, meter, []))) as batches:
        for batch in batches:
            found.append(b"".join(map(xxhash.xxh3_128_digest, batch.texts)))
            num_texts += len(batch.texts)
            tell(meter.num_bytes, 0, 0)
    pairs = np.frombuffer(b"".join(found), ">u8").astype(np.uint64).reshape(-1, 2)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    write_whole(path, (pairs[order].tobytes(), order.astype(np.uint32).tobytes()))
    return num_texts


def decided_units(units: Sequence[Unit], folder: Path) -> list[Unit] | None:
    """The units as they are known after a decision about just these; None before it."""
    path = folder / f"{_plan_digest(units)}.json"
    if not path.exists():
        return None
    digests = read_object(path)["units"]
    assert isinstance(digests, list), "a decision lists its units"
    return [replace(unit, digest=digest) for unit, digest in zip(units, digests, strict=True)]


def decide(units: Sequence[Unit], folder: Path, *, earlier: Path | None = None) -> None:
    """Writes which texts repeat earlier ones, a file a unit, and last that all is decided.

    Args:
        units: in the order of the corpus; all of them hashed into `folder`.
        folder: where to.
        earlier: hashes.bin of the corpus that these are appended to.

    Raises:
        ShardError: a file cannot be written.
    """
    hashed = [_pairs(folder / f"{unit.digest}.hashes", is_unit=True) for unit in units]
    orders = [_order(folder / f"{unit.digest}.hashes") for unit in units]
    sizes = np.array([len(each) for each in hashed], np.int64)
    first_bytes = np.concatenate([[0], np.cumsum(-(-sizes // 8))])  # each unit begins with a byte
    bits = np.zeros(first_bytes[-1], np.uint8)
    kept = kept_hashes(units, folder)
    unfinished = kept.with_name(f".{kept.name}.tmp")
    with open(unfinished, "wb") as file:
        before = [] if earlier is None else [_pairs(earlier, is_unit=False)]
        texts = [np.zeros(0, np.uint32) for _ in before] + orders
        for pairs, source, text in _ranges([*before, *hashed], texts):
            is_new = np.ones(len(pairs), np.bool_)
            is_new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
            file.write(pairs[is_new].tobytes())
            places = 8 * first_bytes[source[~is_new] - len(before)] + text[~is_new]
            np.bitwise_or.at(bits, places >> 3, (0x80 >> (places & 7)).astype(np.uint8))
    unfinished.replace(kept)
    sync_folder(folder)
    digests: list[Json] = []
    for number, unit in enumerate(units):
        mine = bits[first_bytes[number] : first_bytes[number + 1]].tobytes()
        name = hashlib.blake2b(unit.digest.encode() + mine, digest_size=8).hexdigest()
        write_whole(folder / f"{name}.bits", (int(sizes[number]).to_bytes(8, "little"), mine))
        digests.append(name)
    write_json(folder / f"{_plan_digest(units)}.json", {"units": digests})


def kept_hashes(units: Sequence[Unit], folder: Path) -> Path:
    """Where a decision about these units puts the hashes of all texts, earlier ones too."""
    return folder / f"{_plan_digest(units)}.kept"


def read_repeats(unit: Unit, folder: Path) -> NDArray[np.bool_]:
    """(n,) bool: which of the texts of a decided unit repeat an earlier one."""
    content = (folder / f"{unit.digest}.bits").read_bytes()
    bits = np.frombuffer(content, np.uint8, offset=8)
    return np.unpackbits(bits, count=int.from_bytes(content[:8], "little")).astype(np.bool_)


def _plan_digest(units: Sequence[Unit]) -> str:
    text = "\n".join(unit.digest for unit in units)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _pairs(path: Path, *, is_unit: bool) -> Words:
    """(n, 2) sorted hashes of a unit or of a corpus, mapped."""
    num = path.stat().st_size // (20 if is_unit else 16)
    if num == 0:
        return np.zeros((0, 2), np.uint64)
    return np.memmap(path, np.uint64, "r", shape=(num, 2))


def _order(path: Path) -> NDArray[np.uint32]:
    num = path.stat().st_size // 20
    if num == 0:
        return np.zeros(0, np.uint32)
    return np.memmap(path, np.uint32, "r", offset=16 * num, shape=(num,))


def _ranges(
    hashed: Sequence[Words], texts: Sequence[NDArray[np.uint32]]
) -> Iterator[tuple[Words, Counts, Counts]]:
    """All hashes in order, range by range: hash, number of its source, and its text there.

    Equal hashes come in the order of sources and texts; `texts` may be shorter where nobody asks.
    """
    total = sum(map(len, hashed))
    num_ranges = 1 << max(0, (total // _RANGE_HASHES).bit_length())
    begins = [0] * len(hashed)
    for number in range(1, num_ranges + 1):
        edge = number * (2**64 // num_ranges)
        ends = [
            len(pairs) if number == num_ranges else bisect.bisect_left(pairs[:, 0], edge, lo=begin)
            for pairs, begin in zip(hashed, begins, strict=True)
        ]
        spans = list(zip(begins, ends, strict=True))
        pairs = np.concatenate([each[a:b] for each, (a, b) in zip(hashed, spans, strict=True)])
        source = np.repeat(np.arange(len(hashed)), [b - a for a, b in spans])
        text = np.zeros(len(pairs), np.int64)
        at = 0
        for each, (a, b) in zip(texts, spans, strict=True):
            text[at : at + len(each[a:b])] = each[a:b]
            at += b - a
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        yield pairs[order], source[order], text[order]
        begins = ends
