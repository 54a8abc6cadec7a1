"""OUT and an engine, as a user names them -> where units run, where they go, and what comes last.

OUT is a folder, or one of remote storage; then a local folder stands in for it, which holds what
is not uploaded yet, and at the end corpus.json.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mixstream.arrays import Counts
from mixstream.corpus.attempts import Attempt, anywhere, remove_attempts
from mixstream.corpus.commit import move_into_place
from mixstream.corpus.dedup import DEDUP, read_repeats
from mixstream.corpus.engines import Tell, run_all
from mixstream.corpus.plan import Unit
from mixstream.corpus.ray_engine import run_on_ray
from mixstream.corpus.recipe import RowSettings
from mixstream.corpus.remote import RemotePath, as_folder
from mixstream.corpus.unit import UnitReport, run_unit
from mixstream.corpus.upload import Begun, Upload, default_work_folder
from mixstream.errors import RecipeError

__all__ = ["ENGINES", "Output", "open_output"]

ENGINES = ("local", "ray")
"""What runs units: processes of this machine, or a Ray cluster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where a conversion goes, and what runs it."""

    folder: Path
    """OUT, or the local folder that stands in for it."""
    upload: Upload | None
    """What is behind a remote OUT."""
    engine: str
    """One of ENGINES."""
    address: str | None
    """Of the Ray cluster."""

    @property
    def shown(self) -> Path | str:
        """OUT as `open_corpus` takes it."""
        return self.folder if self.upload is None else self.upload.remote.url

    @property
    def at(self) -> Path | RemotePath:
        """OUT itself."""
        return self.folder if self.upload is None else self.upload.remote

    def fetch_manifest(self) -> None:
        """Make `folder` hold the corpus.json of a remote OUT, or none. Raises as Upload does."""
        if self.upload is not None:
            self.upload.fetch_manifest(self.folder)

    def begin(self, work: Path) -> Begun | None:
        """Make the locked work folder know what is finished.

        Returns:
            What unfinished work in a remote OUT was begun with; see Upload.begin.
        """
        remove_attempts(work)
        return None if self.upload is None else self.upload.begin(work)

    def appended_to(self) -> str | None:
        """Fingerprint of the corpus that unfinished work in a remote OUT appends to, if it does."""
        return None if self.upload is None else self.upload.appended_to()

    def note_inputs(self, work: Path) -> None:
        """Make the work folder of a remote OUT know the inputs of this one."""
        assert self.upload is not None, "it was begun"
        self.upload.note_inputs(work)

    def run(
        self,
        units: Sequence[Unit],
        settings: RowSettings,
        work: Path,
        *,
        workers: int,
        on_counts: Callable[[Counts], None] | None,
    ) -> Iterator[tuple[Unit, UnitReport]]:
        """Runs units, each into its own folder of `work`, and yields each as it ends.

        Raises:
            What run_unit, run_all, run_on_ray and Upload raise.
        """
        if self.engine == "local" and self.upload is None:
            yield from run_all(
                partial(_run_here, settings=settings, work=work),
                units,
                workers=workers,
                on_counts=on_counts,
            )
            return
        attempt = Attempt(
            settings=settings,
            work=work.absolute(),
            upload=self.upload,
            is_elsewhere=self.engine == "ray",
        )
        if self.engine == "ray":
            movable = {unit.digest: unit for unit in units}
            tasks = [anywhere(unit) for unit in units]
            for task, report in run_on_ray(
                attempt, tasks, address=self.address, on_counts=on_counts
            ):
                yield movable[task.digest], report
        else:
            yield from run_all(attempt, units, workers=workers, on_counts=on_counts)
        if self.upload is not None:
            self.upload.fetch_reports(work)

    def each(
        self, task: Callable[[Unit, Tell], object], units: Sequence[Unit], workers: int
    ) -> None:
        """Runs another task of every unit; raises what run_all and run_on_ray raise."""
        if self.engine == "ray":
            tasks = [anywhere(unit) for unit in units]
            for _ in run_on_ray(task, tasks, address=self.address):
                pass
        else:
            for _ in run_all(task, units, workers=workers):
                pass

    def place(self, work: Path) -> None:
        """Gives every file its final name, as commit.json says."""
        if self.upload is None:
            move_into_place(self.folder, work)
        else:
            self.upload.place(self.folder, work)

    def clean(self) -> None:
        """Removes the work folder of a remote OUT."""
        if self.upload is not None:
            self.upload.clean()


def open_output(
    out: str | os.PathLike[str],
    *,
    engine: str,
    address: str | None,
    work: str | os.PathLike[str] | None,
    workers: int,
    memory: int | None,
) -> Output:
    """Checks what is asked for.

    Raises:
        RecipeError: settings that do not go together, or that would have no effect.
        ShardError: a URL whose scheme nobody knows.
    """
    if engine not in ENGINES:
        raise RecipeError(f"engine is {engine!r}; take {' or '.join(map(repr, ENGINES))}.")
    if engine == "local" and address is not None:
        raise RecipeError(
            f"address is {address!r}, which is a Ray cluster's, but engine is 'local'; take "
            f"engine 'ray', or leave address out."
        )
    if engine == "ray" and (workers != 1 or memory is not None):
        raise RecipeError(
            f"workers {workers} and memory {memory} are for engine 'local'; a Ray cluster runs a "
            f"unit on each of its cores and watches its own memory. Leave both out."
        )
    remote = as_folder(out)
    if isinstance(remote, RemotePath) and remote.scheme == "file":
        remote = Path(remote.url.removeprefix("file://"))
    if not isinstance(remote, RemotePath):
        if work is not None:
            raise RecipeError(
                f"work is {os.fspath(work)!r}, but {remote} is a local folder, which holds its own "
                f"unfinished work; leave work out."
            )
        return Output(folder=remote, upload=None, engine=engine, address=address)
    folder = default_work_folder(remote) if work is None else Path(work)
    return Output(folder=folder, upload=Upload(remote), engine=engine, address=address)


def _run_here(unit: Unit, tell: Tell, *, settings: RowSettings, work: Path) -> UnitReport:
    repeats = None if settings.dedup is None else read_repeats(unit, work / DEDUP)
    return run_unit(unit, settings, work / unit.digest, tell, repeats)
