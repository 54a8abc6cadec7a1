"""Data Mixing Laws: losses of small runs on a few mixtures -> laws -> the best mixture.

For each validation domain L(r) = c + exp(log k + t . r) in the weights r; the total is their
weighted sum, which is convex in r, so that its minimum is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    as_float64,
    checked_number,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.convex import capped_minimum
from mixstream.algorithms.simplex import uniform_weights
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(P, K) float64, one row a run; or (M, K), one row a validation domain."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MixingLaws:
    """L_m(r) = floor_m + exp(slope_m . r), one law a validation domain.

    The paper's factor k is in the slopes: as r sums to 1, log k + t . r = (t + log k) . r.
    """

    floor: Vector
    """(M,) float64, c: the loss that no mixture removes, nats per token."""
    slope: Matrix
    """(M, K) float64, t + log k: negative where a domain lowers the loss."""
    error: Vector
    """(M,) float64, root mean square error of each fit, nats; compare it with the spread of the
    losses: a law that explains nothing has an error as large."""
    spread: Vector
    """(M,) float64, standard deviation of the losses that each law was fitted to."""

    def losses(self, mixtures: ArrayLike) -> Matrix:
        """(P, M) predicted losses of (P, K) mixtures; (M,) of one."""
        exponent = np.asarray(mixtures, dtype=np.float64) @ self.slope.T
        return np.asarray(self.floor + np.exp(exponent), dtype=np.float64)

    @property
    def degenerate(self) -> NDArray[np.bool_]:
        """(M,) bool, laws that explain less than three quarters of the variance of their losses."""
        return np.asarray(self.error**2 > 0.25 * self.spread**2, dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExponentialLaw:
    """L(x) = floor + exp(slope x + intercept) of one proportion x, by the paper's two steps."""

    floor: float
    """c, at which x and log(L - c) correlate most."""
    slope: float
    """k of the notebooks."""
    intercept: float
    """b of the notebooks."""
    correlation: float
    """|corr(x, log(L - c))|; below about 0.95 no such law fits (one published fit has 0.86)."""

    def proportion(self, loss: float) -> float:
        """The x at which the law reaches this loss; nan where it never does."""
        if loss <= self.floor or self.slope == 0:
            return float("nan")
        return float((np.log(loss - self.floor) - self.intercept) / self.slope)


def fit_mixing_laws(
    mixtures: ArrayLike, losses: ArrayLike, *, huber_delta: float = 0.02
) -> MixingLaws:
    """The law of each validation domain by a Huber fit of its losses.

    Args:
        mixtures: (P, K), the weights of each run; P >= K + 1.
        losses: (P, M), each run's loss on each validation domain, nats per token; (P,) for one.
        huber_delta: residual from which an error counts linearly, nats; 0.02 and 0.05 in the paper.

    Returns:
        MixingLaws.

    How: for each floor c of a grid, t by linear least squares on log(L - c); the best few start a
    Levenberg-type fit of c and t together. Compare predictions, not coefficients.
    Cost: some 0.1 s a validation domain.

    Deviation: the code fits by torch L-BFGS in float32 from hundreds of random starts (law.py).

    Source: Ye et al. 2024, arXiv:2403.16952, the exponential law; github.com/yegcjs/mixinglaws at
    8ad3e12, law.py. The paper's text was not opened here.

    Raises:
        WeightsError: NaN, shapes that do not fit, or too few runs.
    """
    runs = as_float64(mixtures, "mixtures")
    if runs.ndim != 2:
        raise WeightsError(f"mixtures have shape {runs.shape}; give (P, K), one row a run.")
    num_runs, num_domains = runs.shape
    runs = checked_signal(mixtures, runs.shape, source="mixtures")
    table = as_float64(losses, "losses")
    if table.ndim == 1:
        table = table[:, np.newaxis]
    table = checked_signal(table, (num_runs, *table.shape[1:]), source="losses")
    if num_runs < num_domains + 1:
        raise WeightsError(
            f"{num_runs} runs cannot fix {num_domains + 1} numbers a law; run more mixtures."
        )
    fits = [_fit_law(runs, column, huber_delta) for column in table.T]
    floor, slope = np.array([f[0] for f in fits]), np.array([f[1:] for f in fits])
    predicted = floor + np.exp(runs @ slope.T)
    error = np.sqrt(((predicted - table) ** 2).mean(axis=0))
    return MixingLaws(floor=floor, slope=slope, error=error, spread=table.std(axis=0))


def _fit_law(runs: Matrix, losses: Vector, delta: float) -> Vector:
    """(1 + K,) float64, c and t, of the best of several starts."""
    from scipy.optimize import least_squares

    def residuals(parameters: Vector) -> Vector:
        with np.errstate(over="ignore"):
            power = np.exp(np.minimum(runs @ parameters[1:], 300.0))
        return np.asarray(parameters[0] + power - losses, dtype=np.float64)

    def jacobian(parameters: Vector) -> Matrix:
        power = np.exp(np.minimum(runs @ parameters[1:], 300.0))
        return np.column_stack((np.ones(len(runs)), power[:, np.newaxis] * runs))

    high = np.concatenate(([max(float(losses.min()), 1e-9)], np.full(runs.shape[1], np.inf)))
    low = np.concatenate(([0.0], np.full(runs.shape[1], -np.inf)))
    best: tuple[float, Vector] | None = None
    for start in _starts(runs, losses):
        fit = least_squares(
            residuals,
            start,
            jac=jacobian,
            bounds=(low, high),
            loss="huber",
            f_scale=delta,
            x_scale="jac",
            xtol=1e-12,
            ftol=1e-14,
            gtol=1e-12,
            max_nfev=2000,
        )
        if best is None or fit.cost < best[0]:
            best = (float(fit.cost), np.asarray(fit.x, dtype=np.float64))
    assert best is not None, "there is always a start"
    return best[1]


def _starts(runs: Matrix, losses: Vector) -> list[Vector]:
    """The best five of a grid of floors, each with t by least squares on log(L - c)."""
    lowest = float(losses.min())
    found = []
    for share in (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.94, 0.97, 0.985, 0.995):
        floor = share * lowest
        slope, *_ = np.linalg.lstsq(runs, np.log(np.maximum(losses - floor, 1e-9)), rcond=None)
        error = float(((floor + np.exp(runs @ slope) - losses) ** 2).sum())
        found.append((error, np.concatenate(([floor], slope))))
    return [start for _, start in sorted(found, key=lambda pair: pair[0])[:5]]


def fit_exponential_law(
    proportions: ArrayLike, losses: ArrayLike, *, num_floors: int = 1000, huber_delta: float = 0.02
) -> ExponentialLaw:
    """The paper's fit for two domains: c by correlation, then k and b.

    Args:
        proportions: (P,), the share x of one domain in each run.
        losses: (P,), the loss after each run.
        num_floors: c is the best of linspace(0, min loss, num_floors).
        huber_delta: of the second step.

    Returns:
        ExponentialLaw. Look at its correlation: where the losses do not fall and rise with x the
        fit is degenerate (c = 0, nearly flat), and no error.

    Source: github.com/yegcjs/mixinglaws at 8ad3e12, mix_2_domains.ipynb, continue_training.ipynb.

    Raises:
        WeightsError: NaN, shapes that differ, or fewer than three runs.
    """
    from scipy.optimize import least_squares

    x = as_float64(proportions, "proportions")
    if x.ndim != 1 or len(x) < 3:
        raise WeightsError(f"proportions have shape {x.shape}; give (P,) with P >= 3 runs.")
    x = checked_signal(proportions, x.shape, source="proportions")
    y = checked_signal(losses, x.shape, source="losses")
    floors = np.linspace(0, y.min(), num_floors)[:-1]  # at min loss the logarithm is -inf
    logs = np.log(y[np.newaxis, :] - floors[:, np.newaxis])
    centered, offset = logs - logs.mean(axis=1, keepdims=True), x - x.mean()
    norm = np.sqrt((centered**2).sum(axis=1) * (offset**2).sum())
    correlations = np.abs(centered @ offset) / np.maximum(norm, 1e-300)
    chosen = int(np.argmax(correlations))
    floor = float(floors[chosen])
    fit = least_squares(
        lambda p: floor + np.exp(p[0] * x + p[1]) - y,
        np.polyfit(x, logs[chosen], 1),
        loss="huber",
        f_scale=huber_delta,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    return ExponentialLaw(
        floor=floor,
        slope=float(fit.x[0]),
        intercept=float(fit.x[1]),
        correlation=float(correlations[chosen]),
    )


def best_mixture(laws: MixingLaws, importance: Vector, caps: Vector) -> Vector:
    """The mixture of the least predicted total loss, sum_m importance_m L_m(r), under caps.

    Args:
        laws: M laws over K domains.
        importance: (M,) float64, share of each validation domain in the total.
        caps: (K,) float64, `simplex.epoch_caps`, or 1 / inf for none.

    Returns:
        (K,) float64.

    Worked example: one law, slope [0, log 2]: everything on the first domain, [1, 0].

    Source: Ye et al. 2024, arXiv:2403.16952, which takes the best of a grid; here exact, as the
    total is convex.
    """
    num_domains = laws.slope.shape[1]

    def total(x: Vector) -> tuple[float, Vector]:
        terms = importance * np.exp(laws.slope @ x)
        return float(terms.sum()), np.asarray(terms @ laws.slope, dtype=np.float64)

    return capped_minimum(total, uniform_weights(num_domains), caps)


class DataMixingLaws:
    """The best mixture for losses of runs on other mixtures.

    Signal: (P, M) losses of P runs on M validation domains, nats per token.
    Cost a step: none; asked once. Before: P >= K + 1 short runs, one a mixture.
    Absent domain: one that no run held has no law; give it a cap of 0. Weight 0: reached where a
    domain does not pay; neither absorbing nor floored.
    NaN: WeightsError, and the weights stay. A fit that explains too little shows in
    `laws.degenerate`.
    K = 1: [1.0]. K = 10,000: no, P exceeds K.

    Deviations: fit and search are exact and in float64, see `fit_mixing_laws`, `best_mixture`. The
    nested laws over steps and model size are not here.

    Source: Ye et al. 2024, arXiv:2403.16952; github.com/yegcjs/mixinglaws at 8ad3e12.
    """

    def __init__(
        self,
        mixtures: ArrayLike,
        *,
        importance: ArrayLike | None = None,
        caps: ArrayLike | None = None,
        huber_delta: float = 0.02,
    ):
        """Uniform weights until the runs are done.

        Args:
            mixtures: (P, K), the weights of the runs.
            importance: (M,) share of each validation domain in the total; None counts all alike.
            caps: (K,) from `simplex.epoch_caps`; None for none.
            huber_delta: of the fit, nats.

        Raises:
            WeightsError: a setting is out of range or shapes do not fit.
        """
        runs = as_float64(mixtures, "mixtures")
        if runs.ndim != 2:
            raise WeightsError(f"mixtures have shape {runs.shape}; give (P, K), one row a run.")
        self._runs = checked_signal(mixtures, runs.shape, source="mixtures")
        self.huber_delta = checked_number(huber_delta, "huber_delta", 0.0, open_low=True)
        self._importance = None
        if importance is not None:
            self._importance = checked_weights(importance, source="importance")
        num_domains = runs.shape[1]
        self._caps = np.full(num_domains, np.inf)
        if caps is not None:
            self._caps = np.broadcast_to(as_float64(caps, "caps"), (num_domains,))
        self._weights = uniform_weights(num_domains)
        self._laws: MixingLaws | None = None

    @property
    def weights(self) -> Vector:
        """(K,) float64, the best mixture of the last fit."""
        return self._weights.copy()

    @property
    def laws(self) -> MixingLaws | None:
        """The laws of the last fit; None before it, and after a state was loaded."""
        return self._laws

    def update(self, losses: ArrayLike, /) -> Vector:
        """The best mixture by the laws of these losses.

        Args:
            losses: (P, M), one row a run, one column a validation domain; (P,) for one.

        Returns:
            (K,) float64, nowhere above the caps.

        Raises:
            WeightsError: NaN, the wrong shape, too few runs, or infeasible caps; the weights stay.
        """
        laws = fit_mixing_laws(self._runs, losses, huber_delta=self.huber_delta)
        num_targets = len(laws.floor)
        importance = self._importance
        if importance is None:
            importance = uniform_weights(num_targets)
        if len(importance) != num_targets:
            raise WeightsError(
                f"importance holds {len(importance)} numbers for {num_targets} validation domains."
            )
        self._weights = best_mixture(laws, importance, self._caps)
        self._laws = laws
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("mixing_laws", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "mixing_laws", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))
        self._laws = None
