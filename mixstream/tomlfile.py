"""A TOML file -> its values, or an error that names the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mixstream.errors import RecipeError

__all__ = ["read_toml"]


def read_toml(path: Path) -> dict[str, Any]:
    """The top table of a file.

    Raises:
        RecipeError: it cannot be read, or is no TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        top: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no TOML: {error}.") from error
    return top
