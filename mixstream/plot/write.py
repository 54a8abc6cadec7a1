"""Run logs -> one picture file, whole or absent."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from mixstream.errors import RecipeError
from mixstream.plot.charts import Charts, charts_of
from mixstream.plot.figure import FONTS, figure_of
from mixstream.plot.page import page_of
from mixstream.runlog import Run, read_run

__all__ = ["plot"]

_ENDINGS = (".png", ".svg", ".html")
_PNG_DOTS_AN_INCH = 150


def plot(
    runs: Sequence[Run | str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    steps: tuple[int, int] | None = None,
) -> Path:
    """Paints one or several runs side by side.

    Args:
        runs: runs, or paths of their logs; at least one.
        out: the picture; its ending is .png, .svg or .html (one file that holds all it needs).
        steps: the first step to show, and the one after the last; all if not given.

    Returns:
        The picture's path. The same logs give the same bytes.

    Raises:
        RecipeError: no run, another ending, no such folder, or no matplotlib.
        StateError: a file that is no run log, or steps that a run does not hold.
        OSError: a file cannot be read or written.
    """
    path = Path(out)
    if path.suffix.lower() not in _ENDINGS:
        raise RecipeError(
            f"the picture {str(path)!r} ends in {path.suffix!r}; give a name that ends in "
            f"{', '.join(_ENDINGS)}."
        )
    if not path.parent.is_dir():
        raise RecipeError(
            f"the folder {str(path.parent)!r} is not there; make it, or give the picture another "
            f"place."
        )
    if not runs:
        raise RecipeError("no run to plot; give at least one run log.")
    found = [run if isinstance(run, Run) else read_run(run) for run in runs]
    charts = [charts_of(run, steps=steps) for run in found]
    kind = path.suffix.lower()
    picture = _painted(charts, "svg" if kind == ".html" else kind[1:])
    if kind == ".html":
        picture = page_of(found, charts, picture.decode()).encode()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(picture)
    beside.replace(path)
    return path


def _painted(charts: Sequence[Charts], kind: str) -> bytes:
    """The bytes of a picture, "png" or "svg"."""
    try:
        import matplotlib
    except ImportError as error:
        raise RecipeError(
            "pictures need matplotlib: pip install 'mixstream[plot]', or 'matplotlib>=3.8'."
        ) from error
    picture = io.BytesIO()
    with matplotlib.rc_context(FONTS), warnings.catch_warnings():
        # a name in a script that the font lacks: boxes in a .png, and whole in the others
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        metadata = {"Date": None} if kind == "svg" else {}
        figure_of(charts).savefig(picture, format=kind, dpi=_PNG_DOTS_AN_INCH, metadata=metadata)
    return picture.getvalue()
