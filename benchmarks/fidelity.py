"""Is the mix as asked, in every batch and over workers and ranks; and is a resume exact?

Long-run shares are the easy part: the table of batches shows who clumps. Chi-square per degree of
freedom is 1 for independent draws and 0 for exact shares; a *round* is what all workers of all
ranks make at once, where draws that repeat each other show. Four domains at .5/.25/.15/.1, B = 32.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from marked_rows import weights_of, write_marked
from mixture_statistics import (
    Marks,
    chi_square,
    equal_batches,
    keys,
    repeated,
    rounds,
    share_error,
)
from peers import OURS, Job
from side_by_side import Contest, Page, peer_parser

SEQ_LEN, BATCH_SIZE, RESUME_STEPS = 16, 32, 20
WEIGHTS = weights_of(4)
POINT = np.array(list(WEIGHTS.values()))
Place = tuple[int, int]  # workers of each rank, ranks
RESUMES: dict[Place, tuple[Place, ...]] = {
    (0, 1): ((0, 1), (2, 1), (0, 2)),
    (2, 1): ((2, 1), (3, 1)),
    (0, 2): ((0, 2), (0, 1)),
    (2, 2): (),
}


def main() -> None:
    settings = peer_parser(__doc__ or "").parse_args()
    page = Page("fidelity")
    own_shares(page, 10**5 if settings.quick else 10**7)
    places = {(0, 1): ((2, 1),)} if settings.quick else RESUMES
    num_rows, num_steps = (2000, 60) if settings.quick else (32_000, 1000)
    with (
        tempfile.TemporaryDirectory() as folder,
        Contest(page, Path(folder), (OURS, *settings.peers), settings.home) as contest,
    ):
        source = Path(folder) / "corpus" / "source"
        write_marked(source, dict.fromkeys(WEIGHTS, num_rows), seq_len=SEQ_LEN)
        able = contest.write(source, weights=WEIGHTS, seq_len=SEQ_LEN)
        jobs = {
            name: contest.job(name, source, weights=WEIGHTS, seq_len=SEQ_LEN, num_steps=num_steps)
            for name in able
        }
        variants = [(name, name, job) for name, job in jobs.items()]
        stratified = replace(jobs[OURS], options={"sampling": "stratified"})
        recorded(contest, [*variants, ("ours, stratified", OURS, stratified)], places)
    if settings.json:
        page.write(settings.json, " ".join(["python", *sys.argv]))


def own_shares(page: Page, most: int) -> None:
    """Asked against drawn share of long runs, from the sampler alone."""
    from mixstream import MixSampler

    page.table(
        "Asked against drawn share, MixSampler alone (error: the largest over the domains)",
        ["sampling", "rows", "error", "of an independent draw's standard deviation"],
    )
    layout = {name: np.full(100, 10_000) for name in WEIGHTS}
    for sampling, stratum in (("independent", None), ("stratified", BATCH_SIZE)):
        sampler = MixSampler(layout, WEIGHTS, seed=17, sampling=sampling, stratum=stratum)
        counts, done = np.zeros(4), 0
        for end in 10 ** np.arange(2, int(np.log10(most)) + 1):
            while done < end:
                part = sampler.take(min(int(end) - done, 1 << 16))["domain"]
                counts += np.bincount(part, minlength=4)
                done += part.size
            error = np.abs(counts / done - POINT)
            sigmas = error / np.sqrt(POINT * (1 - POINT) / done)
            page.add(sampling, done, float(error.max()), float(sigmas.max()))


def recorded(
    contest: Contest,
    variants: list[tuple[str, str, Job]],
    places: dict[Place, tuple[Place, ...]],
) -> None:
    """Streams everybody at each place, and resumes them at others."""
    most_ranks = max(num_ranks for _, num_ranks in places)
    needed = 2 * RESUME_STEPS * most_ranks
    assert all(job.num_steps >= needed for _, _, job in variants), "a run outlasts its resume"
    found = {
        (title, place): record(contest, name, job, place, save=bool(targets))
        for place, targets in places.items()
        for title, name, job in variants
    }
    contest.page.table(
        "Composition of batches (chi-square per degree of freedom: 1 independent, 0 exact)",
        [
            "contender",
            "workers",
            "ranks",
            "rows",
            "share error",
            "batches",
            "rounds",
            "equal ranks",
        ],
    )
    for (title, place), marks in found.items():
        if marks:
            composition(contest.page, title, place, marks)
    contest.page.table(
        "Resume in the middle (shares of the rows after it)",
        [
            "contender",
            "workers",
            "ranks",
            "then workers",
            "ranks",
            "repeated",
            "as if never stopped",
            "same order",
        ],
    )
    for (title, place), marks in found.items():
        name, job = next((name, job) for each, name, job in variants if each == title)
        for target in places[place] if marks else ():
            resume(contest, title, name, job, (place, target), marks or [])


def record(
    contest: Contest,
    name: str,
    job: Job,
    place: Place,
    *,
    save: bool = False,
    states: list[str] | None = None,
    steps: int | None = None,
) -> list[Marks] | None:
    """What every rank delivers, (steps, B, 2) each; its state after some steps is kept."""
    num_workers, num_ranks = place
    folder = Path(tempfile.mkdtemp(dir=contest.work))
    jobs = [
        replace(
            job,
            num_workers=num_workers,
            rank=rank,
            world_size=num_ranks,
            num_steps=job.num_steps // num_ranks,  # the same rows in all, whoever reads them
        )
        for rank in range(num_ranks)
    ]
    arguments: list[dict[str, Any]] = []
    for rank in range(num_ranks):
        each: dict[str, Any] = {"marks": str(folder / f"{rank}.npy"), "steps": steps}
        if states is not None:
            each["state"] = states[rank % len(states)]
        if save:
            kept = _state(contest, name, job, place, rank)
            each |= {"save_state": str(kept), "save_at": RESUME_STEPS}
        arguments.append(each)
    found = contest.run_ranks(name, "record", jobs, arguments)
    if found is None:
        return None
    for each in found[:1]:
        if each["state_error"]:
            contest.failed(name, f"state, {num_workers} workers", each["state_error"])
    return [np.load(each["marks"]) for each in arguments]


def composition(page: Page, title: str, place: Place, marks: list[Marks]) -> None:
    """The line of one contender at one place."""
    domains = np.concatenate([each[..., 0] for each in marks])
    page.add(
        title,
        *place,
        domains.size,
        share_error(domains.ravel(), POINT),
        chi_square(domains, POINT),
        chi_square(rounds(marks, place[0]), POINT),
        equal_batches(marks),
    )


def resume(
    contest: Contest,
    title: str,
    name: str,
    job: Job,
    places: tuple[Place, Place],
    marks: list[Marks],
) -> None:
    """Goes on elsewhere from the states of a run, and compares with the run that went on."""
    start, target = places
    states = [_state(contest, name, job, start, rank) for rank in range(start[1])]
    if not all(state.exists() for state in states):
        contest.page.add(title, *start, *target, "has no state", None, None)
        return
    num_steps = RESUME_STEPS * start[1] // target[1]
    paths = [str(state) for state in states]
    found = record(contest, name, job, target, states=paths, steps=num_steps)
    if found is None:
        contest.page.add(title, *start, *target, "refused or failed", None, None)
        return
    before = _global(each[:RESUME_STEPS] for each in marks)
    coming = _global(each[RESUME_STEPS : 2 * RESUME_STEPS] for each in marks)
    after = _global(found)
    contest.page.add(
        title,
        *start,
        *target,
        repeated(before, after),
        float(np.isin(keys(after), keys(coming)).mean()),
        "yes" if np.array_equal(after, coming) else "no",
    )


def _global(marks: Iterable[Marks]) -> Marks:
    """(steps, B, 2) a rank -> (n, 2), global batch after global batch, while all ranks have one."""
    ranks = list(marks)
    num_steps = min(len(each) for each in ranks)
    return np.stack([each[:num_steps] for each in ranks], axis=1).reshape(-1, 2)


def _state(contest: Contest, name: str, job: Job, place: Place, rank: int) -> Path:
    kind = "-".join(map(str, job.options.values()))
    return contest.work / f"state-{name}-{kind}-{place[0]}-{place[1]}-{rank}"


if __name__ == "__main__":
    main()
