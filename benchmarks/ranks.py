"""What does a step's draw cost each rank, with 1 to 10,000 of them?

Every rank draws the global batch, B * W rows, and keeps its own B: nothing is sent, whatever W is.
With one canonical node for every 8 ranks its rows are dealt by node, which takes a sort. The floor
draws the domains alone, as many as the global batch has rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
from harness import Line, in_turns, least, parser, report

from mixstream import MixBatchSampler, MixSampler

NUM_DOMAINS, BATCH_SIZE, RANKS_A_NODE = 22, 8, 8
WORLD_SIZES = (1, 8, 64, 512, 4096, 10_000)
NUM_ROWS = 1 << 18
"""What each contender draws in a round, but at least four steps."""


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    world_sizes, rounds = (WORLD_SIZES[:3], 2) if settings.quick else (WORLD_SIZES, 9)
    with report("ranks", settings) as lines:
        for world_size in world_sizes:
            for line in compared(world_size, rounds):
                lines.add(line)


def compared(world_size: int, rounds: int) -> list[Line]:
    """One canonical node, and one for every 8 ranks, beside the floor."""
    global_batch = BATCH_SIZE * world_size
    num_steps = max(4, NUM_ROWS // global_batch // 16)
    weights = np.random.default_rng(0).dirichlet(np.full(NUM_DOMAINS, 2.0))
    layout = {f"d{d:02}": np.full(1000, 1 << 16) for d in range(NUM_DOMAINS)}
    calls: dict[str, Callable[[], object]] = {}
    for nodes in dict.fromkeys((1, max(1, world_size // RANKS_A_NODE))):
        sampler = MixSampler(layout, weights, num_canonical_nodes=nodes)
        batches = iter(
            MixBatchSampler(
                sampler, BATCH_SIZE, rank=world_size - 1, world_size=world_size, max_marks=2
            )
        )
        calls[f"W={world_size} B={BATCH_SIZE} C={nodes}"] = partial(run, batches, num_steps)
    generator = np.random.default_rng(0)

    def floor() -> None:
        for _ in range(num_steps):
            generator.choice(NUM_DOMAINS, size=global_batch, p=weights)

    best = least(in_turns(calls | {"floor": floor}, rounds=rounds), num_steps)
    floor_seconds = best.pop("floor")
    return [
        Line(
            name=name,
            seconds=seconds,
            floor_seconds=floor_seconds,
            floor="numpy choice(p=), domains alone",
            rows=global_batch,
            note=f"{seconds / global_batch * 1e9:.0f} ns a row of the global batch",
        )
        for name, seconds in best.items()
    ]


def run(batches: Iterator[object], num_steps: int) -> None:
    for _ in islice(batches, num_steps):
        pass


if __name__ == "__main__":
    main()
