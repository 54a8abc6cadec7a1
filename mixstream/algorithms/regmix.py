"""RegMix: losses of many small runs on random mixtures -> a regression -> the best mixture.

1. `regmix_mixtures` draws the mixtures to run.
2. The loop trains a small model on each and measures the target's loss.
3. A regression predicts the loss of a mixture; the mean of the best of many simulated mixtures is
   the result.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    as_float64,
    checked_number,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.simplex import normalized
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(P, K) float64, one mixture a row."""

Predictor: TypeAlias = Callable[[Matrix], Vector]
"""(P, K) mixtures -> (P,) predicted losses."""


def regmix_mixtures(
    prior: ArrayLike,
    num_mixtures: int,
    *,
    seed: int = 42,
    temperature: float = 0.5,
    strengths: tuple[float, float] = (0.1, 5.0),
    max_usage: float = 15.0,
    minimum: float = 2e-4,
    oversampling: int = 100,
) -> Matrix:
    """Mixtures to run: Dirichlet draws around the prior at 15 strengths, bounded, and thinned.

    Args:
        prior: (K,) shares of the domains' sizes.
        num_mixtures: P, how many.
        seed: the result is a function of the seed and the arguments, to the reference's digit.
        temperature: power of the prior that the draws are centred on.
        strengths: least and largest sum of the Dirichlet's parameters.
        max_usage: a draw with a weight above this multiple of its prior (or 1) is thrown away.
        minimum: weights below are 0, the others multiples of it.
        oversampling: draws a mixture; of those that are left, P are picked at random.

    Returns:
        (P, K) float64. Rounding lets rows sum to 1 give or take K minimum / 2: divide by their sums
        before use, as `RegMix` does.

    Cost: 15 Dirichlet draws a try, some 60 us: 512 mixtures take 10 s.

    Source: Liu et al. 2024, arXiv:2407.01492; github.com/sail-sg/regmix at b004d3a,
    mixture_config/synthesize_mixture.py, whose generators are used for the sake of its digits.

    Raises:
        WeightsError: a weight of the prior out of range, or too few draws within the bounds.
    """
    center = checked_weights(prior, source="prior")
    bound = np.minimum(center * max_usage, 1.0)
    if temperature < 1.0:
        center = normalized(center**temperature)
    draws = np.random.RandomState(seed)  # the published draws are this generator's
    picks = random.Random(seed)
    levels = np.logspace(np.log10(strengths[0]), np.log10(strengths[1]), 15)
    kept = []
    for _ in range(num_mixtures * oversampling):
        drawn = picks.choice([draws.dirichlet(center * level, 1)[0] for level in levels])
        if (drawn <= bound).all():
            large = normalized(np.where(drawn < minimum, 0.0, drawn))
            kept.append(np.round(large / minimum) * minimum)
    distinct = _distinct(np.array(kept).reshape(-1, len(center)))
    if len(distinct) < num_mixtures:
        raise WeightsError(
            f"{len(distinct)} of {num_mixtures * oversampling} draws keep the bounds and differ, "
            f"{num_mixtures} are needed; raise oversampling or max_usage."
        )
    return np.stack(picks.sample(distinct, num_mixtures))


def _distinct(mixtures: Matrix) -> list[Vector]:
    """The mixtures in lexical order, without those within an L1 distance of 1e-5 of the last."""
    result: list[Vector] = []
    for mixture in mixtures[np.lexsort(mixtures.T)] if len(mixtures) else mixtures:
        if not result or float(np.abs(mixture - result[-1]).sum()) > 1e-5:
            result.append(mixture)
    return result


def ridge_predictor(mixtures: Matrix, losses: Vector, *, penalty: float = 1e-2) -> Predictor:
    """Linear regression with an intercept and an L2 penalty on the coefficients.

    Solves min ||y - X b - b0||^2 + penalty ||b||^2, the intercept free. Less able than boosted
    trees (a rank correlation of 0.90 for 0.99 on the published runs), and has no dependency.

    Worked example: mixtures [[1, 0], [0, 1]], losses [1, 3], penalty 0: predicts 2 for [.5, .5].
    """
    mean_mixture, mean_loss = mixtures.mean(axis=0), float(losses.mean())
    centered = mixtures - mean_mixture
    gram = centered.T @ centered + penalty * np.eye(mixtures.shape[1])
    coefficients = np.linalg.lstsq(gram, centered.T @ (losses - mean_loss), rcond=None)[0]
    return lambda rows: np.asarray((rows - mean_mixture) @ coefficients + mean_loss, np.float64)


def lightgbm_predictor(
    mixtures: Matrix,
    losses: Vector,
    *,
    validation: tuple[Matrix, Vector] | None = None,
) -> Predictor:
    """Boosted trees with the published settings: 1,000 rounds, rate 0.01, seed 42.

    Args:
        mixtures: (P, K) float64.
        losses: (P,) float64.
        validation: mixtures and losses on which 3 rounds without a gain stop the training, as the
            published runs do; None trains all 1,000 rounds.

    Source: github.com/sail-sg/regmix at b004d3a, regression.ipynb; the published numbers are
    lightgbm 4.5's.

    Raises:
        ImportError: lightgbm is not installed; the message says how to.
    """
    try:
        import lightgbm  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError(
            "RegMix's regression needs lightgbm: pip install 'lightgbm>=4.5' (or take "
            "regressor='ridge', which needs nothing)."
        ) from error
    settings = {"objective": "regression", "metric": ["l1", "l2"], "learning_rate": 0.01}
    train = lightgbm.Dataset(mixtures, losses)
    watched = []
    callbacks: list[Callable[..., Any]] = []
    if validation is not None:
        watched.append(lightgbm.Dataset(*validation, reference=train))
        callbacks.append(lightgbm.early_stopping(3, verbose=False))
    booster = lightgbm.train(
        {**settings, "seed": 42, "verbosity": -1},
        train,
        num_boost_round=1000,
        valid_sets=watched,
        callbacks=callbacks,
    )
    return lambda rows: np.asarray(booster.predict(rows), dtype=np.float64)


def best_of_simulated(
    predictor: Predictor,
    prior: Vector,
    *,
    num_simulated: int = 100_000,
    num_best: int = 128,
    seed: int = 42,
    caps: Vector | None = None,
) -> Vector:
    """Mean of the mixtures with the least predicted loss among Dirichlet draws around the prior.

    Args:
        predictor: of the target's loss.
        prior: (K,) float64, the parameters of the Dirichlet; they sum to about 1.
        num_simulated: draws.
        num_best: how many are averaged.
        seed: the result is a function of it.
        caps: (K,) float64; draws above them are left out, so that the mean keeps them, too.

    Returns:
        (K,) float64.

    Source: github.com/sail-sg/regmix at b004d3a, regression.ipynb, cell 18.

    Raises:
        WeightsError: fewer than `num_best` draws keep the caps.
    """
    draws = np.random.RandomState(seed)  # the published draws are this generator's
    parameters = np.maximum(prior, 1e-12)  # an empty domain is drawn at 0
    simulated = draws.dirichlet(parameters, num_simulated)
    if caps is not None:
        simulated = simulated[(simulated <= caps).all(axis=1)]
    if len(simulated) < num_best:
        raise WeightsError(
            f"{len(simulated)} of {num_simulated} simulated mixtures keep the caps, {num_best} are "
            f"averaged; simulate more, or loosen the caps."
        )
    order = np.argsort(predictor(simulated))
    return normalized(simulated[order[:num_best]].mean(axis=0))


class RegMix:
    """The mixture of the least predicted loss, from many small runs.

    Signal: (P,) loss of the target after each run, nats per token; average several targets first.
    Cost a step: none; asked once. Before: P short runs (512 in the paper) of a tiny model.
    Absent domain: prior 0 keeps it out. Weight 0: neither absorbing nor floored.
    NaN or a wrong length: WeightsError, and the weights stay.
    K = 1: [1.0]. K = 10,000: no; the regression needs several runs a domain.

    Deviation: early stopping watches the published test mixtures in the notebook; here what
    `validation` holds, and nothing by default. Caps are ours.

    Source: Liu et al. 2024, arXiv:2407.01492; github.com/sail-sg/regmix at b004d3a.
    """

    def __init__(
        self,
        prior: ArrayLike,
        mixtures: ArrayLike,
        *,
        regressor: Literal["lightgbm", "ridge"] = "lightgbm",
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        caps: ArrayLike | None = None,
        num_simulated: int = 100_000,
        num_best: int = 128,
        seed: int = 42,
    ):
        """Start from the prior.

        Args:
            prior: (K,) shares of the domains' sizes.
            mixtures: (P, K), the mixtures that were run, as configured (rows are divided by their
                sums).
            regressor: "lightgbm" (paper; an extra to install) or "ridge".
            validation: (P', K) mixtures and (P',) losses for lightgbm's early stopping.
            caps: (K,) from `simplex.epoch_caps`; None for none.
            num_simulated: mixtures whose loss is predicted.
            num_best: how many of the best are averaged.
            seed: of the simulation.

        Raises:
            WeightsError: a setting is out of range or shapes do not fit.
        """
        self._prior = checked_weights(prior, source="prior")
        num_domains = len(self._prior)
        if regressor not in ("lightgbm", "ridge"):
            raise WeightsError(f"regressor is {regressor!r}; it must be 'lightgbm' or 'ridge'.")
        self.regressor = regressor
        self._runs = _checked_runs(mixtures, num_domains, "mixtures")
        self._validation: tuple[Matrix, Vector] | None = None
        if validation is not None:
            held_out = _checked_runs(validation[0], num_domains, "validation mixtures")
            losses = checked_signal(validation[1], (len(held_out),), source="validation losses")
            self._validation = (held_out, losses)
        self._caps = None
        if caps is not None:
            self._caps = np.broadcast_to(as_float64(caps, "caps"), (num_domains,))
        self.num_simulated = int(checked_number(num_simulated, "num_simulated", 1))
        self.num_best = int(checked_number(num_best, "num_best", 1, num_simulated))
        self.seed = seed
        self._weights = self._prior.copy()

    @property
    def weights(self) -> Vector:
        """(K,) float64, the best mixture of the last losses."""
        return self._weights.copy()

    def update(self, losses: ArrayLike, /) -> Vector:
        """(K,) float64, the mixture of the least predicted loss.

        Args:
            losses: (P,) loss of the target after each run.

        Raises:
            WeightsError: NaN, the wrong shape, or caps that too few simulated mixtures keep; the
                weights stay then.
            ImportError: lightgbm is not installed.
        """
        observed = checked_signal(losses, (len(self._runs),), source="losses")
        if self.regressor == "ridge":
            predictor = ridge_predictor(self._runs, observed)
        else:
            predictor = lightgbm_predictor(self._runs, observed, validation=self._validation)
        self._weights = best_of_simulated(
            predictor,
            self._prior,
            num_simulated=self.num_simulated,
            num_best=self.num_best,
            seed=self.seed,
            caps=self._caps,
        )
        return self._weights.copy()

    def state_dict(self) -> State:
        """JSON-able state: the weights."""
        return packed_state("regmix", len(self._weights), {"weights": self._weights})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "regmix", len(self._weights))
        self._weights = reader.weights("weights", len(self._weights))


def _checked_runs(mixtures: ArrayLike, num_domains: int, source: str) -> Matrix:
    """(P, K) float64, rows on the simplex."""
    runs = as_float64(mixtures, source)
    if runs.ndim != 2 or runs.shape[1] != num_domains:
        raise WeightsError(f"{source} have shape {runs.shape}; give (P, {num_domains}).")
    rows = [checked_weights(row, source=f"row {p} of {source}") for p, row in enumerate(runs)]
    return np.stack(rows)
