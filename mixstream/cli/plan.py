"""`mixstream plan`: what a run will download, hold and wait for, before there is one."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING

from mixstream.cli.arguments import at_least, num_bytes
from mixstream.cli.draw import parsed_weights
from mixstream.cli.table import table
from mixstream.errors import RecipeError

if TYPE_CHECKING:
    from mixstream.mixing.schedule import Schedule
    from mixstream.planning import Contents, Plan, PlanSettings

__all__ = ["add_command", "bandwidth", "plan_text"]

_RATE = re.compile(r"([0-9.]+(?:e[0-9]+)?)\s*(?:([kMGT]?)(i?)(bit|B))?(?:/s)?", re.ASCII)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "plan",
        help="simulate a run: downloads, cache, stalls, time to first batch",
        description="Runs the sampler, the prefetch and the cache's rules in simulated time. Reads "
        "the indexes, no data; or nothing, for a corpus that is only described. The limit on "
        "shards that a process has open (4,096; before Python 3.13 also a quarter of its file "
        "descriptors) is not modelled: beyond it the one used longest ago is closed, and opened "
        "again, which costs a download only where a small cache has evicted it. A node's ranks are "
        "taken to read as one process.",
    )
    parser.add_argument("corpus", metavar="CORPUS", nargs="?", help="a corpus, here or remote")
    parser.add_argument(
        "--synthetic",
        metavar="TEXT",
        help="in place of CORPUS: NAME=ROWS:SHARDS,... or a TOML file",
    )
    parser.add_argument("--seq-len", type=at_least(1), metavar="S", help="of --synthetic: 2048")
    _add_run(parser)
    _add_machines(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def _add_run(parser: argparse.ArgumentParser) -> None:
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights", nargs="+", metavar="NAME=W", help="every domain; default: share of the rows"
    )
    weights.add_argument("--schedule", metavar="FILE", help="a TOML file of planned weights")
    parser.add_argument("--steps", type=_count, required=True, metavar="N")
    parser.add_argument("--batch", type=at_least(1), required=True, metavar="B", help="of a rank")
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument("--step-seconds", type=_positive, metavar="T", help="that wait for no data")
    pace.add_argument(
        "--tokens-per-second", type=_positive, metavar="N", help="of all ranks, in place of that"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--sampling", choices=("independent", "stratified", "micro_batch"), default="independent"
    )
    parser.add_argument(
        "--max-epochs", type=_cap, nargs="+", metavar="[NAME=]N",
        help="passes over each domain, or over those named; its weight then goes to the others",
    )  # fmt: skip
    order = parser.add_mutually_exclusive_group()
    order.add_argument(
        "--block-rows", type=at_least(1), default=1 << 18, metavar="N",
        help="rows that are shuffled together; default: 262144",
    )  # fmt: skip
    order.add_argument("--no-shuffle", action="store_true", help="every domain in shard order")
    parser.add_argument(
        "--draw-rows", type=_count, default=10**8, metavar="N",
        help="rows that the sampler draws, before expected counts go on; default: 1e8",
    )  # fmt: skip


def _add_machines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=at_least(1), required=True, metavar="N")
    parser.add_argument("--ranks-per-node", type=at_least(1), required=True, metavar="R")
    parser.add_argument(
        "--bandwidth", type=bandwidth, required=True, metavar="X",
        help="from storage to a node: 10Gbit, 1.25GB, 800MiB a second",
    )  # fmt: skip
    parser.add_argument(
        "--latency", type=float, default=0.05, metavar="T", help="of a request; default: 0.05 s"
    )
    parser.add_argument(
        "--max-downloads", type=at_least(1), default=8, metavar="N", help="of a node; default: 8"
    )
    parser.add_argument("--cache-bytes", type=num_bytes, metavar="N", help="of a node, as in 2TiB")
    parser.add_argument("--memory", type=num_bytes, metavar="N", help="of a node, as in 1TiB")
    parser.add_argument(
        "--shards-ahead", type=at_least(0), default=64, metavar="N", help="default: 64"
    )
    parser.add_argument(
        "--canonical-nodes", type=at_least(1), metavar="C", help="default: as many as nodes"
    )
    parser.add_argument(
        "--simulate-nodes", type=at_least(1), metavar="N", help="default: all, but at most 8"
    )


def run(options: argparse.Namespace) -> int:
    """Plans, and prints."""
    from mixstream.planning import plan_run

    contents = _contents(options)
    plan = plan_run(contents, _weights(options), _settings(options, contents))
    print(json.dumps(plan.to_json(), indent=2) if options.json else plan_text(plan))
    return 0


def _contents(options: argparse.Namespace) -> Contents:
    from mixstream.planning import contents_of, described_contents

    if (options.corpus is None) == (options.synthetic is None):
        raise RecipeError("name a CORPUS, or describe one with --synthetic; one of the two.")
    if options.synthetic is not None:
        return described_contents(options.synthetic, seq_len=options.seq_len)
    if options.seq_len is not None:
        raise RecipeError("--seq-len has no effect on a CORPUS, whose rows have a length.")
    from mixstream.corpus.corpus import open_corpus

    return contents_of(open_corpus(options.corpus))


def _weights(options: argparse.Namespace) -> dict[str, float] | Schedule | None:
    if options.schedule is not None:
        from mixstream.mixing.schedule_file import read_schedule

        return read_schedule(options.schedule, num_steps=options.steps)
    return None if options.weights is None else parsed_weights(options.weights)


def _settings(options: argparse.Namespace, contents: Contents) -> PlanSettings:
    from mixstream.planning import PlanSettings

    rows = options.nodes * options.ranks_per_node * options.batch
    tokens_per_second = options.tokens_per_second or 1.0
    return PlanSettings(
        num_nodes=options.nodes,
        ranks_per_node=options.ranks_per_node,
        batch_size=options.batch,
        num_steps=options.steps,
        bytes_per_second=options.bandwidth,
        step_seconds=options.step_seconds or rows * contents.seq_len / tokens_per_second,
        num_canonical_nodes=options.canonical_nodes,
        latency_seconds=options.latency,
        max_downloads=options.max_downloads,
        cache_bytes=options.cache_bytes,
        memory_bytes=options.memory,
        max_ahead=options.shards_ahead,
        seed=options.seed,
        sampling=options.sampling,
        shuffle=not options.no_shuffle,
        shuffle_block_rows=options.block_rows,
        max_epochs=_max_epochs(options.max_epochs),
        drawn_rows=options.draw_rows,
        simulated_nodes=options.simulate_nodes,
    )


def _max_epochs(caps: list[tuple[str, int]] | None) -> int | dict[str, int] | None:
    """A cap for all domains has no name."""
    if caps is None:
        return None
    if len(caps) == 1 and not caps[0][0]:
        return caps[0][1]
    by_name = dict(caps)
    if "" in by_name or len(by_name) < len(caps):
        raise RecipeError(
            f"--max-epochs is {', '.join(f'{name}={cap}'.lstrip('=') for name, cap in caps)}; give "
            f"one number for all domains, or one NAME=N for each that has a limit."
        )
    return by_name


def plan_text(plan: Plan) -> str:
    """The plan for people."""
    from mixstream.planning.report import size_text

    expected = plan.num_rows - plan.num_drawn
    domains = [[each.name, round(each.rows), each.epochs, each.shards, each.shared_shards]
               for each in plan.domains]  # fmt: skip
    nodes = [[each.node, each.downloads, size_text(each.downloaded_bytes), each.downloads_again,
              size_text(each.cache_high_water_bytes), size_text(each.working_set_bytes)]
             for each in plan.nodes]  # fmt: skip
    seconds = plan.total_seconds - plan.first_batch_seconds
    share = plan.stall_seconds / seconds
    lines = [
        f"{plan.ranks:,} ranks on {plan.num_nodes:,} nodes, {plan.num_steps:,} steps, "
        f"{plan.num_rows:,} rows: {plan.num_drawn:,} drawn, {expected:,} as expected counts",
        "",
        table(["domain", "rows", "epochs", "shards", "of several nodes"], domains),
        "",
        table(["node", "downloads", "bytes", "again", "cache high-water", "read at once"], nodes),
        "" if len(nodes) == plan.num_nodes else f"({plan.num_nodes - len(nodes):,} more nodes)",
        f"shards downloaded twice  {plan.shards_downloaded_twice:,}"
        f"{' (bytes are estimates: the corpus is only described)' if plan.is_described else ''}",
        f"time to first batch      {_time(plan.first_batch_seconds)}, of which "
        f"{_time(plan.open_seconds)} to open the corpus",
        f"stalls after it          {_time(plan.stall_seconds)} in {plan.stalled_steps:,} steps "
        f"({share:.2%} of the run), the longest {_time(plan.longest_stall_seconds)}",
        f"storage to a node        {size_text(plan.needed_bytes_per_second)}/s needed, "
        f"{size_text(plan.bytes_per_second)}/s given",
        f"whole run                {_time(plan.total_seconds)}",
        *(f"- {sentence}" for sentence in plan.advice),
    ]
    return "\n".join(lines)


def bandwidth(text: str) -> float:
    """A type of argument: bytes a second.

    >>> bandwidth("10Gbit"), bandwidth("1.25GB/s"), bandwidth("1MiB")
    (1250000000.0, 1250000000.0, 1048576.0)
    """
    found = _RATE.fullmatch(text.strip())
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if found is None or number <= 0 or (found[3] and not found[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no bandwidth; give bytes a second, or as in 10Gbit, 1.25GB, 800MiB"
        )
    unit = (1024 if found[3] else 1000) ** " kMGT".index(found[2] or " ")
    return float(number * unit / (8 if found[4] == "bit" else 1))


def _count(text: str) -> int:
    """A type of argument: a whole number of at least 1, as in 100000 or 1e5."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (1 <= number < 2**62 and number == int(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1, as in 1e5")
    return int(number)


def _cap(text: str) -> tuple[str, int]:
    """A type of argument: ("", 3) for 3 and ("web", 3) for web=3."""
    name, _, number = text.rpartition("=")
    try:
        return name, _count(number)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not N or NAME=N, as in 1 or web=4"
        ) from error


def _positive(text: str) -> float:
    """A type of argument: a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _time(seconds: float) -> str:
    """Seconds for people."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.3g} s"
