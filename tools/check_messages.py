"""Refuses error messages that would print wrong: python tools/check_messages.py FOLDER...

Two slips that nothing else finds: a comma between two strings makes the message a tuple, and a
forgotten `f` prints `{name}` to the user.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_FIELD = re.compile(r"\{[a-zA-Z_][\w.\[\]()!:,]*\}")


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of every raise in a module."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        texts = [argument for argument in node.exc.args if _is_text(argument)]
        if len(texts) > 1:
            yield node.lineno, "two strings in one raise: a comma where none belongs?"
        for text in texts:
            for part in ast.walk(text):
                if _is_literal(part) and _FIELD.search(part.value):
                    yield part.lineno, f"no f before {part.value!r}"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or _is_literal(node)


def _is_literal(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def main(folders: list[str]) -> int:
    """Prints every fault; 1 if there is any."""
    found = [
        f"{path}:{line}: {what}"
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for line, what in faults(ast.parse(path.read_text(encoding="utf-8")))
    ]
    print("\n".join(found) or f"messages of {', '.join(folders)}: fine")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
