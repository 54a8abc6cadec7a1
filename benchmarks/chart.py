"""results/throughput.json and fidelity.json -> results/peers.png: speed, and clumps in batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from side_by_side import shown

RESULTS = Path(__file__).parent / "results"
COLOURS = {"ours": "#0b6e4f", "memcpy": "#b8b8b8", "bare_gather": "#b8b8b8"}


def main(results: Path = RESULTS) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 5), layout="constrained")
    speeds = rows_of(results / "throughput.json", 0)
    for axes, what, title in (
        (left, "centre", "no workers"),
        (middle, "num_workers=2", "2 workers"),
    ):
        found = [(row[1], row[3]) for row in speeds if row[0] == what]
        bars(axes, found, f"M tokens a CPU-second, {title} (log)")
        axes.set_xscale("log")
    batches = rows_of(results / "fidelity.json", 1)
    most = max((row[1:3] for row in batches), default=[0, 1])
    clumps = [(row[0], row[6]) for row in batches if row[1:3] == most]
    where = f"{most[0]} workers, {most[1]} ranks"
    bars(right, clumps, f"chi-square a round, {where}\n(1: independent)")
    right.axvline(1, color="#888888", linewidth=1)
    figure.savefig(results / "peers.png", dpi=110)
    pyplot.close(figure)


def rows_of(path: Path, table: int) -> list[list[Any]]:
    """The rows of one table of one question."""
    rows: list[list[Any]] = json.loads(path.read_text())["tables"][table]["rows"]
    return rows


def bars(axes: Any, found: list[tuple[str, float]], title: str) -> None:
    """Contenders from the most to the least."""
    found = sorted(found, key=lambda pair: pair[1])
    names = [name for name, _ in found]
    axes.barh(
        names,
        [value for _, value in found],
        color=[COLOURS.get(name.partition(",")[0], "#3f72af") for name in names],
    )
    for place, (_, value) in enumerate(found):
        axes.text(value, place, f" {shown(float(value))}", va="center", fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
