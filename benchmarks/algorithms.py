"""How long does an update of 10,000 domains take? The floor is a softmax of as many numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from harness import Line, in_turns, least, parser, report

from mixstream import algorithms as methods
from mixstream.algorithms.simplex import bounded_projection, softmax

NUM_DOMAINS = 10_000
CALLS_A_ROUND = 5


def main() -> None:
    settings = parser(__doc__ or "").parse_args()
    calls = updates(NUM_DOMAINS // 100 if settings.quick else NUM_DOMAINS)
    best = least(in_turns(calls, rounds=2 if settings.quick else 20), CALLS_A_ROUND)
    floor_seconds = best.pop("softmax")
    with report("algorithms", settings) as lines:
        for name, seconds in best.items():
            note = "" if seconds < 0.010 else "above 10 ms"
            lines.add(
                Line(
                    name=name,
                    seconds=seconds,
                    floor_seconds=floor_seconds,
                    floor="softmax",
                    note=note,
                )
            )


def updates(num_domains: int) -> dict[str, Callable[[], object]]:
    """An update of each method that is meant for so many, and of what they share."""
    random = np.random.default_rng(0)
    start, signal = random.random((2, num_domains)) + 0.1
    rows = random.integers(1, 9, num_domains).astype(float)
    basis = random.random((16, num_domains))
    caps = np.full(num_domains, 2 / num_domains)
    diagonal = random.random(num_domains)
    through = methods.DGA(np.ones(16), step_size=0.5, ema=0.1, update_every=1, basis=basis)
    calls = {
        "softmax": lambda: softmax(signal),
        "capped_weights": lambda: methods.capped_weights(start / start.sum(), caps),
        "bounded_projection": lambda: bounded_projection(signal, upper=0.01),
        "DGA with a basis of 16": lambda: through.update(signal[:16]),
    }
    made: dict[str, methods.Algorithm] = {
        "DoReMi": methods.DoReMi(start),
        "Skill-it, diagonal graph": methods.SkillIt(diagonal, step_size=0.5),
        "AutoScale": methods.AutoScale(start, 2 * start),
        "DGA": methods.DGA(start, step_size=0.5, ema=0.1, update_every=1),
        "importance sampling": methods.ImportanceSampling(num_domains, smoothing=0.5),
        "DoGE": methods.DoGE(start, mu=1.0),
        "GRAPE, one task": methods.GRAPE(start, 1, mu=1.0, task_mu=1.0),
        "ODM": methods.ODM(start),
        "UniMax": methods.UniMax(num_domains, budget=100.0),
        "temperature": methods.TemperatureSampling(num_domains, temperature=2.0),
    }
    for name, method in made.items():
        argument = 1e6 if name == "AutoScale" else signal
        calls[name] = lambda method=method, argument=argument: method.update(argument)
    ado, pike = methods.ADO(start), methods.PiKE(start, zeta1=0.5, zeta2=0.1, batch_size=8)
    calls["ADO between fits"] = lambda: ado.update(signal, rows)
    calls["PiKE"] = lambda: pike.update(signal, signal)
    return {name: repeated(call) for name, call in calls.items()}


def repeated(call: Callable[[], object]) -> Callable[[], object]:
    """The call some times over, for the clock's sake."""

    def calls() -> None:
        for _ in range(CALLS_A_ROUND):
            call()

    return calls


if __name__ == "__main__":
    main()
