"""Direct Data Optimization (AutoScale's first half): losses of short runs -> the best counts.

For each domain train once with less and once with more of its data, the rest as it is; fit
loss(x) = (x + a)^-b + c over the multiple x of its data; minimise the sum of the laws over all
domains under the budget. Or fit one law over all domains at once to runs of any mixtures.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.checks import (
    as_float64,
    checked_number,
    checked_signal,
    domain_label,
)
from mixstream.arrays import Vector
from mixstream.errors import WeightsError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowerLaws:
    """loss_i(x) = scale_i (x + offset_i)^-exponent_i + floor_i, one law a domain."""

    offset: Vector
    """(K,) float64, a: what the other domains are worth, in multiples of this one's data."""
    exponent: Vector
    """(K,) float64, b, positive."""
    floor: Vector
    """(K,) float64, c: the loss that no amount of this domain's data removes."""
    scale: Vector | None = None
    """(K,) float64, factor before the power; None is 1."""

    def loss(self, multiples: Vector) -> Vector:
        """(K,) predicted loss of each law at its multiple, in the unit of the fit."""
        scale = 1.0 if self.scale is None else self.scale
        loss: Vector = scale * (multiples + self.offset) ** -self.exponent + self.floor
        return loss


def fit_power_laws(
    multiples: ArrayLike,
    losses: ArrayLike,
    *,
    initial: tuple[float, float, float] = (1.0, 1.0, 1.0),
    domains: Sequence[str] = (),
) -> PowerLaws:
    """The law of each domain from the losses of its down, base and up runs.

    Args:
        multiples: (P,) or (K, P), P >= 3: the multiples x of the domain's data in each run, for
            instance [0.2, 1, 3]. Given by you: AutoScale's notebook says one third in its text
            and fits with one fifth.
        losses: (K, P), the loss (or perplexity) of those runs over that of the base run, averaged
            over the validation sets.
        initial: a, b, c at which the fit starts. Three points have two exact fits; from (1, 1, 1)
            it finds the one that the paper published, and their optima differ by about 0.01.
        domains: (K,) names, for error messages.

    Returns:
        PowerLaws, each with exponent > 0 and x + offset > 0 in every run.

    Cost: one Levenberg-Marquardt fit a domain, about 1 ms each.

    Source: Kang et al. 2024, arXiv:2407.20177, section on DDO; github.com/feiyang-k/AutoScale at
    f3cae22, DDO_example.ipynb (scipy.optimize.curve_fit, p0 = 1, maxfev 10,000).

    Raises:
        WeightsError: fewer than three points, NaN, or a domain whose loss no such law fits (more
            of its data did not lower the loss).
    """
    observed = as_float64(losses, "losses")
    if observed.ndim != 2 or observed.shape[1] < 3:
        raise WeightsError(f"losses have shape {observed.shape}; give (K, P) with P >= 3 runs.")
    observed = checked_signal(losses, observed.shape, source="losses", domains=domains)
    points = np.broadcast_to(as_float64(multiples, "multiples"), observed.shape)
    if not (np.isfinite(points).all() and (points >= 0).all()):
        raise WeightsError(f"multiples hold {points.min()}; they are finite and not negative.")
    fits = np.array(
        [
            _fit_power_law(x, y, initial, domain_label(i, domains))
            for i, (x, y) in enumerate(zip(points, observed, strict=True))
        ]
    )
    return PowerLaws(offset=fits[:, 0], exponent=fits[:, 1], floor=fits[:, 2])


def _fit_power_law(
    x: Vector, y: Vector, initial: tuple[float, float, float], label: str
) -> tuple[float, float, float]:
    """One (a, b, c) by least squares; WeightsError if the fit fails or its law does not fall."""
    from scipy.optimize import OptimizeWarning, curve_fit

    def law(x: Vector, a: float, b: float, c: float) -> Vector:
        return np.asarray((x + a) ** -b + c, dtype=np.float64)

    refusal = (
        f"no law (x + a)^-b + c with b > 0 fits the losses {y.tolist()} of {label} at {x.tolist()} "
        f"times its data; more data should lower the loss. Run longer, or hold this domain fixed."
    )
    if not y[np.argmax(x)] < y[np.argmin(x)]:
        raise WeightsError(refusal)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # three points leave no covariance
        try:
            (a, b, c), _ = curve_fit(law, x, y, p0=initial, maxfev=10_000)
        except (RuntimeError, ValueError) as error:
            raise WeightsError(refusal) from error
    if not (np.isfinite([a, b, c]).all() and b > 0 and x.min() + a > 0):
        raise WeightsError(refusal)
    return float(a), float(b), float(c)


def ddo_counts(
    laws: PowerLaws, total: float, *, lower: ArrayLike = 0.0, upper: ArrayLike = np.inf
) -> Vector:
    """The counts that minimise the sum of the laws: exact water-filling between bounds.

    At the optimum every free domain has the same marginal gain m = k b (n + a)^(-b - 1), so
    n_i = clip((m / (k_i b_i))^(-1 / (b_i + 1)) - a_i, lower_i, upper_i), and their sum falls in m:
    bisect log m.

    Args:
        laws: K laws over the counts, in any unit (multiples of the base run, tokens).
        total: what the counts sum to, in that unit.
        lower: the least of each, one number or (K,), >= 0; what the down run had is a safe one.
        upper: the most of each, one number or (K,); max_epochs times the size is one.

    Returns:
        (K,) float64, counts; divide by the total for weights.

    Absent domain: a lower bound equal to its upper bound holds it fixed. Weight 0: reached at
    lower = 0 where the first bit of data is worth less than m. K = 1: [total]. K = 10,000: 2 ms.

    Deviation: the notebook walks 10,000 steps of gradient descent that is not projected (a count
    turns negative after 275 steps) and fixes domains by hand; this is where such a descent with the
    right domains fixed ends.

    Worked example: laws (n + 0)^-1 and 4 (n + 0)^-1, total 3: n is as the square root of the
    scale, [1, 2].

    Source: Kang et al. 2024, arXiv:2407.20177, the optimisation of DDO.

    Raises:
        WeightsError: the bounds leave no room for the total.
    """
    checked_number(total, "total", 0.0, open_low=True)
    num_domains = len(laws.exponent)
    low = np.broadcast_to(as_float64(lower, "lower"), (num_domains,))
    high = np.broadcast_to(as_float64(upper, "upper"), (num_domains,))
    high = np.minimum(high, total)
    if not ((low >= 0).all() and (low <= high).all() and low.sum() <= total * (1 + 1e-12)):
        raise WeightsError(
            f"the lower bounds sum to {low.sum():.6g} for a total of {total:.6g}, or one is "
            f"negative or above its upper bound; loosen them."
        )
    if high.sum() < total * (1 - 1e-12):
        raise WeightsError(
            f"the upper bounds sum to {high.sum():.6g}, below the total {total:.6g}; raise them."
        )
    if not (low + laws.offset >= 0).all():
        index = int(np.argmin(low + laws.offset))
        raise WeightsError(
            f"the law of {domain_label(index)} is undefined at its lower bound {low[index]:.6g} "
            f"(offset {laws.offset[index]:.6g}); raise the bound to what its down run had."
        )
    scale = np.ones(num_domains) if laws.scale is None else laws.scale
    log_slope = np.log(scale * laws.exponent)

    def counts_at(log_gain: float) -> Vector:
        with np.errstate(over="ignore"):
            free = np.exp((log_slope - log_gain) / (laws.exponent + 1)) - laws.offset
        return np.asarray(np.clip(free, low, high), dtype=np.float64)

    with np.errstate(divide="ignore"):
        at_low = log_slope - (laws.exponent + 1) * np.log(low + laws.offset)
        at_high = log_slope - (laws.exponent + 1) * np.log(high + laws.offset)
    least, most = float(at_high.min()), float(np.minimum(at_low, 700.0).max())
    for _ in range(200):
        middle = (least + most) / 2
        if middle in (least, most):
            break
        least, most = (middle, most) if counts_at(middle).sum() >= total else (least, middle)
    return _filled(counts_at(least), low, high, total)


def _filled(counts: Vector, low: Vector, high: Vector, total: float) -> Vector:
    """Counts with the last rounding of the sum taken out of those that are at no bound."""
    free = (counts > low) & (counts < high)
    if free.any():
        rest = total - counts[~free].sum()
        counts[free] = np.clip(counts[free] * rest / counts[free].sum(), low[free], high[free])
    return np.asarray(counts, dtype=np.float64)


def ddo_weights(
    multiples: ArrayLike,
    losses: ArrayLike,
    base_weights: ArrayLike,
    *,
    min_multiple: float,
    max_multiple: float = np.inf,
    domains: Sequence[str] = (),
) -> Vector:
    """Weights of the best mixture at the scale of the runs, from their losses.

    Args:
        multiples: (P,), the multiples of a domain's data in its runs, as `fit_power_laws`.
        losses: (K, P), over the loss of the base run, as `fit_power_laws`.
        base_weights: (K,), the mixture of the base run, all positive.
        min_multiple: the least multiple to trust the law at; the down run's is one.
        max_multiple: the largest multiple to trust the law at.
        domains: (K,) names, for error messages.

    Returns:
        (K,) float64.

    Source: Kang et al. 2024, arXiv:2407.20177.

    Raises:
        WeightsError: as `fit_power_laws` and `ddo_counts`.
    """
    laws = fit_power_laws(multiples, losses, domains=domains)
    base = checked_signal(base_weights, laws.offset.shape, source="base_weights", domains=domains)
    if not (base > 0).all():
        raise WeightsError(f"base_weights hold {base.min()}; every domain must be in the base run.")
    share = base / base.sum()
    # In units of the budget a domain's multiple is n / share: (n / share + a)^-b is
    # share^b (n + a share)^-b.
    in_budget = PowerLaws(
        offset=laws.offset * share,
        exponent=laws.exponent,
        floor=laws.floor,
        scale=share**laws.exponent,
    )
    return ddo_counts(in_budget, 1.0, lower=min_multiple * share, upper=max_multiple * share)


def fit_joint_law(mixtures: ArrayLike, losses: ArrayLike, budget: float) -> PowerLaws:
    """One law over all domains from runs of any mixtures: sum_i (a_i + N p_i)^-b_i + c.

    Args:
        mixtures: (P, K), the weights p of each run; P >= 2 K + 1 for a fit that is determined.
        losses: (P,), one target's loss after each run.
        budget: N, what each run drew, in a unit that keeps N near 1 to 1,000 (10^9 tokens, say).

    Returns:
        PowerLaws over the counts N p_i, for `ddo_counts(laws, N)`; the floor is c / K each, so that
        the losses of the K laws sum to the loss of the run.

    Cost: one bounded least-squares fit of 2 K + 1 numbers; seconds at K = 20.

    Deviation: bounded trust region in float64 from Olmix's start (a = N / K, b = 1/2, c a tenth of
    the least loss); compare predictions, as the coefficients are ill-determined.

    Source: github.com/allenai/olmix at 9586977, olmix/fit/utils.py, AutoscaleRegressor.

    Raises:
        WeightsError: shapes that do not fit, or NaN.
    """
    from scipy.optimize import least_squares

    runs = as_float64(mixtures, "mixtures")
    if runs.ndim != 2:
        raise WeightsError(f"mixtures have shape {runs.shape}; give (P, K), one row a run.")
    runs = checked_signal(mixtures, runs.shape, source="mixtures")
    observed = checked_signal(losses, runs.shape[:1], source="losses")
    counts = runs * checked_number(budget, "budget", 0.0, open_low=True)
    num_domains = runs.shape[1]

    def residuals(parameters: Vector) -> Vector:
        offset, exponent = parameters[:num_domains], parameters[num_domains:-1]
        loss = ((offset * budget + counts) ** -exponent).sum(axis=1) + parameters[-1]
        return np.asarray(loss - observed, dtype=np.float64)

    start = np.concatenate(
        (
            np.full(num_domains, 1.0 / num_domains),
            np.full(num_domains, 0.5),
            [0.1 * max(float(observed.min()), 0.0)],
        )
    )
    least = np.concatenate((np.full(num_domains, 1e-9), np.zeros(num_domains + 1)))
    fit = least_squares(
        residuals, start, bounds=(least, np.inf), xtol=1e-12, ftol=1e-14, gtol=1e-12, max_nfev=5000
    )
    return PowerLaws(
        offset=fit.x[:num_domains] * budget,
        exponent=fit.x[num_domains:-1],
        floor=np.full(num_domains, fit.x[-1] / num_domains),
    )
