"""How fast is `mixstream convert` beside datatrove, litdata and datasets with MDSWriter?

Each takes the same JSON lines (mixed_text.py) and the same tokenizer.json to ids on disk, with its
default tokenizer library and with the fast one (convert_peers/*.py), in a process of its own
that may start two more. Seconds are CPU seconds of all its processes from the first import on, the
median of rounds that go back and forth, or of one round where that takes half a minute; the floor
is ours as it comes. The wall and the peak of memory (PSS of all processes, ten times a second) are
in the notes; on a machine that others use as well, the wall says little. `start` is a conversion of
four documents; Python's byte code is kept, as an installed package has it. Ids are read back after
the first round: all contenders must have written as many of each. Ctrl-C after that round ends the
others, and what is there by then is told.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convert import with_bytecode
from convert_peers import DEFAULT, FAST, LIBRARIES, OURS, PEERS, Job
from harness import Line, parser, report
from install import ALL, HOME, install, python_of
from mixed_text import NUM_FILES, mixed_texts, train_tokenizer, write_raw
from process_tree import Taken, run_tree

HERE = Path(__file__).parent
ASKED_ONCE_SECONDS = 30.0
END_OF_TEXT = "<|endoftext|>"
ONE_THREAD = {
    "RAYON_NUM_THREADS": "1",
    "FASTOKENS_BPE_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Of a tokenizer library, in each of two processes."""


@dataclass
class Contender:
    """A converter with a tokenizer library, and what it took in each round."""

    peer: str
    library: str
    python: str
    start: Taken | None = None
    taken: list[Taken] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """On the page."""
        is_default = (self.library == DEFAULT) != (self.peer == OURS)
        default = " (its default)" if is_default else ""
        return f"{title(self.peer)}, {self.library} {version(self.library)}{default}"

    def run(self, job: Job, *, read_back: bool = False) -> Taken:
        """One conversion; its ids are read back, if that is asked for."""
        job = replace(job, library=self.library)
        taken = self._task("convert", job)
        if read_back:
            found = job.out.parent / "found.json"
            self._task("digest", job, found=str(found))
            self.found = json.loads(found.read_text())
        shutil.rmtree(job.out)
        return taken

    def _task(self, task: str, job: Job, **arguments: str) -> Taken:
        spec = {"peer": self.peer, "task": task, "job": asdict(job), **arguments}
        command = [
            self.python,
            "-W",
            "ignore",
            "-m",
            "convert_peers",
            json.dumps(spec, default=str),
        ]
        scratch = job.out.parent
        threads = {} if self.peer == OURS else ONE_THREAD  # ours shares the cores out itself
        return run_tree(command, env={**with_bytecode(scratch), **quiet(scratch), **threads})


def quiet(scratch: Path) -> dict[str, str]:
    """No network, and every cache in the scratch folder."""
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent))),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(scratch / "hf"),
        "DATA_OPTIMIZER_CACHE_FOLDER": str(scratch / "litdata"),
        "DATA_OPTIMIZER_DATA_CACHE_FOLDER": str(scratch / "litdata-data"),
    }


def title(peer: str) -> str:
    """What its adapter calls it, read without importing it, with its version."""
    text = (HERE / "convert_peers" / f"{peer}.py").read_text()
    line = next(line for line in text.splitlines() if line.startswith("TITLE = "))
    name, _, what = line.partition('"')[2].rstrip('"').partition(" ")
    found = "".join(ALL[peer][:1]).partition("==")[2] or version("mixstream")
    return f"{name} {found} {what}"


def contenders(settings: argparse.Namespace) -> list[Contender]:
    """Ours and all peers that are installed, each with each library; others are named.

    In `--quick`, where their imports take all of the time, peers come with their default alone.
    """
    found = [Contender(OURS, library, python_of("ours") or "") for library in (FAST, DEFAULT)]
    for peer in settings.peers:
        failure = "" if settings.quick or settings.no_install else install(peer, settings.home)
        python = python_of(peer, settings.home)
        if python is None:
            print(f"{peer}: not installed ({', '.join(ALL[peer])}) {failure}", flush=True)
        else:
            libraries = (DEFAULT,) if settings.quick else LIBRARIES
            found += [Contender(peer, library, python) for library in libraries]
    return found


def write_text(folder: Path, megabytes: int) -> tuple[Job, Path, float]:
    """A job over so much text, the folder of a few documents, and how many MB it is."""
    # peers take the spelled end of text in a document for the token; we do not
    texts = [text.replace(END_OF_TEXT, "") for text in mixed_texts(megabytes * 10**6)]
    tokenizer = folder / "tokenizer.json"
    train_tokenizer(texts, tokenizer)
    write_raw(folder / "raw", "jsonl", texts)
    write_raw(folder / "little", "jsonl", texts[:NUM_FILES])
    ids = {
        each["content"]: each["id"] for each in json.loads(tokenizer.read_text())["added_tokens"]
    }
    job = Job(
        raw=folder / "raw",
        out=folder / "out",
        tokenizer=tokenizer,
        end_id=ids[END_OF_TEXT],
        end_of_text=END_OF_TEXT,
    )
    return job, folder / "little", sum(len(text.encode()) for text in texts) / 1e6


def check_equal(all_of: list[Contender]) -> None:
    """Ends the run if one wrote other ids than we did."""
    for each in all_of:
        if each.found != all_of[0].found:
            raise SystemExit(f"{each.name} wrote {each.found}, {all_of[0].name} {all_of[0].found}")


def line_of(one: Contender, ours: Contender, num_mb: float) -> Line:
    """One contender beside ours."""
    assert one.start is not None
    seconds, cpus = median_cpu(one), [each.cpu for each in one.taken]
    return Line(
        name=one.name,
        seconds=seconds,
        floor_seconds=median_cpu(ours),
        floor=ours.name,
        note=f"{num_mb / seconds:.1f} MB/CPU s, {one.start.cpu:.1f} s of it the start; "
        f"wall {statistics.median(each.wall for each in one.taken):.1f} s with 2 workers, "
        f"peak {max(each.peak_bytes for each in one.taken) / 2**20:,.0f} MiB; "
        f"most/least of {len(cpus)} {max(cpus) / min(cpus):.2f}; "
        f"{one.found['tokens']:,} ids of {num_mb:.0f} MB",
    )


def median_cpu(one: Contender) -> float:
    """CPU seconds of its rounds."""
    return statistics.median(each.cpu for each in one.taken)


def take_turns(all_of: list[Contender], job: Job, what: str) -> None:
    """One conversion of each, in this order; those that take long do no second one."""
    for each in all_of:
        if each.taken and each.taken[0].cpu > ASKED_ONCE_SECONDS:
            continue
        each.taken.append(each.run(job, read_back=not each.taken))
        print(f"  {what}: {each.name}: {each.taken[-1]}", flush=True)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=int, default=104, help="of text")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    arguments.add_argument("--home", type=Path, default=HOME, help="their environments")
    arguments.add_argument("--no-install", action="store_true", help="take what is installed")
    settings = arguments.parse_args()
    megabytes, rounds = (2, 1) if settings.quick else (settings.megabytes, settings.rounds)
    all_of = contenders(settings)
    with report("convert_side_by_side", settings) as lines, tempfile.TemporaryDirectory() as name:
        job, little, num_mb = write_text(Path(name), megabytes)
        for each in all_of:
            for _ in range(1 if settings.quick else 2):  # the first compiles
                each.start = each.run(replace(job, raw=little))
            print(f"  start: {each.name}: {each.start}", flush=True)
        take_turns(all_of, job, "round 0")
        with suppress(KeyboardInterrupt):
            for number in range(1, rounds):
                take_turns(all_of[:: 1 if number % 2 == 0 else -1], job, f"round {number}")
        check_equal(all_of)
        for each in all_of:
            lines.add(line_of(each, all_of[0], num_mb))


if __name__ == "__main__":
    main()
