"""The first lines of the package's files -> the file tree on README; `--write` puts it there."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- file tree: python tools/file_tree.py --write -->\n```text\n", "```\n"
_OTHERS = (
    ("tests/", "mirrors the package; servers/ are real ones on loopback"),
    ("tools/", "check: format, lint, types, imports, messages, tests; train_tiny.py; experiments/"),
    ("benchmarks/", "README.md, one file a question, results/ as JSON, peers/ side by side"),
)
_METHODS = "algorithms"
_WIDTH = 30


def first_line(path: Path) -> str:
    """The first line of a file's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].removesuffix(".")


def folder_lines(folder: Path, depth: int) -> list[str]:
    """A line for a package and one for each of its files and packages."""
    indent = "  " * depth
    lines = [f"{indent}{folder.name}/".ljust(_WIDTH) + first_line(folder / "__init__.py")]
    if folder.name == _METHODS:
        names = sorted(path.stem for path in folder.glob("[!_]*.py"))
        return [*lines, *wrapped(", ".join(names), indent + "  ")]
    lines += [
        f"{indent}  {path.name}".ljust(_WIDTH) + first_line(path)
        for path in sorted(folder.glob("[!_]*.py"))
    ]
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").exists():
            lines += folder_lines(path, depth + 1)
    return lines


def wrapped(text: str, indent: str) -> list[str]:
    """A text in lines of the tree's second column."""
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > 90:
            lines.append(indent.ljust(_WIDTH) + line.strip())
            line = ""
        line += f" {word}"
    return [*lines, indent.ljust(_WIDTH) + line.strip()]


def tree() -> str:
    """The whole tree."""
    lines = folder_lines(ROOT / "mixstream", 0)
    lines += [name.ljust(_WIDTH) + what for name, what in _OTHERS]
    return "".join(f"{line}\n" for line in lines)


def page() -> str:
    """README with the tree as the files are now."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    return before + START + tree() + END + rest.partition(END)[2]


if __name__ == "__main__":
    if "--write" in sys.argv:
        (ROOT / "README.md").write_text(page(), encoding="utf-8")
    else:
        print(tree(), end="")
