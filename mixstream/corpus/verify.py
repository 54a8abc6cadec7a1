"""A corpus -> its faults: every shard is read again and compared with index and manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mixstream.arrays import Rows
from mixstream.corpus.corpus import Corpus, open_corpus
from mixstream.corpus.index import read_index
from mixstream.corpus.layout import map_shard
from mixstream.corpus.manifest import read_manifest
from mixstream.corpus.provenance import PROVENANCE
from mixstream.corpus.segments import num_padding
from mixstream.corpus.shard import ShardEntry
from mixstream.corpus.unpack import check_file, decompress
from mixstream.corpus.verify_provenance import ProvenanceCheck
from mixstream.errors import ShardError

__all__ = ["corpus_faults"]


def corpus_faults(path: Path) -> Iterator[str]:
    """A line for each thing that is not as index or manifest say; nothing for a sound corpus.

    Of each shard: it is there, its size and checksum (of the compressed file and of the raw one),
    header, columns, row count, and ids within the vocabulary. Of each domain: rows, tokens and
    padding, and that its provenance, if it has one, tells of each token once. Nothing is written
    beside the corpus; a compressed shard takes its raw size in the folder for temporary files.

    Args:
        path: a converted corpus, or a folder of MDS shards.
    """
    try:
        corpus = open_corpus(path)
    except ShardError as error:
        yield str(error)
        yield from _faults_of_the_rest(path)
        return
    for name in corpus.domains:
        yield from _domain_faults(corpus, name, path if corpus.manifest is None else path / name)


def _faults_of_the_rest(path: Path) -> Iterator[str]:
    """The faults of the domains that can be opened one by one, where the whole corpus cannot."""
    try:
        domains = read_manifest(path).domains
    except ShardError:
        return  # it has been told
    for name in domains:
        try:
            corpus = open_corpus({name: path / name})
        except ShardError:
            continue
        yield from _domain_faults(corpus, name, path / name)


def _domain_faults(corpus: Corpus, name: str, folder: Path) -> Iterator[str]:
    index, provenance = read_index(folder), _provenance_of(corpus, folder)
    padding = num_faults = 0
    for number in range(len(index.num_rows)):
        try:
            rows = _checked_rows(folder, index.entry(number), corpus)
            padding += 0 if corpus.end_id is None else num_padding(rows, corpus.end_id)
            if provenance is not None and (fault := provenance.fault(rows)) is not None:
                provenance = None  # what follows would only say so again
                yield fault
        except ShardError as error:
            provenance = None
            num_faults += 1
            yield str(error)
    if corpus.manifest is None or num_faults:
        return  # the sums of a domain with a damaged shard would only say so again
    entry = corpus.manifest.domains[name]
    tokens = entry.rows * corpus.seq_len - padding
    if (padding, tokens) != (entry.padding, entry.tokens - entry.dropped_tokens):
        yield (
            f"{folder}: its rows hold {tokens} tokens and {padding} of padding, but corpus.json "
            f"says {entry.tokens - entry.dropped_tokens} and {entry.padding}"
        )
    if provenance is not None:
        try:
            fault = provenance.fault_at_end(entry.documents)
        except ShardError as error:
            fault = str(error)
        if fault is not None:
            yield fault


def _provenance_of(corpus: Corpus, folder: Path) -> ProvenanceCheck | None:
    """What compares a domain's provenance; None for one that has none and promises none."""
    path, manifest = folder / PROVENANCE, corpus.manifest
    is_promised = manifest is not None and bool(manifest.recipe.get("provenance"))
    if manifest is None or corpus.end_id is None or not (is_promised or path.exists()):
        return None
    return ProvenanceCheck(path, corpus.end_id)


def _checked_rows(folder: Path, entry: ShardEntry, corpus: Corpus) -> Rows:
    """One shard's rows, after everything else about it has been found right."""
    with tempfile.TemporaryDirectory(prefix="mixstream-verify-") as cache:
        beside = folder / entry.raw.name
        path = beside
        if entry.zip is not None:
            path = Path(cache) / beside.name
            decompress(folder, entry, path)  # compares both checksums
        if entry.zip is None or beside.exists():
            _check_raw(beside, entry)
        layout, rows = map_shard(path, entry)
        tokens: Rows = np.ascontiguousarray(rows).view(layout.dtype)
    highest = int(tokens.max(initial=0))
    if corpus.manifest is not None and highest >= corpus.manifest.tokenizer.vocab_size:
        raise ShardError(
            f"{path} holds id {highest}, but the vocabulary ends at "
            f"{corpus.manifest.tokenizer.vocab_size}"
        )
    return tokens


def _check_raw(path: Path, entry: ShardEntry) -> None:
    try:
        with open(path, "rb") as file:
            check_file(path, file, "raw", entry.raw)
    except OSError as error:
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"{path}: cannot be read ({error.strerror})") from error
