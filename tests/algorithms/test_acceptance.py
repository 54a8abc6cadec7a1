"""The acceptance list of the methods, on every class: simplex, floors and caps, permutation, K = 1,
a stop mid-run, NaN. `test_contract.py` holds what is finer for those with one number a domain.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import algorithms as methods
from mixstream.errors import WeightsError
from tests.algorithms.support import assert_on_simplex

Args = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class World:
    """What a method is made of: numbers by domain, which a permutation of the domains permutes."""

    start: np.ndarray
    """(K,) positive."""
    graph: np.ndarray
    """(K, K) non-negative."""
    runs: np.ndarray
    """(2 K + 4, K) mixtures."""
    caps: np.ndarray
    """(K,) upper bounds of weights; they sum to more than 1."""

    @classmethod
    def drawn(cls, k: int, seed: int) -> "World":
        random = np.random.default_rng(seed)
        caps = random.uniform(0.05, 1.0, k)
        return cls(
            start=random.uniform(0.1, 1.0, k),
            graph=random.uniform(0.0, 1.0, (k, k)),
            runs=random.dirichlet(np.ones(k), 2 * k + 4),
            caps=caps * max(1.0, 1.3 / caps.sum()),
        )

    @property
    def k(self) -> int:
        return len(self.start)

    def permuted(self, order: np.ndarray) -> "World":
        return World(
            start=self.start[order],
            graph=self.graph[np.ix_(order, order)],
            runs=self.runs[:, order],
            caps=self.caps[order],
        )


@dataclass(frozen=True)
class Case:
    """How to make a method, and what it eats."""

    make: Callable[[World], methods.Algorithm]
    signal: Callable[[World, np.random.Generator], Args]
    """The arguments of one update."""
    axes: tuple[tuple[int, ...], ...]
    """Of each argument, the axes that are domains."""
    floor: Callable[[World], float] = lambda world: 0.0
    """What no weight is below after an update."""
    capped: bool = False
    """Whether no weight is above the world's caps."""
    tolerance: float = 1e-9
    """Of the permutation; solvers stop before the last digit."""
    num_examples: int = 25
    num_updates: int = 4


def vector(world: World, random: np.random.Generator) -> Args:
    return (random.uniform(0.0, 1.0, world.k),)


def square(world: World, random: np.random.Generator) -> Args:
    return (random.uniform(0.0, 1.0, (world.k, world.k)),)


def gram(world: World, random: np.random.Generator) -> Args:
    gradients = random.normal(size=(world.k, 5))
    return (gradients @ gradients.T,)


def table(world: World, random: np.random.Generator) -> Args:
    return (random.uniform(0.0, 1.0, (world.k, 3)),)


def falling_losses(world: World, random: np.random.Generator) -> Args:
    return 2 + random.uniform(0.0, 1.0, world.k), random.integers(1, 9, world.k).astype(float)


def run_losses(world: World, random: np.random.Generator) -> Args:
    """(P, 2), from laws with one number a domain."""
    slopes = np.sin(np.outer([1.0, 2.0], 10 * world.start))  # permuted as the world is
    return (1 + np.exp(world.runs @ slopes.T - 1),)


def norms(world: World, random: np.random.Generator) -> Args:
    return random.uniform(0, 1, world.k), random.uniform(0, 1, world.k)


CASES = {
    "ado": Case(
        lambda w: methods.ADO(w.start, fit_from=0, fit_every=3, block_steps=1, min_fit_blocks=3),
        falling_losses,
        ((0,), (0,)),
        tolerance=1e-5,
        num_examples=5,
    ),
    "aioli": Case(
        lambda w: methods.Aioli(w.k, step_size=0.5, ema=0.3), square, ((0, 1),), tolerance=1e-8
    ),
    "autoscale": Case(
        lambda w: methods.AutoScale(w.start, 2 * w.start + w.caps),
        lambda w, random: (np.array(random.uniform(3.0 * w.start.sum(), 1e4)),),
        ((),),
    ),
    "chameleon": Case(lambda w: methods.Chameleon(w.k), table, ((0,),), tolerance=1e-6),
    "dga": Case(
        lambda w: methods.DGA(w.start, step_size=0.5, ema=0.3, update_every=1), vector, ((0,),)
    ),
    "dga through a basis": Case(
        lambda w: methods.DGA(
            np.ones(len(w.runs)), step_size=0.5, ema=0.3, update_every=1, basis=w.runs
        ),
        lambda w, random: (w.runs @ random.uniform(0, 1, w.k),),
        ((),),
    ),
    "doge": Case(
        lambda w: methods.DoGE(w.start, mu=2.0, smoothing=0.1),
        vector,
        ((0,),),
        floor=lambda w: 0.1 / w.k,
    ),
    "doremi": Case(
        lambda w: methods.DoReMi(w.start, smoothing=0.1),
        vector,
        ((0,),),
        floor=lambda w: 0.1 / w.k,
    ),
    "grape": Case(lambda w: methods.GRAPE(w.start, 3, mu=1.0, task_mu=1.0), table, ((0,),)),
    "importance": Case(
        lambda w: methods.ImportanceSampling(w.k, smoothing=0.5, generic=w.start),
        lambda w, random: (random.integers(0, 9, (2, w.k)).astype(float),),
        ((1,),),
        floor=lambda w: 0.5 / (16 * w.k + 0.5 * w.k),
    ),
    "mixing laws": Case(
        lambda w: methods.DataMixingLaws(w.runs, caps=w.caps),
        run_losses,
        ((),),
        capped=True,
        tolerance=1e-3,
        num_examples=3,
        num_updates=2,
    ),
    "mixmin": Case(
        lambda w: methods.MixMin(w.k, caps=w.caps),
        lambda w, random: (-random.uniform(1.0, 9.0, (w.k, 6)),),
        ((0,),),
        capped=True,
        tolerance=1e-5,
    ),
    "odm": Case(lambda w: methods.ODM(w.start, smoothing=0.5, iteration=100), vector, ((0,),)),
    "olmix": Case(
        lambda w: methods.Olmix(w.start, caps=w.caps),
        lambda w, random: (random.normal(size=(4, w.k)),),
        ((1,),),
        capped=True,
        tolerance=1e-5,
    ),
    "pike": Case(
        lambda w: methods.PiKE(w.start, zeta1=0.5, zeta2=0.1, batch_size=8), norms, ((0,), (0,))
    ),
    "rnb": Case(
        lambda w: methods.RnB(w.start, step_size=0.5),
        gram,
        ((0, 1),),
        floor=lambda w: np.exp(-0.5 * 2**0.5) / w.k,
    ),
    "skillit": Case(lambda w: methods.SkillIt(w.graph, step_size=0.5, window=2), vector, ((0,),)),
    "temperature": Case(
        lambda w: methods.TemperatureSampling(w.k, temperature=2.0),
        lambda w, random: (random.uniform(0.1, 1.0, w.k),),
        ((0,),),
    ),
    "unimax": Case(
        lambda w: methods.UniMax(w.k, budget=1.0, max_epochs=2.0),
        lambda w, random: (w.caps / 2,),  # two epochs of it are the caps
        ((0,),),
        capped=True,
    ),
    "utilimax": Case(
        lambda w: methods.UtiliMax(w.caps, budget=1.0, max_epochs=1.0),
        table,
        ((0,),),
        capped=True,
        tolerance=1e-4,
    ),
}
each = pytest.mark.parametrize("name", sorted(CASES))
worlds = st.builds(World.drawn, st.integers(1, 7), st.integers(0, 2**32))


def signals(case: Case, world: World, seed: int) -> list[Args]:
    random = np.random.default_rng(seed)
    return [case.signal(world, random) for _ in range(case.num_updates)]


def permuted(case: Case, arguments: Args, order: np.ndarray) -> Args:
    found = []
    for argument, axes in zip(arguments, case.axes, strict=True):
        for axis in axes:
            argument = np.take(argument, order, axis=axis)
        found.append(argument)
    return tuple(found)


def examples(test: Callable[..., None]) -> Callable[[str], None]:
    """The test by name of a method, with as many examples as its case says."""

    def by_name(name: str) -> None:
        case = CASES[name]
        settings(max_examples=case.num_examples, deadline=None)(
            given(world=worlds, seed=st.integers(0, 2**32))(
                lambda world, seed: test(case, world, seed)
            )
        )()

    by_name.__name__ = test.__name__
    return each(by_name)


@examples
def test_weights_are_on_the_simplex_within_floors_and_caps(case, world, seed):
    method = case.make(world)
    assert_on_simplex(method.weights, world.k)
    for arguments in signals(case, world, seed):
        weights = method.update(*arguments)
        assert_on_simplex(weights, world.k)
        assert np.array_equal(weights, method.weights)
        assert weights.min() >= case.floor(world) - 1e-12
        if case.capped:
            assert (weights <= world.caps + 1e-9).all()


@examples
def test_a_permutation_of_the_domains_permutes_the_weights(case, world, seed):
    order = np.random.default_rng(seed).permutation(world.k)
    method, other = case.make(world), case.make(world.permuted(order))
    for arguments in signals(case, world, seed):
        expected = method.update(*arguments)[order]
        found = other.update(*permuted(case, arguments, order))
        assert found == pytest.approx(expected, rel=case.tolerance, abs=case.tolerance)


@examples
def test_a_stop_mid_run_changes_nothing(case, world, seed):
    stream = signals(case, world, seed)
    stop = seed % (case.num_updates + 1)
    method, stopped = case.make(world), case.make(world)
    for arguments in stream[:stop]:
        method.update(*arguments)
        stopped.update(*arguments)
    resumed = case.make(world)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict(), allow_nan=False)))
    assert np.array_equal(resumed.weights, method.weights)
    for arguments in stream[stop:]:
        assert np.array_equal(resumed.update(*arguments), method.update(*arguments))
    assert resumed.state_dict() == method.state_dict()


@examples
def test_one_nan_is_refused_and_nothing_changes(case, world, seed):
    method = case.make(world)
    first, second, *_ = signals(case, world, seed)
    method.update(*first)
    before = method.state_dict()
    for index, argument in enumerate(second):
        broken = np.array(argument, dtype=float)
        broken.flat[seed % broken.size] = np.nan
        with pytest.raises(WeightsError):
            method.update(*second[:index], broken, *second[index + 1 :])
        assert method.state_dict() == before


@each
def test_one_domain_has_all_the_weight(name):
    case, world = CASES[name], World.drawn(1, 3)
    world = replace(world, caps=np.ones(1))
    method = case.make(world)
    assert method.weights.tolist() == [1.0]
    for arguments in signals(case, world, 4):
        assert method.update(*arguments) == pytest.approx([1.0], rel=1e-12)


def test_every_class_is_tried():
    tried = {type(case.make(World.drawn(3, 0))) for case in CASES.values()}
    classes = {
        value
        for name, value in vars(methods).items()
        if isinstance(value, type) and hasattr(value, "load_state_dict") and name != "Algorithm"
    }
    assert classes - tried == {methods.RegMix}, "whose simulation knows domains by their place"
