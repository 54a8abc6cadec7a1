"""Raw files -> a folder with a sub-folder of documents for each cluster, ready for convert."""

from __future__ import annotations

import heapq
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mixstream.cluster.embedding import MAX_CHARACTERS, Embedding, SentenceModel, fit_hashed_words
from mixstream.cluster.model import MODEL_FOLDER, ClusterModel, fit_clusters
from mixstream.corpus.files import KINDS, file_kind, list_files, shown
from mixstream.corpus.jsonfile import write_json
from mixstream.corpus.recipe import check_size
from mixstream.corpus.shard import sync_folder
from mixstream.corpus.sources import BadDocument, Document, read_documents
from mixstream.errors import RecipeError, ShardError
from mixstream.rng import name_key, row_words

__all__ = ["ClusterReport", "ClusterSettings", "ReadSettings", "cluster_documents"]

DEFAULT_DIMENSIONS = 128
_FILE = "part-00000.jsonl.zst"
_DOCUMENTS_AT_ONCE = 512
_MAX_HELD_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSettings:
    """How clusters are fitted."""

    num_clusters: int | tuple[int, int] = 64
    """K; or (coarse, fine in each), two levels, for thousands."""
    embedding: str | None = None
    """Folder of a local sentence-transformers model; None hashes words, with no download."""
    dimensions: int | None = None
    """D of the hashed words' points; None is 128, and what a sentence model needs."""
    balanced: bool = True
    """Whether clusters shall hold about as many documents each."""
    sample: int = 50_000
    """Documents, drawn alike from all, that the clusters are fitted to; the first 20,000 characters
    of each are held in memory."""
    seed: int = 0
    """Of the sample and of the fit."""

    def __post_init__(self) -> None:
        check_size("sample", self.sample)
        if self.dimensions is not None:
            check_size("dimensions", self.dimensions)
            if self.embedding is not None:
                raise RecipeError(
                    f"dimensions is {self.dimensions}, but the sentence model "
                    f"{self.embedding!r} has its own; leave one of them out."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSettings:
    """How documents are read, as by `convert`."""

    text_field: str = "text"
    """Field or column that holds the text."""
    max_document_bytes: int = 128 * 2**20
    """A longer document is dropped and counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterReport:
    """What became of every document; also in OUT/_clusters/report.json."""

    documents: Mapping[str, int]
    """By cluster, all K in order; an empty one has no folder."""
    text_bytes: Mapping[str, int]
    """Bytes of text by cluster."""
    dropped: Mapping[str, int]
    """By reason, the bad documents."""


def cluster_documents(
    raw: str | Path,
    out: str | Path | None,
    settings: ClusterSettings | None = None,
    *,
    model: ClusterModel | None = None,
    reading: ReadSettings | None = None,
) -> ClusterReport:
    """Deals all documents below a folder out to clusters, and writes those as folders.

    Args:
        raw: a folder of raw files, sub-folders too (their names play no part), or one file.
        out: a folder that is not there yet, or is empty: the clusters' folders, which
            `mixstream convert OUT CORPUS` takes, and `_clusters` with model and report. It appears
            whole under its name; an unfinished one is OUT.unfinished, and the next run starts
            afresh. None writes nothing and counts only.
        settings: how to fit the clusters; None is the default, or with a model none.
        model: clusters that were fitted before: documents are only assigned.
        reading: how to read the files.

    Reads all files twice (once with a model). Memory: the sample, and 64 MiB of text.

    Raises:
        RecipeError: no documents, fewer than clusters, an `out` that is in use, a missing
            dependency, or settings beside a model.
        SourceError: a damaged file.
        ShardError: a file cannot be written.
    """
    if model is not None and settings is not None:
        raise RecipeError("a model is given, and settings for another one; leave one out.")
    reading = reading or ReadSettings()
    files = _files(Path(raw))
    place = None if out is None else Path(out).absolute()
    if place is not None:
        _check_out(place)
    if model is None:
        model = _fitted(files, settings or ClusterSettings(), reading)
    if place is None:
        return _deal_out(files, model, reading, None)
    unfinished = place.with_name(f"{place.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    try:
        (unfinished / MODEL_FOLDER).mkdir(parents=True)
        report = _deal_out(files, model, reading, unfinished)
        model.save(unfinished / MODEL_FOLDER)
        write_json(unfinished / MODEL_FOLDER / "report.json", asdict(report))
        _make_durable(unfinished)
        os.replace(unfinished, place)
        sync_folder(place.parent)
    except ShardError:
        raise
    except OSError as error:
        raise ShardError(f"cannot write {shown(unfinished)}: {error.strerror or error}") from error
    return report


def _files(raw: Path) -> list[Path]:
    """The files to read; an ending that is not read is refused before any is read.

    As for convert, a file of such an ending that lies beside sub-folders (a licence, say) is
    passed over.
    """
    files = [raw] if raw.is_file() else list_files(raw)
    if raw.is_dir():  # links that stand where domains may stand are followed, as by convert
        links = sorted(path for path in raw.iterdir() if path.is_symlink() and path.is_dir())
        files += [file for link in links for file in list_files(link)]
    beside = raw if any(file.parent != raw for file in files) else None
    files = [
        file for file in files if file.parent != beside or file.name.lower().endswith(tuple(KINDS))
    ]
    for file in files:
        file_kind(file)
    if not files:
        raise RecipeError(f"{shown(raw)} holds no files to read.")
    return files


def _check_out(out: Path) -> None:
    """An `out` that is there must be an empty folder, before hours are spent on it."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RecipeError(
            f"{shown(out)} is in use; name a folder that is not there yet, or an empty one."
        )


def _documents(
    files: Sequence[Path], reading: ReadSettings, dropped: Counter[str]
) -> Iterator[Document]:
    """The good documents of all files in order; the reasons of the bad ones are counted."""
    for file in files:
        for document in read_documents(
            file,
            text_field=reading.text_field,
            max_document_bytes=reading.max_document_bytes,
        ):
            if isinstance(document, BadDocument):
                dropped[document.reason] += 1
            else:
                yield document


def _fitted(
    files: Sequence[Path], settings: ClusterSettings, reading: ReadSettings
) -> ClusterModel:
    """Clusters of a sample of the documents."""
    texts = _sample(_documents(files, reading, Counter()), settings.sample, settings.seed)
    if not texts:
        raise RecipeError("not one document could be read; is the text field right?")
    embedding: Embedding
    if settings.embedding is not None:
        embedding = SentenceModel(settings.embedding)
    else:
        dimensions = settings.dimensions or DEFAULT_DIMENSIONS
        embedding = fit_hashed_words(texts, dimensions=dimensions, seed=settings.seed)
    return fit_clusters(
        texts,
        embedding,
        settings.num_clusters,
        balanced=settings.balanced,
        seed=settings.seed,
    )


def _sample(documents: Iterator[Document], size: int, seed: int) -> list[str]:
    """The beginnings of `size` documents, each as likely, in the order of the files.

    Document i stays if word i of a stream of the seed is among the `size` least.
    """
    stream, start = name_key("cluster sample"), 0
    held: list[tuple[int, int, str]] = []  # a heap, the largest word first
    while block := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        words = row_words(seed, stream, start, len(block))[:, 0].tolist()
        for index, (word, document) in enumerate(zip(words, block, strict=True), start):
            entry = (-word, index, document.text[:MAX_CHARACTERS])
            if len(held) < size:
                heapq.heappush(held, entry)
            elif entry > held[0]:
                heapq.heapreplace(held, entry)
        start += len(block)
    return [text for _, _, text in sorted(held, key=lambda entry: entry[1])]


def _deal_out(
    files: Sequence[Path], model: ClusterModel, reading: ReadSettings, folder: Path | None
) -> ClusterReport:
    """Assigns all documents; writes them below the folder, if there is one."""
    num_clusters = len(model.names)
    numbers, text_bytes = np.zeros(num_clusters, np.int64), np.zeros(num_clusters, np.int64)
    dropped = Counter[str]()
    held: dict[str, list[bytes]] = {}
    held_bytes = 0
    documents = _documents(files, reading, dropped)
    while block := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        places = model.assign([document.text for document in block])
        numbers += np.bincount(places, minlength=num_clusters)
        sizes = [len(document.text.encode()) for document in block]
        text_bytes += np.bincount(places, weights=sizes, minlength=num_clusters).astype(np.int64)
        if folder is None:
            continue
        for place, document in zip(places.tolist(), block, strict=True):
            line = json.dumps(asdict(document), ensure_ascii=False).encode() + b"\n"
            held.setdefault(model.names[place], []).append(line)
            held_bytes += len(line)
        if held_bytes > _MAX_HELD_BYTES:
            _append(folder, held)
            held, held_bytes = {}, 0
    if folder is not None:
        _append(folder, held)
    return ClusterReport(
        documents=dict(zip(model.names, numbers.tolist(), strict=True)),
        text_bytes=dict(zip(model.names, text_bytes.tolist(), strict=True)),
        dropped=dict(sorted(dropped.items())),
    )


def _append(folder: Path, held: Mapping[str, list[bytes]]) -> None:
    """One zstd frame more at the end of each cluster's file."""
    import zstandard

    compressor = zstandard.ZstdCompressor()
    for name, lines in held.items():
        (folder / name).mkdir(exist_ok=True)
        with (folder / name / _FILE).open("ab") as file:
            file.write(compressor.compress(b"".join(lines)))


def _make_durable(folder: Path) -> None:
    """All files and names below a folder onto the disk, before it gets its final name."""
    for path in [*folder.rglob("*"), folder]:
        sync_folder(path)  # fsync takes a file as well
