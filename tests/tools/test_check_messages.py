"""The check of error messages finds what it is for, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "tools" / "check_messages.py"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ('raise ValueError("a", "b")', "two strings in one raise"),
        ('raise ValueError(f"{x}", "b")', "two strings in one raise"),
        ('raise ValueError("no such {name}")', "no f before"),
        ('raise ValueError(f"a {x} " "and {name!r}")', "no f before"),
        ('raise ValueError(f"a {x} and {y!r:.80}")', None),
        ('raise OSError(2, "b")', None),
        ('raise ValueError("{} and {0: braces of a text")', None),
    ],
)
def test_a_message_that_would_print_wrong_is_found(tmp_path, code, fault):
    (tmp_path / "module.py").write_text(f"x = y = name = 1\n{code}\n")
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == (fault is not None)
    if fault is not None:
        assert f"module.py:2: {fault}" in result.stdout
