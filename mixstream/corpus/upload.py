"""Finished units -> a corpus in remote storage, whose work folder lies there as well.

OUT/.mixstream holds `recipe.json` and `inputs.json` (what was asked for) and for each finished unit
a folder as unit.py writes it, with `files.json` (size and xxh3_64 of each file) and, last of all,
`unit.json`. So any machine goes on where another stopped. At the end every shard is copied, within
the store, to its final name; then come the indexes, then corpus.json, and the work folder is
removed. Of what is uploaded nothing stays on this machine. An append keeps what it reads of the
corpus and then writes over (indexes, provenance, hashes) in OUT/.mixstream/base, before its
`recipe.json`: so it begins with the same wherever it is started again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import orjson

from mixstream.corpus.commit import grouped_moves
from mixstream.corpus.dedup import DEDUP
from mixstream.corpus.inputs import INPUTS
from mixstream.corpus.jsonfile import Json, json_object, write_json
from mixstream.corpus.object_store import ObjectFolder, file_digests, write_error
from mixstream.corpus.remote import RemotePath
from mixstream.corpus.retry import tried
from mixstream.corpus.shard import write_whole
from mixstream.corpus.storage import StorageSettings
from mixstream.corpus.stores import STORE_SCHEMES, open_store
from mixstream.corpus.unit import UnitReport
from mixstream.errors import RecipeError, ShardMissingError

__all__ = ["Begun", "Upload", "default_work_folder"]

_STAGE = ".mixstream/"
_BASE = f"{_STAGE}base/"
_REPORT, _FILES = "unit.json", "files.json"
_THREADS = 8
"""Requests at the same time: copies and small files take a store a tenth of a second each."""


def default_work_folder(remote: RemotePath) -> Path:
    """Where this machine keeps what is not uploaded yet."""
    name = hashlib.blake2b(remote.url.encode(), digest_size=8).hexdigest()
    return Path.home() / ".cache" / "mixstream" / "convert" / name


Begun: TypeAlias = "tuple[dict[str, object], dict[str, object] | None]"
"""recipe.json and inputs.json of unfinished work; older versions wrote no inputs.json."""


class Upload:
    """A remote OUT; may be pickled, and used by many threads.

    Args:
        remote: the corpus.
        settings: how long its store is waited for.

    Raises:
        RecipeError: its scheme is one that is not written to.
    """

    def __init__(self, remote: RemotePath, settings: StorageSettings | None = None) -> None:
        self.remote, self._settings = remote, settings or StorageSettings()
        self._opened: ObjectFolder | None = None
        if remote.scheme not in STORE_SCHEMES:
            raise RecipeError(
                f"{remote} cannot be written to; mixstream converts to a folder or to "
                f"{', '.join(f'{each}://' for each in STORE_SCHEMES)}. Convert to a folder, and "
                f"copy it."
            )

    def __reduce__(self) -> tuple[object, ...]:
        return Upload, (self.remote, self._settings)

    @property
    def _folder(self) -> ObjectFolder:
        if self._opened is None:
            store = tried(
                lambda: open_store(self.remote, self._settings.timeout_seconds),
                self._settings,
                self.remote,
                lambda failed: write_error(failed, self.remote),
            )
            self._opened = ObjectFolder(self.remote, store, self._settings)
        return self._opened

    def fetch_manifest(self, local: Path) -> None:
        """Make `local` hold the corpus.json and inputs.json that OUT holds, or none.

        Raises:
            RecipeError: OUT holds neither a corpus nor unfinished work, but something else.
        """
        manifest = self._folder.read("corpus.json")
        if manifest is not None:
            local.mkdir(parents=True, exist_ok=True)
            write_whole(local / "corpus.json", (manifest,))
            if not self._folder.fetch(INPUTS, local / INPUTS):
                (local / INPUTS).unlink(missing_ok=True)
            return
        for name in ("corpus.json", INPUTS):
            (local / name).unlink(missing_ok=True)
        if self._folder.read(f"{_STAGE}recipe.json") is None:
            strangers = [name for name in self._folder.names() if not name.startswith(_STAGE)]
            if strangers:
                raise RecipeError(
                    f"{self.remote} holds {', '.join(strangers[:3])}, which is no unfinished work "
                    f"of mixstream convert; name a new or empty folder."
                )

    def appended_to(self) -> str | None:
        """Fingerprint of the corpus that unfinished work in OUT appends to; None if it does not."""
        recipe = self._folder.read(f"{_STAGE}recipe.json")
        if recipe is None:
            return None
        found = json_object(recipe, f"{self.remote / _STAGE}recipe.json").get("append_to")
        return found if isinstance(found, str) else None

    def fetch_base(self, names: Sequence[str], local: Path, *, is_begun: bool) -> None:
        """Bring files of the corpus that is appended to here.

        Args:
            names: of the files that are there.
            local: where to; what it held goes.
            is_begun: whether an append has begun: then they are as `keep_base` kept them.
        """
        shutil.rmtree(local, ignore_errors=True)
        for name in names:
            kept = f"{_BASE}{name}" if is_begun else name
            if not self._folder.fetch(kept, local / name):
                raise ShardMissingError(
                    f"{self.remote / kept} is not there, but corpus.json says that it was written: "
                    f"somebody else removed it. Upload it again, or convert again."
                )

    def keep_base(self, names: Sequence[str], local: Path) -> None:
        """Keep these files in OUT's work folder while an append goes on, which writes over them."""
        for name in names:
            self._folder.put(f"{_BASE}{name}", local / name)

    def begin(self, work: Path) -> Begun | None:
        """Make the local work folder know the units that are finished in OUT, and no others.

        Args:
            work: holds recipe.json and inputs.json of what is asked for, and is locked.

        Returns:
            Those of the unfinished work in OUT, which have to be the same; None where there was
            none, and now is.
        """
        recipe = self._folder.read(f"{_STAGE}recipe.json")
        if recipe is not None:
            (work / "commit.json").unlink(missing_ok=True)
            self.fetch_reports(work)
            inputs = self._folder.read(_STAGE + INPUTS)
            return (
                json_object(recipe, f"{self.remote / _STAGE}recipe.json"),
                None if inputs is None else json_object(inputs, f"{self.remote / _STAGE}{INPUTS}"),
            )
        for path in work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        (work / "commit.json").unlink(missing_ok=True)
        self.note_inputs(work)
        self._folder.put(f"{_STAGE}recipe.json", work / "recipe.json")
        return None

    def note_inputs(self, work: Path) -> None:
        """Upload the inputs.json that the work goes on with."""
        self._folder.put(_STAGE + INPUTS, work / INPUTS)

    def fetch_reports(self, work: Path) -> None:
        """Bring each finished unit's small files here; a unit that is not finished goes."""
        there: dict[str, list[str]] = {}
        for name in self._folder.names(_STAGE):
            digest, slash, file = name.removeprefix(_STAGE).partition("/")
            if slash:
                there.setdefault(digest, []).append(file)
        finished = {digest: names for digest, names in there.items() if _REPORT in names}
        for path in work.iterdir():
            if path.is_dir() and path.name not in finished and path.name != DEDUP:
                shutil.rmtree(path)
        missing = [digest for digest in finished if not (work / digest / _REPORT).exists()]
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda one: self._fetch_unit(work / one, finished[one]), missing))

    def _fetch_unit(self, folder: Path, names: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        for name in sorted(names, key=lambda each: each == _REPORT):
            if not _is_shard(name):
                content = self._folder.read(f"{_STAGE}{folder.name}/{name}")
                assert content is not None, f"{name} of {folder.name} was listed"
                write_whole(folder / name, (content,))

    def stage(self, digest: str, folder: Path, report: UnitReport) -> None:
        """Upload a unit that has been converted into `folder`; its unit.json comes last.

        Raises:
            ShardError: it cannot be written, or is not what was sent.
        """
        entries = [shard.zip or shard.raw for shard in report.shards]
        hashes = {entry.name: dict(entry.hashes)["xxh3_64"] for entry in entries}
        kept = hashes.keys() | {path.name for path in folder.iterdir() if not _is_shard(path.name)}
        names = sorted(kept - {_REPORT})
        write_json(folder / _FILES, {name: _size_and_hash(folder / name) for name in names})
        with ThreadPoolExecutor(min(_THREADS, 2)) as threads:  # each sends at the network's speed
            list(
                threads.map(
                    lambda name: self._folder.put(
                        f"{_STAGE}{digest}/{name}", folder / name, hashes.get(name)
                    ),
                    names,
                )
            )
        for name in (_FILES, _REPORT):
            self._folder.put(f"{_STAGE}{digest}/{name}", folder / name)

    def place(self, local: Path, work: Path) -> None:
        """Give every file its final name in the promised order, and `local` the corpus.json.

        Raises:
            ShardError: it cannot be written, or is not what was uploaded.
        """
        for moves in grouped_moves(work):
            with ThreadPoolExecutor(_THREADS) as threads:
                list(threads.map(lambda move: self._place_one(work, *move), moves))
        for name in (INPUTS, "corpus.json"):
            shutil.copyfile(work / "final" / name, local / name)

    def _place_one(self, work: Path, source: str, target: str) -> None:
        digest, _, name = source.partition("/")
        if not (work / digest / _FILES).exists():
            self._folder.put(target, work / source)
            return
        files: Mapping[str, tuple[int, str]] = orjson.loads((work / digest / _FILES).read_bytes())
        num_bytes, xxh3 = files[name]
        self._folder.copy(f"{_STAGE}{source}", target, num_bytes=num_bytes, xxh3=xxh3)

    def clean(self) -> None:
        """Remove the work folder in OUT."""
        self._folder.remove(self._folder.names(_STAGE))


def _size_and_hash(path: Path) -> list[Json]:
    found = file_digests(path)
    return [found.num_bytes, found.xxh3]


def _is_shard(name: str) -> bool:
    return name.endswith((".mds", ".mds.zst"))
