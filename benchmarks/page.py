"""results/*.json of the questions with peers -> the tables of README.md between their marks."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from side_by_side import shown

HERE = Path(__file__).parent
START, END = "<!-- peers: python benchmarks/page.py -->", "<!-- end of peers -->"
QUESTIONS = ("throughput", "start", "live_change", "fidelity", "shuffle")


def main() -> None:
    readme = HERE / "README.md"
    before, mark, rest = readme.read_text().partition(START)
    if not mark:
        raise SystemExit(f"{readme} has no line {START}; give the tables a place.")
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{START}\n{page(HERE / 'results')}\n{END}{after}")


def page(results: Path) -> str:
    """The tables of all questions that have results."""
    paths = [results / f"{name}.json" for name in QUESTIONS]
    found = [section(json.loads(path.read_text())) for path in paths if path.is_file()]
    return "\n".join([whole_run(results / "run.json"), limits(), *found])


def whole_run(path: Path) -> str:
    """What the run of all questions took, and how well it agrees with the one before."""
    if not path.is_file():
        return ""
    run = json.loads(path.read_text())
    parts = ", ".join(f"{name} {taken:.1f}" for name, taken in run["minutes"].items())
    found, others = run["agreement"], run["agreement"]["others"]
    median = found["median of new over old"]
    changed = "".join(f"- {what}: {change:.2f}\n" for what, change in others.items())
    agreed = f"{found['within a quarter']} of {found['ratios']} ratios of throughput lie within"
    more = (
        f" (new over old, the median: {median:.2f}). The others:\n\n{changed}" if median else ".\n"
    )
    return (
        f"\n### one run\n\n`{run['command']}` took {run['minutes_in_all']:.1f} minutes "
        f"({parts}; the last two side by side).\n"
        f"{agreed} a quarter of those that were committed before it{more}"
    )


def limits() -> str:
    """What each adapter says of its peer, read without importing it."""
    lines = []
    for path in sorted((HERE / "peers").glob("[a-z]*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and "LACKS" in ast.unparse(node.targets[0]):
                _, lacks = ast.literal_eval(node.value)
                lines.append(f"- {path.stem}: {lacks}")
    return "\n### what each cannot do\n\n" + "\n".join(lines) + "\n"


def section(found: dict[str, Any]) -> str:
    """One question: command, machine, tables, and what could not be run with its reason."""
    machine = ", ".join(
        f"{name} {value.partition(', ')[0].rpartition('==')[2]}"
        for name, value in found["machine"].items()
    )
    tables = "\n".join(table(each) for each in found["tables"])
    failures = "\n".join(f"- {what}: {why}" for what, why in found["failures"].items())
    missing = f"\nWhat has no number, and why:\n\n{failures}\n" if failures else ""
    return f"\n### {found['question']}\n\n`{found['command']}`  \n{machine}\n\n{tables}{missing}"


def table(found: dict[str, Any]) -> str:
    """One table in Markdown."""
    lines = [found["columns"], ["---"] * len(found["columns"])]
    lines += [[shown(cell).replace("|", "/") for cell in row] for row in found["rows"]]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{found['title']}:\n\n{text}\n"


if __name__ == "__main__":
    main()
