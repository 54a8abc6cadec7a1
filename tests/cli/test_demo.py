"""The demo, as README's first command runs it."""

from __future__ import annotations

import re

import pytest

from mixstream.cli import main


@pytest.mark.slow
def test_the_demo_shows_the_change_where_it_says_it_does(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "felt from row 1,920, step 120" in printed
    assert "the next rows are the same: True" in printed
    table = printed.split("asked then")[1].split("\n\n")[0].splitlines()[1:]
    for line in table:
        asked, drawn, asked_then, drawn_then = map(float, line.split()[1:])
        # 1,920 rows a half: five standard deviations of a share of a half are 0.057
        assert abs(asked - drawn) < 0.06
        assert abs(asked_then - drawn_then) < 0.06
    assert len(re.findall(r"^steps +\d+-", printed, flags=re.MULTILINE)) == 12
    assert main(["verify", str(tmp_path / "corpus")]) == 0
