"""Colours that people can see, and part."""

import itertools
import re
from importlib.resources import files

import numpy as np
import pytest

from mixstream.plot import palette
from mixstream.plot.palette import INK, MUTED, OTHERS, OTHERS_AREA, STYLES, contrast

EYES = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""Linear RGB as an eye sees it. Source: Machado, Oliveira, Fernandes 2009, severity 1.0."""


def lab(colour, eye):
    """CIE Lab (D65) of "#rrggbb" in an eye."""
    seen = np.clip(np.array(EYES[eye]) @ palette._linear(colour), 0, 1)
    xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                    [0.0193339, 0.1191920, 0.9503041]]) @ seen / [0.95047, 1, 1.08883]  # fmt: skip
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#ffffff", "#ffffff") == 1
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colour", [INK, MUTED])
def test_text_can_be_read_on_white(colour):
    assert contrast(colour, "#ffffff") >= 4.5


@pytest.mark.parametrize("style", [*STYLES, OTHERS])
def test_lines_can_be_seen_on_white_and_on_the_range_of_the_others(style):
    assert contrast(style.colour, "#ffffff") >= 3
    assert contrast(style.colour, OTHERS_AREA) >= 2


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("others", [OTHERS.colour, OTHERS_AREA])
def test_any_two_colours_part_in_every_eye(eye, others):
    seen = [lab(colour, eye) for colour in (*(style.colour for style in STYLES), others)]
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - other) >= 19


def test_the_page_of_watch_has_text_of_enough_contrast():
    style = files("mixstream.watch").joinpath("page.css").read_text()
    named = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style))
    for name in ("ink", "muted", "good", "bad"):
        assert contrast(named[name], "#ffffff") >= 4.5
    assert contrast(named["muted"], "#eeeeee") >= 4.5, "a disabled button"
    assert "#apply { background: #002ca6; border-color: #002ca6; color: #ffffff; }" in style
    assert contrast("#ffffff", "#002ca6") >= 4.5
