"""versions.json of peers and of convert_peers -> a virtual environment each, ours behind its own.

A `.pth` file shows this interpreter's packages (torch, numpy) to each environment, so that a peer
brings only what it needs besides, and other versions where it must: its own come first.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PINNED: dict[str, list[str]] = json.loads((HERE / "peers" / "versions.json").read_text())
CONVERTERS: dict[str, list[str]] = json.loads((HERE / "convert_peers/versions.json").read_text())
ALL = {**PINNED, **CONVERTERS}
HOME = Path(os.environ.get("MIXSTREAM_BENCH", "~/.cache/mixstream-bench")).expanduser().absolute()
DONE = "installed.json"


def python_of(peer: str, home: Path = HOME) -> str | None:
    """The Python that runs a peer; None where its pinned versions are not installed."""
    if not ALL[peer]:
        return sys.executable
    done = home / peer / DONE
    if done.is_file() and json.loads(done.read_text()) == _wanted(peer):
        return str(home / peer / "bin" / "python")
    return None


def install(peer: str, home: Path = HOME) -> str:
    """Makes a peer's environment if it is not there; why not, or the empty text."""
    if python_of(peer, home) is not None:
        return ""
    folder = home / peer
    venv.EnvBuilder(with_pip=False, clear=True).create(folder)
    python = folder / "bin" / "python"
    own = next((folder / "lib").glob("python*/site-packages"))
    (own / "zz_behind.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    run = subprocess.run([*command, *ALL[peer]], capture_output=True, text=True, timeout=1200)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or ["pip said nothing"]
        return f"pip could not install {', '.join(ALL[peer])}: {lines[-1]}"
    (folder / DONE).write_text(json.dumps(_wanted(peer)))
    return ""


def _wanted(peer: str) -> list[str]:
    """What an environment must hold, and over which packages."""
    return [*ALL[peer], *site.getsitepackages()]


def main() -> None:
    for peer in ALL:
        print(f"{peer:<20} {install(peer) or 'installed'}", flush=True)


if __name__ == "__main__":
    main()
