"""Runs and their picture as SVG -> one HTML page that needs nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from mixstream.plot.charts import Charts
from mixstream.plot.groups import printable
from mixstream.plot.panels import note_of
from mixstream.runlog import Run

__all__ = ["page_of"]

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 1.5rem; font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff }}
svg {{ max-width: 100%; height: auto }}
table {{ border-collapse: collapse; margin: 0.5rem 0 1.5rem }}
th, td {{ padding: 0.15rem 1rem 0.15rem 0; text-align: left; vertical-align: top }}
th {{ font-weight: 600; color: #595959 }}
h2 {{ margin: 1.5rem 0 0; font-size: 1.2rem }}
</style>
</head>
<body>
<figure style="margin: 0" role="img" aria-label="{label}">
{svg}
</figure>
{tables}
</body>
</html>
"""


def page_of(runs: Sequence[Run], charts: Sequence[Charts], svg: str) -> str:
    """The picture, and for each run what it was and each change of its weights in full.

    Args:
        runs: at least one.
        charts: of the same runs.
        svg: the picture, as matplotlib writes it.
    """
    names = ", ".join(printable(run.name, 60) for run in charts)
    picture = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)  # no XML declaration inside HTML
    return _PAGE.format(
        title=html.escape(f"{names} - mixstream"),
        label=html.escape(f"Charts of {names}: weights, drawn shares, signals and epochs by step"),
        svg=picture,
        tables="\n".join(_tables(run, chart) for run, chart in zip(runs, charts, strict=True)),
    )


def _tables(run: Run, charts: Charts) -> str:
    start, settings = run.start, run.start["settings"]
    facts = {
        "log": str(run.path),
        "corpus": start["corpus"],
        "seed": settings["seed"],
        "rows a step": f"{run.shapes[-1].batch_size} x {run.shapes[-1].world_size} ranks",
        "tokens a row": start["seq_len"],
        "steps": f"{run.last_step:,}",
    }
    rows = [
        f"<tr><th>{key}</th><td>{html.escape(str(value))}</td></tr>" for key, value in facts.items()
    ]
    changes = [f"<li>{html.escape(note_of(mark))}</li>" for mark in charts.marks]
    return (
        f"<h2>{html.escape(printable(charts.name, 60))}</h2>\n<table>{''.join(rows)}</table>\n"
        f"<ol>{''.join(changes)}</ol>"
    )
