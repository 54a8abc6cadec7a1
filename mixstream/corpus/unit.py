"""A unit of conversion work -> shards and counts, whole or absent.

Three stations that run at the same time: a thread reads and takes the texts out of their records,
this one tokenizes and packs, a third writes shards. Each holds one batch or shard, so memory does
not grow with the input.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from mixstream.arrays import Counts, Tokens
from mixstream.corpus.document_batches import DocumentBatch, document_batches, made_ahead
from mixstream.corpus.engines import Tell
from mixstream.corpus.file_bytes import Meter
from mixstream.corpus.index import index_json, read_index
from mixstream.corpus.jsonfile import write_json
from mixstream.corpus.packing import RowForm, open_packer
from mixstream.corpus.plan import Unit
from mixstream.corpus.provenance import PROVENANCE, PieceWriter
from mixstream.corpus.recipe import RowSettings
from mixstream.corpus.records import Text, num_utf8_bytes
from mixstream.corpus.shard import ShardEntry
from mixstream.corpus.shard_writer import ShardWriter
from mixstream.corpus.tokenizers import Tokenizer, encoded, with_special_ids
from mixstream.errors import RecipeError, ShardError

__all__ = ["Example", "UnitReport", "read_unit_report", "run_unit"]

_NUM_EXAMPLES = 3
"""Dropped documents that are named for each reason; all are counted."""
_REPORT = "unit.json"

Example: TypeAlias = tuple[int, int, str]
"""A dropped document: the unit's file part, the record in it from 1 on, and what was found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitReport:
    """What became of a unit's documents."""

    shards: tuple[ShardEntry, ...]
    """Named from 0 on in the unit's own folder."""
    documents: int
    """Documents that went into rows."""
    documents_cut: int
    """Those of them that do not stand whole in one row."""
    text_bytes: int
    """Of those documents, as UTF-8."""
    tokens: int
    """Ids of those documents, special ids included."""
    padding: int
    """Ids that only fill rows."""
    dropped: dict[str, int]
    """Reason -> documents that went into no row."""
    examples: dict[str, list[Example]]
    """Reason -> the first of them."""
    records: list[int]
    """Lines, values or texts of each file part, good and bad."""

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.num_rows for shard in self.shards)


def run_unit(
    unit: Unit,
    settings: RowSettings,
    folder: Path,
    tell: Tell | None = None,
    repeats: NDArray[np.bool_] | None = None,
) -> UnitReport:
    """Converts one unit into `folder`, whose `unit.json` is written last.

    Args:
        unit: what to convert.
        settings: how.
        folder: where to; what an unfinished try left there is removed.
        tell: takes how many bytes of its files, documents and tokens the unit has gone through.
        repeats: which of the unit's texts repeat earlier ones; see dedup.

    Raises:
        SourceError: a damaged file, or a bad document under on_bad_document="raise".
        RecipeError: a tokenizer that breaks its promises.
        ShardError: the folder cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)  # what an unfinished try left
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ShardError(f"cannot write {folder}: {error.strerror}") from error
    tokenizer, meter, tally = settings.tokenizer, Meter(), _Tally()
    batches = document_batches(unit, settings, meter, tally.records, repeats)
    with ExitStack() as stack:
        writer = stack.enter_context(closing(ShardWriter(folder, settings)))
        pieces = (
            stack.enter_context(PieceWriter(folder / PROVENANCE)) if settings.provenance else None
        )
        on_places = None if pieces is None else pieces.add_places
        form = RowForm(settings.seq_len, tokenizer.end_id, settings.dtype, on_places)
        packer = open_packer(settings.packing, form, window_tokens=settings.packing_window)
        for batch in stack.enter_context(closing(made_ahead(batches))):
            ids, lengths = _checked_ids(tokenizer, batch.texts)
            tally.count(batch, lengths)
            if pieces is not None:
                _name_documents(pieces, batch, lengths)
            del batch
            ended, lengths = with_special_ids(
                ids, lengths, settings.bos_id, eos_id=tokenizer.end_id, room=packer.room
            )
            tally.tokens += len(ended)
            for rows in packer.pack(ended, lengths):
                writer.add(rows)
            if tell is not None:
                tell(meter.num_bytes, tally.documents, tally.tokens)
        for rows in packer.flush():
            writer.add(rows)
        shards = tuple(writer.finished())
    report = tally.report(shards, documents_cut=packer.num_cut, padding=writer.padding)
    written = report.rows * settings.seq_len - report.padding
    assert written == report.tokens, f"{report.tokens} ids went in, {written} stand in rows"
    counts = asdict(report)
    del counts["shards"]
    write_json(folder / "index.json", index_json(report.shards))
    write_json(folder / _REPORT, counts)
    return report


def read_unit_report(folder: Path) -> UnitReport | None:
    """The report of a finished unit; None while it is unfinished."""
    try:
        content = orjson.loads((folder / _REPORT).read_bytes())
    except FileNotFoundError:
        return None
    index = read_index(folder)
    shards = tuple(index.entry(number) for number in range(len(index.num_rows)))
    content["examples"] = {
        reason: [(part, record, detail) for part, record, detail in examples]
        for reason, examples in content["examples"].items()
    }
    return UnitReport(shards=shards, **content)


class _Tally:
    """Counts what becomes of each document."""

    def __init__(self) -> None:
        self.documents = self.text_bytes = self.tokens = 0
        self.records: list[int] = []
        self._dropped: Counter[str] = Counter()
        self._examples: dict[str, list[Example]] = {}

    def count(self, batch: DocumentBatch, lengths: Counts) -> None:
        """A batch of documents and how many ids each became, special ids apart."""
        for part, bad in batch.bad:
            self._drop(bad.reason, (part, bad.record, bad.detail))
        without = np.flatnonzero(lengths == 0)
        self.documents += len(lengths) - len(without)
        self.text_bytes += sum(map(num_utf8_bytes, batch.texts))
        if len(without):
            self.text_bytes -= sum(num_utf8_bytes(batch.texts[i]) for i in without.tolist())
            for part, record in batch.origins()[without].tolist():
                self._drop("no_tokens", (part, record, ""))

    def _drop(self, reason: str, example: Example) -> None:
        """One document that goes into no row."""
        self._dropped[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _NUM_EXAMPLES:
            examples.append(example)

    def report(
        self, shards: tuple[ShardEntry, ...], *, documents_cut: int, padding: int
    ) -> UnitReport:
        """All of it, and what is known of the rows."""
        return UnitReport(
            shards=shards,
            documents=self.documents,
            documents_cut=documents_cut,
            text_bytes=self.text_bytes,
            tokens=self.tokens,
            padding=padding,
            dropped=dict(sorted(self._dropped.items())),
            examples=self._examples,
            records=self.records,
        )


def _name_documents(pieces: PieceWriter, batch: DocumentBatch, lengths: Counts) -> None:
    """Tells where the documents come from that hold ids: those that the packer gets."""
    kept = np.flatnonzero(lengths)
    pieces.add_documents(batch.origins()[kept], [batch.ids[number] for number in kept.tolist()])


def _checked_ids(tokenizer: Tokenizer, texts: Sequence[Text]) -> tuple[Tokens, Counts]:
    """(T,) ids and (n,) int64 counts of the texts, special ids apart."""
    ids, lengths = encoded(tokenizer, texts)
    _check_ids(tokenizer, ids, lengths, len(texts))
    return ids, lengths.astype(np.int64)  # one more each for the end id must not wrap


def _check_ids(tokenizer: Tokenizer, ids: Tokens, lengths: Counts, num_texts: int) -> None:
    """Refuses what a tokenizer of others should not give, before it is cast to the rows' dtype."""
    gave = f"tokenizer {tokenizer.name!r} gave"
    for name, values in (("ids", ids), ("counts", lengths)):
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        if not isinstance(kind, np.dtype) or kind.kind not in "iu" or values.ndim != 1:
            raise RecipeError(
                f"{gave} {name} of dtype {kind} and shape {np.shape(values)}; encode gives a flat "
                f"array of ids and one of counts, both of integers."
            )
    if len(lengths) != num_texts or lengths.min(initial=0) < 0 or lengths.sum() != len(ids):
        faults = "some negative" if lengths.min(initial=0) < 0 else f"that sum to {lengths.sum()}"
        raise RecipeError(
            f"{gave} {len(ids)} ids, but {len(lengths)} counts {faults}, for {num_texts} texts; "
            f"encode gives for each text how many ids it has."
        )
    lowest, highest = int(ids.min(initial=0)), int(ids.max(initial=0))
    if lowest < 0 or highest >= tokenizer.vocab_size:
        raise RecipeError(
            f"{gave} id {lowest if lowest < 0 else highest}, but states a vocabulary of "
            f"{tokenizer.vocab_size}; mend its encode or its vocab_size."
        )
