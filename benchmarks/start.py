"""From opening to the first batch: time and peak memory, at the start and at the middle of a run.

10^4 to 10^9 rows over four domains, and 10^6 rows over 1 to 4,096. Large corpora are linked (see
linked_corpus.py): ours and MosaicML Streaming read the same MDS shards, the others the same sparse
arrays (StatefulDataLoader's order is the hand-written one, which stands for both); peers with
formats of their own are measured up to the size that they wrote. Imports are not counted. Memory is
that of a process that has imported the peer itself, the first of three rounds from the start. No
process may take more than 4 GiB above its imports; who fails, or takes more than 15 seconds, is
asked for no larger size. Who takes more than three seconds is asked once, and from the start alone.
The state at the middle must be there within 30 seconds, where a peer has to go there to have it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from linked_corpus import write_linked
from marked_rows import write_marked
from peers import OURS, Job
from side_by_side import Contest, Page, median, peer_parser, spread

SEQ_LEN, BATCH_SIZE, LIMIT_BYTES = 16, 32, 4 << 30
ASKED_ONCE_SECONDS, LIMIT_SECONDS, STATE_SECONDS = 3.0, 15.0, 30.0
LINKED = (  # what reads MDS or .npy as it lies
    OURS,
    "mosaicml_streaming",
    "hand_written",
    "torchdata_nodes",
    "grain_map",
)
COLUMNS = ["rows", "domains", "contender", "from", "ms", "spread", "peak MiB above imports"]


def main() -> None:
    settings = peer_parser(__doc__ or "").parse_args()
    page = Page("start")
    page.table("From opening to the first batch", COLUMNS)
    written = 10**4 if settings.quick else 10**5
    sizes = [(written, 4)]
    sizes += [(10**6, 4)] if settings.quick else [(10**n, 4) for n in (4, 6, 7, 8, 9)]
    sizes += [] if settings.quick else [(10**6, 1), (10**6, 64), (10**6, 4096)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Contest(
            page, Path(folder), (OURS, *settings.peers), settings.home, LIMIT_SECONDS
        ) as contest,
    ):
        left_out: set[tuple[str, bool, int]] = set()  # who failed at another size, or takes long
        for place, (num_rows, num_domains) in enumerate(sizes):
            corpus = Path(folder) / "corpus"
            linked = place > 0
            contest.point = f"{num_rows:,} rows, {num_domains:,} domains"
            jobs = jobs_over(contest, corpus, num_rows, num_domains, linked=linked)
            for middle in (False,) if settings.quick and linked else (False, True):
                able = {
                    name: job
                    for name, job in jobs.items()
                    if (name, middle, num_domains) not in left_out
                }
                rounds = 1 if settings.quick else 3
                found = started(contest, able, middle=middle, rounds=rounds)
                for name in able:
                    if name not in found:
                        left_out |= {(name, each, num_domains) for each in (middle, True)}
                    elif not middle and found[name] > ASKED_ONCE_SECONDS:
                        left_out.add((name, True, num_domains))
                        reason = f"takes {found[name]:.0f} s from the start already"
                        contest.failed(name, "the middle", reason)
                        if found[name] > LIMIT_SECONDS:
                            left_out.add((name, False, num_domains))
                            contest.failed(name, "more rows", reason)
            shutil.rmtree(corpus)
    if settings.json:
        page.write(settings.json, " ".join(["python", *sys.argv]))


def jobs_over(
    contest: Contest, corpus: Path, num_rows: int, num_domains: int, *, linked: bool
) -> dict[str, Job]:
    """A corpus of that size, and the jobs of those who can read it."""
    names = [f"d{index:04}" for index in range(num_domains)]
    weights = dict.fromkeys(names, 1 / num_domains)
    source = corpus / "source"
    if linked:
        write_linked(corpus, num_rows, num_domains, seq_len=SEQ_LEN)
        able = [name for name in contest.names if name in LINKED]
    else:
        write_marked(source, dict.fromkeys(names, num_rows // num_domains), seq_len=SEQ_LEN)
        able = contest.write(source, weights=weights, seq_len=SEQ_LEN)
    jobs = {}
    for name in able:
        num_steps = num_rows // BATCH_SIZE
        job = contest.job(name, source, weights=weights, seq_len=SEQ_LEN, num_steps=num_steps)
        jobs[name] = replace(job, folder=corpus) if linked else job
    return jobs


def started(
    contest: Contest, jobs: dict[str, Job], *, middle: bool, rounds: int
) -> dict[str, float]:
    """A line, and the seconds, a contender; who fails at a size is kept with the reason."""
    jobs = dict(jobs)
    states: dict[str, str] = {}
    if middle:
        for name, job in list(jobs.items()):
            path = contest.work / f"state-{name}"
            arguments = {"save_state": str(path), "limit_bytes": LIMIT_BYTES}
            made = contest.run(
                name, "state_at_middle", job, limit_seconds=STATE_SECONDS, **arguments
            )
            if made is None:
                del jobs[name]
            states[name] = str(path)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name in list(found)[:: 1 if number % 2 == 0 else -1]:
            if found[name] and found[name][0]["seconds"] > ASKED_ONCE_SECONDS:
                continue
            arguments = {"state": states.get(name), "limit_bytes": LIMIT_BYTES}
            afresh = number == 0 and not middle
            run = contest.run(name, "first_batch", jobs[name], afresh=afresh, **arguments)
            if run is None:
                del found[name]
            else:
                found[name].append(run)
    for name, runs in found.items():
        job = jobs[name]
        contest.page.add(
            job.num_rows,
            len(job.weights),
            name,
            "the middle" if middle else "the start",
            median(runs, "seconds") * 1e3,
            spread([run["seconds"] for run in runs]) if len(runs) > 1 else None,
            None if middle else round(runs[0]["peak_bytes"] / 2**20, 1),
        )
    return {name: median(runs, "seconds") for name, runs in found.items()}


if __name__ == "__main__":
    main()
