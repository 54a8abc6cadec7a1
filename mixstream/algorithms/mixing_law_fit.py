"""Data Mixing Laws' fits: losses of runs on a few mixtures -> laws of the weights.

For each validation domain L(r) = c + exp(log k + t . r) in the weights r.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.checks import as_float64, checked_signal
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
        """(M,) bool, laws that leave more than a tenth of the variance of their losses."""
        return np.asarray(self.error**2 > 0.1 * self.spread**2, dtype=np.bool_)


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
    """|corr(x, log(L - c))|; above 0.99 in all published fits but one, which has 0.86."""

    @property
    def degenerate(self) -> bool:
        """Whether no such law fits: a correlation below 0.95."""
        return not self.correlation >= 0.95

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

    How: simple laws (log-linear at some floors; of one domain alone) are fitted by linear least
    squares, and the best few start a bounded least-squares fit of c and t together. Compare
    predictions, not coefficients. Cost: some 0.1 s a validation domain.

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

    # Noise may put the floor above the least loss, but not above them all.
    high = np.concatenate(([float(losses.max())], np.full(runs.shape[1], np.inf)))
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
    """The best eight of simple laws: log-linear ones at some floors, and of one domain each."""
    lowest, spread = float(losses.min()), max(float(np.ptp(losses)), 1e-6)
    found = []
    for floor in (0.0, lowest / 2, *(lowest - spread * np.array([3.0, 1.0, 0.3, 0.1, 0.03]))):
        if floor >= 0:
            logs = np.log(np.maximum(losses - floor, 1e-9))
            found.append(np.concatenate(([floor], np.linalg.lstsq(runs, logs, rcond=None)[0])))
    for domain, shares in enumerate(runs.T):
        for slope in (-30.0, -10.0, -3.0, 3.0, 10.0):
            shape = np.exp(slope * (shares - shares.max()))
            scale, floor = np.polyfit(shape, losses, 1) if np.ptp(shape) > 1e-9 else (0.0, 0.0)
            if scale > 0 and floor > 0:
                law = np.full(runs.shape[1], np.log(scale) - slope * shares.max())
                law[domain] += slope
                found.append(np.concatenate(([floor], law)))
    errors = [((law[0] + np.exp(runs @ law[1:]) - losses) ** 2).sum() for law in found]
    return [found[index] for index in np.argsort(errors, kind="stable")[:8]]


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
