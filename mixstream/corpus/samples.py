"""Raw files of all domains -> some real documents, to prove a tokenizer's back end on."""

from __future__ import annotations

from contextlib import suppress

from mixstream.corpus.recipe import Recipe
from mixstream.corpus.records import FilePart
from mixstream.corpus.sources import read_batches
from mixstream.errors import SourceError

__all__ = ["sample_texts"]

MAX_DOMAINS = 64
DOCUMENTS_PER_DOMAIN = 200


def sample_texts(recipe: Recipe) -> list[bytes]:
    """Documents of the first MiB of the first file that holds any, of up to 64 domains.

    Files that cannot be read give none here: the conversion itself says so.
    """
    names = list(recipe.files)
    step = -(-len(names) // MAX_DOMAINS)
    return [text for name in names[::step] for text in _of_domain(recipe, name)]


def _of_domain(recipe: Recipe, name: str) -> list[bytes]:
    settings = recipe.rows
    for _, path in recipe.files[name]:
        with suppress(SourceError):
            for batch in read_batches(
                FilePart(path),
                text_field=settings.text_field,
                max_document_bytes=settings.max_document_bytes,
            ):
                if batch.texts:
                    some = batch.texts[:: max(1, len(batch.texts) // DOCUMENTS_PER_DOMAIN)]
                    return [each.encode() if isinstance(each, str) else each for each in some]
    return []
