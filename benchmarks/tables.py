"""results/*.json -> the tables of README.md, between its marks; no number is written by hand."""

from __future__ import annotations

import json
from pathlib import Path

from harness import Line, rate_text, ratio_text, time_text

HERE = Path(__file__).parent
START, END = "<!-- tables: python benchmarks/tables.py -->", "<!-- end of tables -->"
QUESTIONS = (
    "draw",
    "gather",
    "loader",
    "step",
    "constant_cost",
    "convert",
    "convert_side_by_side",
    "tokenizer_backends",
    "run_log",
    "ring",
    "algorithms",
    "ranks",
    "remote",
    "remote_stock",
    "storage",
    "gpu",
)


def main() -> None:
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(START)
    after = rest.partition(END)[2]
    tables = "\n".join(table(HERE / "results" / f"{question}.json") for question in QUESTIONS)
    readme.write_text(f"{before}{START}\n{tables}\n{END}{after}")


def table(path: Path) -> str:
    """One question's lines, with the machine and the command that they come from.

    Where there are no results yet, it says so.
    """
    if not path.is_file():
        return f"\n### {path.stem}\n\nNo results yet: `{command_for(path)}`\n"
    results = json.loads(path.read_text())
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    rows = "\n".join(cells(Line(**line)) for line in results["lines"])
    return (
        f"\n### {results['question']}\n\n`{results['command']}`  \n{machine}\n\n"
        "| what | time | rows/s | floor | floor time | ratio | |\n"
        f"| --- | ---: | ---: | --- | ---: | ---: | --- |\n{rows}\n"
    )


def command_for(path: Path) -> str:
    """What writes them."""
    return f"python benchmarks/{path.stem}.py --json benchmarks/results/{path.name}"


def cells(line: Line) -> str:
    rate = rate_text(line.rows / line.seconds) if line.rows else ""
    time, floor_time = time_text(line.seconds).strip(), time_text(line.floor_seconds).strip()
    values = (line.name, time, rate, line.floor, floor_time, ratio_text(line), line.note)
    return f"| {' | '.join(values)} |"


if __name__ == "__main__":
    main()
