"""Python's standard library -> five domains of real text, one in each shape that convert reads."""

from __future__ import annotations

import ast
import gzip
import io
import json
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from mixstream.errors import SourceError

__all__ = ["write_domains"]

_MAX_CODE_BYTES = 6_000_000
_MIN_TEXT_CHARACTERS = 80


def write_domains(raw: Path) -> dict[str, list[str]]:
    """Writes the domains as sub-folders of `raw`; the texts of each by name.

    `code` (source files), `comments` and `docstrings` (of those files), `reference` (the language
    reference) and `tables` (character tables of the encodings).

    Raises:
        SourceError: a Python without its library's source files.
    """
    library = Path(sysconfig.get_path("stdlib"))
    sources = list(_sources(library))
    if not sources:
        raise SourceError(
            f"{library} holds no Python source files; run the demo with a Python that has them."
        )
    texts = {
        "code": sources,
        "comments": [text for source in sources for text in _comments(source)],
        "docstrings": [text for source in sources for text in _docstrings(source)],
        "reference": _reference(),
        "tables": [_read(path) for path in sorted((library / "encodings").glob("*.py"))],
    }
    for domain, documents in texts.items():
        (raw / domain).mkdir(parents=True, exist_ok=True)
        _WRITERS[domain](raw / domain, documents)
    return texts


def _sources(library: Path) -> Iterator[str]:
    """Top-level modules and a few packages, up to some megabytes."""
    packages = ("asyncio", "email", "http", "importlib", "json", "logging", "xml", "unittest")
    paths = sorted(library.glob("*.py"))
    paths += [path for name in packages for path in sorted((library / name).rglob("*.py"))]
    num_bytes = 0
    for path in paths:
        source = _read(path)
        num_bytes += len(source)
        if num_bytes > _MAX_CODE_BYTES:
            return
        if len(source) >= _MIN_TEXT_CHARACTERS:
            yield source


def _read(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def _docstrings(source: str) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        if text and len(text) >= _MIN_TEXT_CHARACTERS:
            yield text


def _comments(source: str) -> Iterator[str]:
    """Runs of comment lines, without their signs."""
    held: list[str] = []
    last_line = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last_line + 1:
            yield from _long(held)
            held = []
        held.append(token.string.lstrip("#").strip())
        last_line = token.start[0]
    yield from _long(held)


def _long(lines: list[str]) -> Iterator[str]:
    text = "\n".join(lines)
    if len(text) >= _MIN_TEXT_CHARACTERS:
        yield text


def _reference() -> list[str]:
    from pydoc_data.topics import topics

    return [text for _, text in sorted(topics.items())]


def _jsonl(documents: Iterable[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()


def _write_txt(folder: Path, documents: list[str]) -> None:
    for number, text in enumerate(documents):
        (folder / f"{number:04}.txt").write_bytes(text.encode())


def _write_jsonl(folder: Path, documents: list[str]) -> None:
    (folder / "part-0.jsonl").write_bytes(_jsonl(documents))


def _write_gzip(folder: Path, documents: list[str]) -> None:
    (folder / "part-0.jsonl.gz").write_bytes(gzip.compress(_jsonl(documents)))


def _write_zstd(folder: Path, documents: list[str]) -> None:
    import zstandard

    content = zstandard.ZstdCompressor().compress(_jsonl(documents))
    (folder / "part-0.jsonl.zst").write_bytes(content)


def _write_parquet(folder: Path, documents: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": documents}), folder / "part-0.parquet")


_WRITERS = {
    "code": _write_zstd,
    "comments": _write_parquet,
    "docstrings": _write_gzip,
    "reference": _write_jsonl,
    "tables": _write_txt,
}
