import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream import Schedule, curriculum, read_schedule
from mixstream.errors import RecipeError, StepError, WeightsError
from tests.strategies import simplexes

BASE = {"web": 0.8, "math": 0.1, "code": 0.1}
EVEN = {"web": 1, "math": 1, "code": 1}


def steps_of(schedule):
    return [change.step for change in schedule.changes]


def test_a_constant_schedule_has_the_first_weights_for_ever():
    plan = Schedule.constant([1, 3])
    assert plan.domains is None
    for step in (0, 1, 10**9):
        assert plan.at(step).tolist() == [0.25, 0.75]


def test_a_stage_holds_from_its_step_on():
    plan = Schedule.constant(BASE).stage(5, EVEN, reason="even").stage(9, BASE)
    assert plan.at(4) == pytest.approx([0.8, 0.1, 0.1])
    assert plan.at(5) == pytest.approx([1 / 3] * 3)
    assert plan.at(9).tolist() == plan.at(0).tolist()
    assert [change.reason for change in plan.changes] == ["", "even", "stage"]


def test_names_may_come_in_another_order():
    plan = Schedule.constant(BASE).stage(5, {"code": 1, "web": 0, "math": 0})
    assert plan.at(5).tolist() == [0, 0, 1]
    assert plan.weights_like(plan.changes[1]) == {"web": 0, "math": 0, "code": 1}


def test_a_linear_ramp_by_hand():
    plan = Schedule.constant([1, 0]).ramp(10, 14, [0, 1])
    assert steps_of(plan) == [0, 11, 12, 13, 14]
    assert [plan.at(step)[1] for step in (10, 11, 12, 13, 14, 99)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert plan.changes[1].reason == "ramp 25%"


def test_a_cosine_ramp_is_slow_at_its_ends():
    plan = Schedule.constant([1, 0]).ramp(0, 4, [0, 1], shape="cosine")
    expected = [0, (1 - 0.5**0.5) / 2, 0.5, (1 + 0.5**0.5) / 2, 1]
    assert [plan.at(step)[1] for step in range(5)] == pytest.approx(expected, abs=1e-8)


def test_a_long_ramp_goes_in_so_many_stairs():
    plan = Schedule.constant([1, 0]).ramp(0, 10**6, [0, 1], num_changes=4)
    assert steps_of(plan) == [0, 250_000, 500_000, 750_000, 10**6]


@given(
    data=st.data(),
    k=st.integers(1, 6),
    shape=st.sampled_from(["linear", "cosine"]),
    first=st.integers(0, 50),
    length=st.integers(1, 300),
    stairs=st.integers(1, 80),
)
def test_a_ramp_stays_on_the_simplex_between_its_ends_and_arrives(
    data, k, shape, first, length, stairs
):
    start, end = data.draw(simplexes(k)), data.draw(simplexes(k))
    plan = Schedule.constant(start).ramp(
        first, first + length, end, shape=shape, num_changes=stairs
    )
    steps = steps_of(plan)
    assert steps == sorted(set(steps))
    assert len(steps) == 1 + min(stairs, length)
    low, high = np.minimum(start, end), np.maximum(start, end)
    for change in plan.changes:
        assert change.weights.sum() == pytest.approx(1)
        assert (change.weights >= low - 1e-12).all()
        assert (change.weights <= high + 1e-12).all()
    assert plan.at(first) == pytest.approx(start)
    assert plan.at(first + length) == pytest.approx(end)


def test_annealing_takes_three_lines():
    num_steps = 1000
    plan = Schedule.constant(BASE)
    plan = plan.boost(num_steps * 9 // 10, {"math": 3, "code": 3}, reason="annealing")
    assert plan.at(899) == pytest.approx([0.8, 0.1, 0.1])
    assert plan.at(900) == pytest.approx([0.8 / 1.4, 0.3 / 1.4, 0.3 / 1.4])


def test_a_ramp_may_lead_to_boosted_weights():
    plan = Schedule.constant(BASE)
    plan = plan.ramp(900, 1000, plan.boosted(900, {"math": 3}), shape="cosine")
    assert plan.at(1000) == pytest.approx([0.8 / 1.2, 0.3 / 1.2, 0.1 / 1.2])


def test_a_curriculum_is_one_domain_after_the_other():
    plan = curriculum({"easy": 10, "unused": 0, "hard": 30, "last": 5})
    assert steps_of(plan) == [0, 10, 40]
    assert [plan.at(step).argmax() for step in (0, 9, 10, 39, 40, 45, 100)] == [0, 0, 2, 2, 3, 3, 3]
    assert plan.changes[1].reason == "curriculum: hard"


@pytest.mark.parametrize("steps", [{}, {"web": 0}, {"web": -1, "code": 5}])
def test_a_curriculum_without_steps_is_refused(steps):
    with pytest.raises(WeightsError, match="give each domain at least 0 steps"):
        curriculum(steps)


def test_what_does_not_fit_is_refused():
    plan = Schedule.constant(BASE).stage(5, EVEN)
    with pytest.raises(StepError, match="step 5 does not come after step 5"):
        plan.stage(5, BASE)
    with pytest.raises(StepError, match="step 5 does not come after step 5"):
        plan.ramp(4, 9, BASE)
    with pytest.raises(StepError, match="ramp from step 9 to step 9"):
        plan.ramp(9, 9, BASE)
    with pytest.raises(WeightsError, match="shape is 'square'"):
        plan.ramp(5, 9, BASE, shape="square")
    with pytest.raises(WeightsError, match="domain 'math' is missing in a schedule"):
        plan.stage(9, {"web": 1, "code": 1})
    with pytest.raises(WeightsError, match="unknown domain 'wiki' in factors"):
        plan.boost(9, {"wiki": 2})
    with pytest.raises(WeightsError, match=r"the factor of domain .web. is -3"):
        plan.boost(9, {"web": -3})
    with pytest.raises(WeightsError, match="factors by name need a schedule"):
        Schedule.constant([1, 1]).boost(9, {"web": 2})
    with pytest.raises(WeightsError, match="first weights have no names"):
        Schedule.constant([1, 1]).stage(9, {"web": 1, "code": 1})
    with pytest.raises(WeightsError, match="all weights in a schedule are 0"):
        Schedule.constant([0, 0])
    with pytest.raises(WeightsError, match="which is not one number a domain"):
        Schedule.constant(["a", "b"])


FILE = """
num_steps = 1000
weights = { web = 0.8, math = 0.1, code = 0.1 }

[[change]]
step = 200
weights = { web = 1, math = 1, code = 1 }
reason = "after warm-up"

[[change]]
step = "90%"
until = "100%"
shape = "cosine"
num_changes = 10
factors = { math = 3, code = 3 }
"""


def test_a_file_says_the_same_as_python(tmp_path):
    (tmp_path / "plan.toml").write_text(FILE)
    plan = Schedule.constant(BASE).stage(200, EVEN, reason="after warm-up")
    boosted = plan.boosted(900, {"math": 3, "code": 3})
    plan = plan.ramp(900, 1000, boosted, shape="cosine", num_changes=10)
    found = read_schedule(tmp_path / "plan.toml")
    assert found.domains == plan.domains
    for one, other in zip(found.changes, plan.changes, strict=True):
        assert (one.step, one.reason) == (other.step, other.reason)
        assert one.weights.tolist() == other.weights.tolist()
    assert steps_of(read_schedule(tmp_path / "plan.toml", num_steps=2000))[2:][-1] == 2000


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("weights = { web = 0.8", "weigths = { web = 0.8", "unknown key 'weigths'"),
        ("weights = { web = 0.8, math = 0.1, code = 0.1 }", "", "key 'weights' is missing"),
        ("step = 200\n", "", "change 1: key 'step' is missing"),
        ("step = 200", "step = -1", "change 1: 'step' is -1; give a step"),
        ("step = 200", 'step = "x%"', "'step' is 'x%'"),
        ("step = 200", "step = 950", "step 901 does not come after step 950"),
        ("num_steps = 1000", "", "a share of a number of steps that nobody gave"),
        ('"cosine"', '"square"', "change 2: 'shape' is 'square'"),
        ('until = "100%"', "", "'shape' has no effect without 'until'"),
        ("factors =", "weights = { web = 1 }\nfactors =", "give either 'weights' or 'factors'"),
        ("factors = { math", "factors = { wiki", "unknown domain 'wiki' in factors"),
        ("[[change]]", "[[change", "is no TOML"),
        ("num_steps = 1000", "num_steps = 'all'", "'num_steps' is 'all'; give a whole number"),
        ("num_steps = 1000", "num_steps = 0", "'num_steps' is 0; give a whole number above 0"),
        ("num_steps = 1000", "num_steps = true", "'num_steps' is True; give a whole number"),
        ("num_changes = 10", "num_changes = 'x'", "change 2: 'num_changes' is 'x'; give"),
        ('reason = "after warm-up"', "reason = 3", "change 1: 'reason' is 3; give text"),
        ("{ web = 0.8, math = 0.1, code = 0.1 }", "3", "'weights' is 3; give a table of numbers"),
        ("{ math = 3, code = 3 }", "[3, 3]", r"'factors' is \[3, 3\]; give a table of numbers"),
        ("math = 3, code = 3", "math = 'x'", "the factor of domain 'math' is 'x'; give a finite"),
        ("math = 3, code = 3", "math = -1", "the factor of domain 'math' is -1; give a finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, before, after, message):
    path = tmp_path / "plan.toml"
    assert before in FILE
    path.write_text(FILE.replace(before, after, 1))
    with pytest.raises(RecipeError, match=message) as raised:
        read_schedule(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("change", ["change = 3", "change = [1]"])
def test_changes_that_are_no_tables_are_refused(tmp_path, change):
    (tmp_path / "plan.toml").write_text(f"weights = [1, 1]\n{change}")
    with pytest.raises(RecipeError, match=r"give tables under \[\[change\]\]"):
        read_schedule(tmp_path / "plan.toml")


def test_weights_that_are_no_list_are_refused():
    with pytest.raises(WeightsError, match="the weights of a schedule are 3; give one number"):
        Schedule.constant(3)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"cannot read .*plan.toml"):
        read_schedule(tmp_path / "plan.toml")
