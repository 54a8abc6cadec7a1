"""ADO's scaling laws: losses against rows drawn -> e + a n^-alpha for each domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(T, K) float64, one row a point in time, one column a domain."""

MIN_EXPONENT, MAX_EXPONENT = 1e-3, 0.8
MAX_LOG_SCALE = 6.5
HUBER_DELTA = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class ScalingLaws:
    """L_i(n) = floor_i + scale_i n^-exponent_i, one law a domain."""

    floor: Vector
    """(K,) float64, e: the loss that no data removes, nats per token."""
    scale: Vector
    """(K,) float64, a."""
    exponent: Vector
    """(K,) float64, alpha."""

    def losses(self, num_rows: float) -> Vector:
        """(K,) predicted losses after this many rows of the run."""
        return np.asarray(self.floor + self.scale * num_rows**-self.exponent, dtype=np.float64)

    def slopes(self, num_rows: float, *, min_exponent: float = 0.05) -> Vector:
        """(K,) -dL/dn = alpha (L - e) / n, with alpha at least `min_exponent` (as the code)."""
        reducible = self.losses(num_rows) - self.floor
        exponent = np.maximum(self.exponent, min_exponent)
        return np.asarray(exponent * reducible / num_rows, dtype=np.float64)


def fit_scaling_laws(num_rows: Vector, losses: Matrix, *, min_floor: float = 0.0) -> ScalingLaws:
    """The law of each domain by a Huber fit of the log-loss.

    The fit is ill-conditioned: compare predicted loss and slope, never the coefficients.

    Args:
        num_rows: (T,) float64, rows that the run had drawn, > 0; T >= 3.
        losses: (T, K) float64, positive, smoothed loss of each domain at those times.
        min_floor: the least e; the code penalises e below exp(0.5) = 1.65 nats, which suits
            tokens of a large vocabulary and no byte model.

    Returns:
        ScalingLaws, with alpha in [0.001, 0.8] and log a up to 6.5 (the code's penalties, as
        bounds).

    How: for each alpha of a grid the best (e, a) is a linear least-squares problem; the best three
    start a bounded least-squares fit in float64 with an analytic gradient. 10 to 100 ms a domain.

    Source: Jiang et al. 2024, arXiv:2410.11820; github.com/yidingjiang/ado at bc3d8d0,
    fit_scaling_law (float32 L-BFGS from a grid of 512 starts).

    Raises:
        WeightsError: fewer than three points, or a loss or count that is not positive.
    """
    if losses.ndim != 2 or len(num_rows) != len(losses) or len(losses) < 3:
        raise WeightsError(
            f"losses have shape {losses.shape} at {len(num_rows)} times; give (T, K) with T >= 3."
        )
    good = np.isfinite(losses).all() and (losses > 0).all() and (num_rows > 0).all()
    if not good:
        raise WeightsError(
            "losses and num_rows must be positive and finite for a fit of their log."
        )
    fits = np.array(
        [_fit_law(np.log(num_rows), losses[:, k], min_floor) for k in range(losses.shape[1])]
    )
    return ScalingLaws(floor=fits[:, 0], scale=fits[:, 1], exponent=fits[:, 2])


def _fit_law(log_rows: Vector, losses: Vector, min_floor: float) -> tuple[float, float, float]:
    """(e, a, alpha) of one domain."""
    from scipy.optimize import least_squares

    target = np.log(losses)
    least = np.log(max(min_floor, 1e-6 * float(losses.min())))
    low = np.array([least, -40.0, MIN_EXPONENT])
    high = np.array([float(target.max()) + 1e-9, MAX_LOG_SCALE, MAX_EXPONENT])

    def residuals(parameters: Vector) -> Vector:
        log_floor, log_scale, exponent = parameters
        predicted = np.logaddexp(log_floor, log_scale - exponent * log_rows)
        return np.asarray(predicted - target, dtype=np.float64)

    def jacobian(parameters: Vector) -> Matrix:
        log_floor, log_scale, exponent = parameters
        falling = log_scale - exponent * log_rows
        share = np.exp(falling - np.logaddexp(log_floor, falling))
        return np.column_stack((1 - share, share, -share * log_rows))

    best: tuple[float, Vector] | None = None
    for start in _starts(log_rows, losses, np.exp(least)):
        fit = least_squares(
            residuals,
            np.clip(start, low, high),
            jac=jacobian,
            bounds=(low, high),
            loss="huber",
            f_scale=HUBER_DELTA,
            x_scale="jac",
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
            max_nfev=500,
        )
        if best is None or fit.cost < best[0]:
            best = (float(fit.cost), np.asarray(fit.x, dtype=np.float64))
    assert best is not None, "there is always a start"
    log_floor, log_scale, exponent = best[1]
    return float(np.exp(log_floor)), float(np.exp(log_scale)), float(exponent)


def _starts(log_rows: Vector, losses: Vector, least: float) -> list[Vector]:
    """The best three of a grid in alpha, with e and a by linear least squares."""
    center = float(log_rows.mean())
    found = []
    for exponent in np.linspace(0.02, MAX_EXPONENT, 40):
        shape = np.exp(-exponent * (log_rows - center))
        varied = shape - shape.mean()
        reach = float((varied * losses).sum() / max((varied**2).sum(), 1e-300))
        reach = max(reach, 1e-6)
        floor = max(float((losses - reach * shape).mean()), least)
        error = float(((floor + reach * shape - losses) ** 2).sum())
        log_scale = np.log(reach) + exponent * center
        found.append((error, np.array([np.log(floor), log_scale, exponent])))
    return [start for _, start in sorted(found, key=lambda pair: pair[0])[:3]]
