"""What an online update of 10,000 domains costs: nothing that grows faster than they do.

The promise is under 10 ms; benchmarks/algorithms.py measures it. Here the best of many calls is
held against ten times as much, which a busy machine keeps and a Python loop over domains, or a
(K, K) product, does not.
"""

import time

import numpy as np
import pytest

from mixstream import algorithms as methods
from mixstream.algorithms.ado import MAX_BLOCKS
from mixstream.errors import StateError

NUM_DOMAINS = 10_000
MOST_SECONDS = 0.1
CALLS = 25

_random = np.random.default_rng(0)
START, SIGNAL = _random.random((2, NUM_DOMAINS)) + 0.1
ROWS = _random.integers(1, 9, NUM_DOMAINS).astype(float)


def online_updates():
    """Of each online method that is meant for so many."""
    ado = methods.ADO(START, fit_every=10**9)
    pike = methods.PiKE(START, zeta1=0.5, zeta2=0.1, batch_size=8)
    grape = methods.GRAPE(START, 4, mu=1.0, task_mu=1.0)
    one_signal = {
        "doremi": methods.DoReMi(START),
        "doge": methods.DoGE(START, mu=1.0),
        "dga": methods.DGA(START, step_size=0.5, ema=0.1, update_every=1),
        "odm": methods.ODM(START),
        "skillit, diagonal": methods.SkillIt(START, step_size=0.5),
    }
    updates = {
        name: lambda method=method: method.update(SIGNAL) for name, method in one_signal.items()
    }
    return updates | {
        "ado": lambda: ado.update(SIGNAL, ROWS),
        "pike": lambda: pike.update(SIGNAL, SIGNAL),
        "grape": lambda: grape.update(np.tile(SIGNAL[:, np.newaxis], 4)),
    }


UPDATES = online_updates()


@pytest.mark.parametrize("name", UPDATES)
def test_the_best_of_many_updates_of_ten_thousand_domains_is_quick(name):
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        UPDATES[name]()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < MOST_SECONDS


def test_ado_fills_its_history_in_place_so_that_no_update_copies_it():
    """A copy of 512 blocks of 10,000 losses alone takes 10 ms."""
    ado = methods.ADO(START, fit_from=0, fit_every=10**9, block_steps=1)
    history = ado._history
    for count in range(1, MAX_BLOCKS):
        ado.update(SIGNAL, ROWS)
        assert ado._history is history
        assert ado._num_blocks == count
    ado.update(SIGNAL, ROWS)
    assert ado._history is history
    assert ado._num_blocks == MAX_BLOCKS // 2, "pairs were merged"


def test_ado_refuses_a_state_with_more_blocks_than_it_keeps():
    ado = methods.ADO([0.5, 0.5], fit_from=0, fit_every=10**9, block_steps=1)
    for _ in range(10):
        ado.update([1.0, 2.0], [3, 4])
    state = ado.state_dict()
    assert len(state["blocks"]) == 10
    state["blocks"] = state["blocks"] * 52
    with pytest.raises(StateError, match="blocks are 520, at most 511 are kept"):
        ado.load_state_dict(state)
