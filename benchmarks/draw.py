"""How fast are rows drawn and addressed, beside what draws the domains alone?

`numpy.random.Generator.choice(p=)` and `torch.multinomial` draw as many domains; they know no
rows, no epochs, no canonical nodes and no place to go back to.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from harness import Line, Report, in_turns, least, parser, report

from mixstream import MixSampler
from mixstream.arrays import Counts, Vector

FLOOR = "numpy choice(p=), domains alone"
NUM_ROWS, MAX_BATCHES = 1 << 16, 256
"""What each contender draws in a round, whichever is less."""


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    with report("draw", settings) as lines:
        for num_domains in (4, 22, 256, 4096):
            for batch_size in (16384, 4096, 256, 32):
                num_batches, rounds = min(NUM_ROWS // batch_size, MAX_BATCHES), 25
                if settings.quick:
                    num_batches, rounds = max(num_batches // 8, 1), 2
                compare(lines, num_domains, batch_size, (num_batches, rounds))


def compare(lines: Report, num_domains: int, batch_size: int, repeats: tuple[int, int]) -> None:
    """A line a contender for one number of domains and one batch size."""
    num_batches, rounds = repeats
    weights = np.random.default_rng(num_domains).dirichlet(np.full(num_domains, 2.0))
    small, large = layout(num_domains, 4), layout(num_domains, 32)
    samplers = {
        "independent": MixSampler(small, weights),
        "stratified": MixSampler(small, weights, sampling="stratified", stratum=batch_size),
        "independent, 8 blocks a domain": MixSampler(large, weights),
        "independent, 16 nodes": MixSampler(small, weights, num_canonical_nodes=16),
    }
    steps: dict[str, Callable[[], object]] = {
        f"take {name}": lambda sampler=sampler: sampler.take(batch_size)
        for name, sampler in samplers.items()
    }
    steps |= peers(weights, batch_size)
    calls = {name: lambda step=step: repeat(step, num_batches) for name, step in steps.items()}
    best = least(in_turns(calls, rounds=rounds), num_batches)
    floor_seconds = best.pop(FLOOR)
    for name, seconds in best.items():
        lines.add(
            Line(
                name=f"{name} K={num_domains} B={batch_size}",
                seconds=seconds,
                floor_seconds=floor_seconds,
                floor=FLOOR,
                rows=batch_size,
            )
        )


def layout(num_domains: int, num_shards: int) -> dict[str, Counts]:
    """Shards of 65,536 rows: 4 are one shuffle block of the default size, 32 are 8."""
    return {f"d{d:04}": np.full(num_shards, 1 << 16) for d in range(num_domains)}


def peers(weights: Vector, batch_size: int) -> dict[str, Callable[[], object]]:
    """The domain draw alone, by others."""
    generator = np.random.default_rng(0)
    tensor, torch_generator = torch.from_numpy(weights), torch.Generator()
    return {
        FLOOR: lambda: generator.choice(len(weights), size=batch_size, p=weights),
        "torch.multinomial, domains alone": lambda: torch.multinomial(
            tensor, batch_size, replacement=True, generator=torch_generator
        ),
    }


def repeat(step: Callable[[], object], num_times: int) -> None:
    for _ in range(num_times):
        step()


if __name__ == "__main__":
    main()
