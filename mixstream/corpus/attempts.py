"""A unit, wherever it runs and however often -> one finished folder, here or in remote storage.

On many machines a unit may run twice at the same time: Ray starts one again whose machine does not
answer, and the machine may live. So every attempt has a folder of its own, and the first that ends
gives it the unit's name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from mixstream.corpus.dedup import DEDUP, read_repeats
from mixstream.corpus.engines import Tell
from mixstream.corpus.plan import Unit
from mixstream.corpus.recipe import RowSettings
from mixstream.corpus.shard import sync_folder
from mixstream.corpus.unit import UnitReport, run_unit
from mixstream.corpus.upload import Upload
from mixstream.errors import RecipeError, ShardError

__all__ = ["Attempt", "remove_attempts"]

_MARK = ".attempt-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What is run for each unit; it is picklable.

    Raises:
        RecipeError: the work folder is not there, on the machine that is to write to it.
        SourceError, ShardError: what run_unit raises, and Upload.stage.
    """

    settings: RowSettings
    work: Path
    """The work folder: of this machine, or one that all machines share."""
    upload: Upload | None
    """Where finished units go; None for the work folder."""
    is_elsewhere: bool
    """Whether it may run on another machine; then nothing but `upload` and the raw files, or the
    work folder without `upload`, is the same there."""

    def __call__(self, unit: Unit, tell: Tell | None = None) -> UnitReport:
        """Converts one unit."""
        if self.upload is not None and self.is_elsewhere:
            with tempfile.TemporaryDirectory(prefix="mixstream-") as scratch:
                return self._run(unit, Path(scratch), tell)
        if self.is_elsewhere and not (self.work / "recipe.json").exists():
            raise RecipeError(
                f"{self.work} is not there on {os.uname().nodename}; name an output folder that "
                f"all machines of the cluster share, or one of remote storage."
            )
        return self._run(unit, self.work, tell)

    def _run(self, unit: Unit, parent: Path, tell: Tell | None) -> UnitReport:
        folder = parent / f"{unit.digest}{_MARK}{secrets.token_hex(4)}"
        is_deduped = self.settings.dedup is not None
        repeats = read_repeats(unit, self.work / DEDUP) if is_deduped else None
        report = run_unit(unit, self.settings, folder, tell, repeats)
        if self.upload is None:
            _adopt(folder, self.work / unit.digest)
        else:
            self.upload.stage(unit.digest, folder, report)
            shutil.rmtree(folder)
        return report


def anywhere(unit: Unit) -> Unit:
    """The same unit for processes that start in another folder."""
    parts = tuple(replace(part, path=part.path.absolute()) for part in unit.parts)
    return replace(unit, parts=parts)


def remove_attempts(work: Path) -> None:
    """Removes what killed attempts left behind."""
    for path in work.glob(f"*{_MARK}*"):
        shutil.rmtree(path, ignore_errors=True)


def _adopt(folder: Path, final: Path) -> None:
    """Gives a finished attempt the unit's name, unless another one has it."""
    for _ in range(3):
        try:
            os.rename(folder, final)
        except OSError as error:
            if not final.exists():
                raise ShardError(f"cannot write {final}: {error.strerror}") from error
            if (final / "unit.json").exists():
                shutil.rmtree(folder)
                return
            shutil.rmtree(final, ignore_errors=True)  # of a run that was killed, without attempts
        else:
            sync_folder(final.parent)
            return
    raise ShardError(f"cannot write {final}: others write to it. Run the same again.")
