"""The colours of the domains, and the number that says whether people can see them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mixstream.arrays import Vector

__all__ = ["GRID", "INK", "MUTED", "OTHERS", "OTHERS_AREA", "STYLES", "Style", "contrast"]


class Style(NamedTuple):
    """How one domain is painted; its name always stands beside its colour."""

    colour: str
    """Of its surface and of its line, "#rrggbb"."""
    dash: tuple[int, ...]
    """On and off lengths of its line, in line widths; empty for a whole line."""


# Found by a search over the RGB cube near Paul Tol's hues (SRON/EPS/TN/09-002): every colour has a
# contrast of at least 3 on white, and any two of them (and the grey) are at least 19 CIE Lab units
# apart to normal, protan, deutan and tritan eyes (Machado et al. 2009); Okabe and Ito's are 16.
# Dark and light take turns, so that neighbours in a stack part.
STYLES = (
    Style("#002ca6", ()),
    Style("#00a69b", ()),
    Style("#590043", ()),
    Style("#d36459", ()),
    Style("#166f90", (5, 2)),
    Style("#9b9000", (5, 2)),
    Style("#004e0b", (2, 2)),
    Style("#c86fc8", (2, 2)),
)
"""Of the named domains, in order."""

OTHERS = Style("#5c5c5c", (1, 2))
"""Of the domains that are not named, as a line."""

OTHERS_AREA = "#d3d3d3"
"""And as a surface."""

INK = "#222222"
"""Of titles, labels and numbers."""

MUTED = "#595959"
"""Of axes, notes and units."""

GRID = "#e4e4e4"
"""Of lines that only guide the eye."""


def contrast(one: str, other: str) -> float:
    """How much two colours differ in luminance: 1 (not at all) to 21 (black on white).

    Source: WCAG 2.2, "contrast ratio"; text wants 4.5, lines and marks 3.
    """
    luminances = [_linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other)]
    return float((max(luminances) + 0.05) / (min(luminances) + 0.05))


def _linear(colour: str) -> Vector:
    """(3,) linear red, green and blue of "#rrggbb", in [0, 1]."""
    encoded = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    low = encoded <= 0.04045
    return np.asarray(np.where(low, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4))
