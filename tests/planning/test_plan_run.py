import json

import numpy as np
import pytest

from mixstream.errors import RecipeError, WeightsError
from mixstream.mixing.sampler import MixSampler
from mixstream.mixing.schedule import Schedule
from mixstream.planning import PlanSettings, described_contents, plan_run
from mixstream.planning.report import size_text

CORPUS = described_contents("web=40000:80,code=20000:40", seq_len=24)  # shards of 50,000 bytes
WEIGHTS = {"web": 0.7, "code": 0.3}


def plan_of(contents=CORPUS, weights=WEIGHTS, **changed):
    settings = {
        "num_nodes": 2,
        "ranks_per_node": 2,
        "batch_size": 4,
        "num_steps": 500,
        "bytes_per_second": 1e6,
        "latency_seconds": 0.0,
        "step_seconds": 0.1,
        "shuffle_block_rows": 2000,
        "seed": 5,
    } | changed
    return plan_run(contents, weights, PlanSettings(**settings))


def test_the_first_batch_waits_for_its_own_shards_alone():
    # one row a step and no prefetch: the first batch is one shard of 50,000 bytes
    alone = {"num_nodes": 1, "ranks_per_node": 1, "batch_size": 1, "max_ahead": 0}
    plan = plan_of(**alone, num_steps=1)
    assert plan.nodes[0].downloads == 1
    assert plan.first_batch_seconds - plan.open_seconds == pytest.approx(0.05)
    assert plan.total_seconds == pytest.approx(plan.first_batch_seconds + 0.1)
    slow = plan_of(**alone, num_steps=1, latency_seconds=2.0)
    # corpus.json, the indexes, and the shard
    assert slow.open_seconds == pytest.approx(plan.open_seconds + 4.0)
    assert slow.first_batch_seconds == pytest.approx(plan.first_batch_seconds + 6.0)


def test_counts_and_epochs_are_those_of_the_sampler():
    plan = plan_of()
    sampler = MixSampler(CORPUS.layout, WEIGHTS, seed=5, num_canonical_nodes=2)
    sampler.draw(500 * 16)
    assert [domain.rows for domain in plan.domains] == sampler.counts.tolist()
    assert [domain.epochs for domain in plan.domains] == sampler.epochs.tolist()
    assert (plan.num_drawn, plan.num_rows, plan.ranks) == (8000, 8000, 4)


def test_with_a_canonical_node_each_no_shard_is_downloaded_twice():
    plan = plan_of(num_steps=3750)  # an epoch of all rows together
    assert plan.shards_downloaded_twice == 0
    assert sum(node.shards for node in plan.nodes) == 120
    assert sum(node.downloaded_bytes for node in plan.nodes) == CORPUS.stored_bytes.sum()


def test_shards_of_several_nodes_are_told_and_counted():
    contents = described_contents("web=40000:80,few=900:2,tiny=1:1", seq_len=24)
    weights = {"web": 0.9, "few": 0.099, "tiny": 0.001}
    plan = plan_of(contents, weights, num_nodes=3, num_steps=2000)
    assert [domain.shared_shards for domain in plan.domains] == [0, 2, 1]
    assert plan.shards_of_two_nodes == plan.shards_downloaded_twice == 3
    assert "2 of 2 shards of domain 'few' are read by several nodes" in plan.advice[0]


def test_prefetch_hides_the_downloads_that_a_run_without_it_waits_for():
    lazy, eager = (plan_of(max_ahead=ahead, num_steps=3000) for ahead in (0, 8))
    assert lazy.stalled_steps > 30
    assert lazy.stall_seconds > 10 * eager.stall_seconds
    assert lazy.total_seconds > eager.total_seconds
    assert lazy.longest_stall_seconds > 0.05


def test_storage_that_is_too_slow_holds_the_run_back_by_what_it_lacks():
    # a node reads 8 rows of 100 bytes in 0.1 s: 2,000 steps take 200 s, and their bytes 320 s
    # and those of the blocks that are read at the end up to 80 s more
    plan = plan_of(bytes_per_second=5e3, num_steps=2000)
    assert 320 < plan.total_seconds < 430
    assert plan.stall_seconds > 60
    assert plan.needed_bytes_per_second > 8e3
    assert "the run waits for storage" in plan.advice[-1]
    assert plan_of().advice == ()


def test_a_cache_below_the_working_set_is_told():
    ample = plan_of(cache_bytes=10**8)
    small = plan_of(cache_bytes=200_000, num_steps=1500)
    assert ample.shards_downloaded_twice == 0
    assert ample.advice == ()
    assert plan_of(cache_bytes=500_000, num_steps=1).advice == ()  # nothing is wrong yet
    # two blocks of 2,000 rows, four shards each
    assert small.nodes[0].working_set_bytes == pytest.approx(400_000, rel=0.3)
    assert small.shards_downloaded_twice > 50
    assert small.nodes[0].cache_high_water_bytes <= 200_000
    assert "Give the cache twice the first" in small.advice[0]


def test_a_cache_of_two_working_sets_is_enough_for_many_epochs():
    plan = plan_of(cache_bytes=1_200_000, num_steps=10000, max_ahead=8)
    assert plan.domains[0].epochs > 2
    assert plan.shards_downloaded_twice == 0
    assert all(node.downloads > node.shards for node in plan.nodes)  # again in each epoch
    assert all(node.cache_high_water_bytes <= 1_200_000 for node in plan.nodes)


@pytest.mark.parametrize("changed", [{}, {"cache_bytes": 1_200_000}, {"max_ahead": 0}])
def test_expected_counts_plan_what_drawn_ones_do(changed):
    drawn = plan_of(num_steps=3000, **changed)
    expected = plan_of(num_steps=3000, drawn_rows=2000, **changed)
    assert (expected.num_drawn, drawn.num_drawn) == (2000, 48000)
    for mine, other in zip(expected.nodes, drawn.nodes, strict=True):
        assert mine.downloads == pytest.approx(other.downloads, rel=0.08)
    for mine, other in zip(expected.domains, drawn.domains, strict=True):
        assert mine.rows == pytest.approx(other.rows, rel=0.03)
    assert expected.first_batch_seconds == pytest.approx(drawn.first_batch_seconds)


def test_a_planned_domain_is_fetched_before_its_first_step():
    start = {"web": 1.0, "code": 0.0}
    schedule = Schedule.constant(start).stage(250, {"web": 0.0, "code": 1.0})
    for drawn_rows in (10**8, 1000):
        plan = plan_of(weights=schedule, drawn_rows=drawn_rows, max_ahead=40)
        unchanged = plan_of(weights=start, drawn_rows=drawn_rows, max_ahead=40)
        assert plan.domains[1].rows == pytest.approx(4000)
        assert plan.stall_seconds == unchanged.stall_seconds, "at the start alone"
        assert plan.stalled_steps <= 1


def test_a_run_of_a_trillion_rows_on_a_thousand_ranks_can_be_planned():
    contents = described_contents("web=9e11:90000,code=1e11:10000", seq_len=64)
    plan = plan_of(
        contents,
        {"web": 0.8, "code": 0.2},
        num_nodes=125,
        ranks_per_node=8,
        batch_size=8,
        num_steps=125_000_000,
        bytes_per_second=1.25e9,
        shuffle_block_rows=1 << 18,
        drawn_rows=10**5,
        simulated_nodes=1,
        cache_bytes=5 * 10**11,
        max_ahead=8,
    )
    assert (plan.num_rows, plan.ranks) == (10**12, 1000)
    assert plan.shards_downloaded_twice == 0
    assert sum(domain.rows for domain in plan.domains) == pytest.approx(1e12)
    # 720 shards of web, of which eight ninths of an epoch come, and two epochs of 80 of code
    assert plan.nodes[0].downloads == pytest.approx(720 * 8 / 9 + 160, abs=10)
    assert plan.stall_seconds == 0.0


def test_a_plan_is_json():
    plan = plan_of()
    found = json.loads(json.dumps(plan.to_json()))
    assert found["shards_downloaded_twice"] == 0
    assert found["nodes"][1]["downloads"] == plan.nodes[1].downloads
    assert found["advice"] == []


def test_a_cache_that_does_not_hold_a_shard_is_refused():
    with pytest.raises(RecipeError, match="cache_bytes is 100, but a shard of the corpus takes 50"):
        plan_of(cache_bytes=100)


def test_weights_are_checked_as_a_loader_checks_them():
    with pytest.raises(WeightsError, match="unknown domain 'books' in weights"):
        plan_of(weights={"books": 1.0})


def test_domains_without_rows_are_no_trouble():
    contents = described_contents("web=100:4", seq_len=24)
    contents.layout["none"] = np.empty(0, np.int64)
    plan = plan_of(contents, {"web": 1.0, "none": 0.0}, num_steps=3)
    assert [domain.rows for domain in plan.domains] == [48, 0]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1540, "1.54 kB"), (2.5e12, "2.5 TB"), (4e18, "4,000 PB"), (12.0, "12 B")],
)
def test_sizes_are_readable(num_bytes, text):
    assert size_text(num_bytes) == text


@pytest.mark.parametrize("drawn_rows", [10**8, 0, 6400])
def test_exhausted_domains_leave_their_weight_to_the_others_and_then_the_run_ends(drawn_rows):
    caps = {"web": 1, "code": 3}
    plan = plan_of(num_steps=10**5, max_epochs=caps, drawn_rows=drawn_rows)
    drawn = {domain.name: domain.rows for domain in plan.domains}
    # each of two nodes ends when its slice of one is used up, whatever the other has left
    assert [drawn["web"], drawn["code"]] == pytest.approx([40_000, 60_000], rel=0.02)
    assert plan.num_rows == plan.num_steps * 16 == pytest.approx(100_000, rel=0.02)
    assert plan.asked_steps == 10**5
    assert plan.num_drawn == min(drawn_rows, plan.num_rows)
    said = f"every domain has reached its max_epochs after {plan.num_steps:,} of 100,000 steps"
    assert plan.advice[0].startswith(said)
    assert plan.total_seconds == pytest.approx(plan.num_steps * 0.1, rel=0.1)


@pytest.mark.parametrize("drawn_rows", [10**8, 0])
def test_a_cap_that_is_not_reached_and_one_that_leaves_a_domain_alone(drawn_rows):
    plan = plan_of(num_steps=2500, max_epochs={"code": 9}, drawn_rows=drawn_rows)
    assert plan.num_steps == plan.asked_steps == 2500
    assert plan.advice == ()
    capped = plan_of(num_steps=5000, max_epochs={"code": 1}, drawn_rows=drawn_rows)
    assert [domain.rows for domain in capped.domains] == pytest.approx([60_000, 20_000], rel=0.01)


def test_a_run_of_no_batch_is_refused():
    with pytest.raises(RecipeError, match="max_epochs before the first batch of 16 rows; allow mo"):
        plan_of(described_contents("web=10:4", seq_len=24), {"web": 1}, max_epochs=1)


def test_without_shuffling_one_shard_of_a_domain_is_read_at_once():
    plan, shuffled = (plan_of(shuffle=shuffle) for shuffle in (False, True))
    raw = int(CORPUS.raw_bytes.max())
    assert all(node.working_set_bytes == 2 * raw for node in plan.nodes)
    assert all(node.working_set_bytes > 2 * raw for node in shuffled.nodes)
    assert plan.shards_downloaded_twice == 0


def test_a_run_of_10_to_the_12_rows_is_planned_without_shuffling_too():
    contents = described_contents("web=7e11:1400000,code=3e11:600000")
    plan = plan_of(
        contents, num_nodes=125, ranks_per_node=8, num_steps=10**6, simulated_nodes=1,
        cache_bytes=10**12, bytes_per_second=1e9, shuffle=False, max_epochs=1, drawn_rows=10**5,
    )  # fmt: skip
    assert plan.num_rows == 4 * 10**9
    assert plan.nodes[0].downloads > 0
