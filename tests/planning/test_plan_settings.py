import pytest

from mixstream.errors import RecipeError
from mixstream.planning import PlanSettings

LEAST = {
    "num_nodes": 2,
    "ranks_per_node": 3,
    "batch_size": 4,
    "num_steps": 5,
    "bytes_per_second": 1e6,
    "step_seconds": 1.0,
}


def test_the_rows_of_a_run_follow():
    settings = PlanSettings(**LEAST)
    assert (settings.rows_per_step, settings.num_rows, settings.canonical) == (24, 120, 2)
    assert settings.simulated == 2
    assert PlanSettings(**LEAST | {"num_nodes": 100}).simulated == 8
    assert PlanSettings(**LEAST | {"num_nodes": 100, "simulated_nodes": 9}).simulated == 9


def test_the_prefetch_takes_half_of_the_cache_or_a_quarter_of_the_memory():
    assert PlanSettings(**LEAST).max_ahead_bytes is None
    assert PlanSettings(**LEAST, memory_bytes=80).max_ahead_bytes == 20
    assert PlanSettings(**LEAST, memory_bytes=80, cache_bytes=60).max_ahead_bytes == 30


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_nodes": 0}, "num_nodes is 0; give at least 1"),
        ({"max_ahead": -1}, "max_ahead is -1; give at least 0"),
        ({"cache_bytes": 0}, "cache_bytes is 0; give at least 1"),
        ({"step_seconds": 0.0}, "step_seconds is 0.0; give a number above 0"),
        ({"bytes_per_second": float("nan")}, "bytes_per_second is nan; give a number above 0"),
        ({"latency_seconds": -1.0}, "latency_seconds is -1.0; give a number of at least 0"),
        ({"num_canonical_nodes": 3}, "num_canonical_nodes is 3 with 2 nodes and 24 rows a step"),
        ({"num_canonical_nodes": 16}, "divides the rows of a step. Give 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed, message):
    with pytest.raises(RecipeError, match=message):
        PlanSettings(**LEAST | changed)
