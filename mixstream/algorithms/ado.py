"""ADO: training loss of each domain -> scaling laws, fitted as the run goes -> sampling weights.

The law of a domain, L(n) = e + a n^-alpha over the rows n that the run has drawn, says how fast its
loss falls now. A domain is drawn more, the faster it falls and the larger its prior and its recent
share. `update` returns what to sample by: hand it to `loader.set_weights`, each step or each ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.ado_law import ScalingLaws, fit_scaling_laws
from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import checked_number, checked_signal, checked_weights
from mixstream.algorithms.simplex import normalized
from mixstream.arrays import Vector
from mixstream.errors import StateError, WeightsError

Matrix = NDArray[np.float64]
"""(T, K) float64, one row a block of steps."""

MAX_BLOCKS = 512
"""Blocks of the loss history kept for the fit; when full, neighbours are merged in pairs."""


def ado_preference(slopes: Vector, prior: Vector, recent: Vector, *, credit: float = 0.5) -> Vector:
    """rho_i ~ mu_i h_i^credit slope_i: prior, share of the credit, and speed of learning.

    Args:
        slopes: (K,) float64, -dL_i/dn >= 0.
        prior: (K,) float64, mu.
        recent: (K,) float64, h: moving average of the share of rows drawn of each domain.
        credit: power of h; s = 1/2 in the paper.

    Returns:
        (K,) float64; the prior itself where no slope is positive.

    Worked example: slopes [1, 1], prior [1/2, 1/2], recent [0.8, 0.2]: sqrt is 2 : 1, [2/3, 1/3].

    Source: Jiang et al. 2024, arXiv:2410.11820; github.com/yidingjiang/ado at bc3d8d0, curr_dist
    after its fix of December 2024.
    """
    raw = prior * recent**credit * slopes
    return normalized(raw) if raw.sum() > 0 else prior.copy()


def floored(weights: Vector, floor: float) -> Vector:
    """Weights scaled to make room, lifted to `floor`, and divided by their sum (the code's rule).

    The division lets a lifted weight end a little below the floor: with sum s after the lift at
    floor / s. Where K floor exceeds 1 the floor cannot be kept.

    Worked example: [0.995, 0.005] at 0.01: [0.995, 0.01] / 1.005.

    Source: github.com/yidingjiang/ado at bc3d8d0, clip_min_probability.
    """
    deficit = max(floor * len(weights) - float(weights.sum()), 0.0)
    lifted = np.maximum(weights * ((1 - deficit) / weights.sum()), floor)
    return normalized(lifted)


class ADO:
    """Online weights by the speed at which each domain's loss falls.

    Signal: (K,) mean training loss of the domains in the batch, nats per token, and (K,) rows of
    each domain in it.
    Cost a step: O(K). A fit every `fit_every` steps takes 10 to 100 ms a domain (the code's grid in
    float32 takes minutes).
    Absent domain (no row in the batch): its loss is the last one measured; before its first, the
    mean loss of the batch (as the code).
    Weight 0: none; floored at `floor`, see `floored`.
    NaN or infinity: WeightsError, and everything stays.
    K = 1: [1.0]. K = 10,000: 0.2 ms an update. Two kinds of update take longer: the one that fits,
    minutes (fit seldom), and the one that merges the blocks, tens of ms (never twice in 256).

    Until the first fit the weights are the prior. Deviations from the code: a fit needs at least
    `min_fit_blocks` blocks of losses (the code's first fit sees one point and gives NaN); it is in
    float64 with an analytic gradient (`ado_law.py`); losses are averaged over blocks of steps in
    place of the code's Savitzky-Golay filter, and neighbouring blocks are merged when there are
    more than 512, so that the state stays small. ADO shows its mechanism; no gain over the prior is
    promised.

    Source: Jiang et al. 2024, arXiv:2410.11820; github.com/yidingjiang/ado at bc3d8d0,
    src/data_selectors/ado.py. The paper's text was not opened here.
    """

    def __init__(
        self,
        prior: ArrayLike,
        *,
        fit_from: int = 1000,
        fit_every: int = 1000,
        block_steps: int = 10,
        min_fit_blocks: int = 20,
        mix: float = 0.1,
        momentum: float = 0.9,
        credit: float = 0.5,
        floor: float = 0.01,
        domains: Sequence[str] = (),
    ):
        """Start from the prior.

        Args:
            prior: (K,) mu; the shares of the domains' sizes in the paper.
            fit_from: steps whose losses are left out of the fit (the warm-up of the optimiser).
            fit_every: steps between fits.
            block_steps: steps averaged into one point of the fit.
            min_fit_blocks: points without which no fit is made.
            mix: share of the new preference in the weights; the rest is its average over the run.
            momentum: of the recent shares h.
            credit: power of h.
            floor: least preference, the code's 0.01.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting or weight is out of range.
        """
        self.fit_from = int(checked_number(fit_from, "fit_from", 0))
        self.fit_every = int(checked_number(fit_every, "fit_every", 1))
        self.block_steps = int(checked_number(block_steps, "block_steps", 1))
        self.min_fit_blocks = int(checked_number(min_fit_blocks, "min_fit_blocks", 3))
        self.mix = checked_number(mix, "mix", 0.0, 1.0)
        self.momentum = checked_number(momentum, "momentum", 0.0, 1.0, open_high=True)
        self.credit = checked_number(credit, "credit", 0.0)
        self.floor = checked_number(floor, "floor", 0.0, 1.0, open_high=True)
        self._domains = tuple(domains)
        self._prior = checked_weights(prior, source="prior", domains=self._domains)
        num_domains = len(self._prior)
        self._weights, self._average = self._prior.copy(), self._prior.copy()
        self._recent = self._prior.copy()
        self._last_losses: Vector | None = None
        self._laws: ScalingLaws | None = None
        self._step, self._num_rows = 0, 0.0
        # One row a block: mean rows drawn so far, mean losses; the steps that each averages.
        self._history = np.zeros((MAX_BLOCKS, 1 + num_domains))  # filled in place, never copied
        self._num_blocks = 0
        self._open_block = np.zeros(1 + num_domains)
        self._num_open, self._steps_per_block = 0, self.block_steps

    @property
    def weights(self) -> Vector:
        """(K,) float64, what to sample by."""
        return self._weights.copy()

    @property
    def laws(self) -> ScalingLaws | None:
        """The laws of the last fit, None before the first."""
        return self._laws

    def use_laws(self, laws: ScalingLaws, *, step: int, num_rows: float) -> None:
        """Go on from laws fitted elsewhere, as after `step` steps that drew `num_rows` rows."""
        if laws.exponent.shape != self._prior.shape:
            raise WeightsError(
                f"there are {laws.exponent.size} laws for {self._prior.size} domains."
            )
        self._laws, self._step, self._num_rows = laws, step, float(num_rows)

    def update(self, losses: ArrayLike, num_rows: ArrayLike, /) -> Vector:
        """Weights after one step.

        Args:
            losses: (K,) mean loss of each domain in the batch; not read where it has no row.
            num_rows: (K,) rows of each domain in the global batch.

        Returns:
            (K,) float64.

        Raises:
            WeightsError: NaN, infinite, the wrong shape, a negative count or an empty batch;
                nothing has changed then.
        """
        shape = self._prior.shape
        rows = checked_signal(num_rows, shape, source="num_rows", domains=self._domains)
        if (rows < 0).any() or not rows.any():
            raise WeightsError("num_rows holds a negative count, or no row at all.")
        here = rows > 0
        measured = checked_signal(
            losses, shape, source="losses", domains=self._domains, present=here
        )
        known = self._last_losses
        if known is None:
            known = np.full(shape, float((measured * rows).sum() / rows.sum()))
        self._last_losses = np.where(here, measured, known)
        self._step += 1
        self._num_rows += float(rows.sum())
        self._recent = self.momentum * self._recent + (1 - self.momentum) * rows / rows.sum()
        if self._step > self.fit_from:
            self._remember(self._last_losses)
        if self._step > self.fit_from and self._step % self.fit_every == 0:
            self._fit()
        if self._laws is not None:
            self._reweigh(self._laws)
        return self._weights.copy()

    def _reweigh(self, laws: ScalingLaws) -> None:
        slopes = laws.slopes(self._num_rows)
        preference = floored(
            ado_preference(slopes, self._prior, self._recent, credit=self.credit), self.floor
        )
        self._weights = (1 - self.mix) * self._average + self.mix * preference
        share = 1 / (self._step + 1)
        self._average = (1 - share) * self._average + share * preference

    def _remember(self, losses: Vector) -> None:
        self._open_block = self._open_block + np.concatenate(([self._num_rows], losses))
        self._num_open += 1
        if self._num_open < self._steps_per_block:
            return
        self._history[self._num_blocks] = self._open_block / self._num_open
        self._num_blocks += 1
        self._open_block, self._num_open = np.zeros_like(self._open_block), 0
        if self._num_blocks == MAX_BLOCKS:
            self._history[: MAX_BLOCKS // 2] = (self._history[::2] + self._history[1::2]) / 2
            self._num_blocks = MAX_BLOCKS // 2
            self._steps_per_block *= 2

    def _fit(self) -> None:
        blocks = self._history[: self._num_blocks]
        if len(blocks) >= self.min_fit_blocks and (blocks[:, 1:] > 0).all():
            self._laws = fit_scaling_laws(blocks[:, 0], blocks[:, 1:])

    def state_dict(self) -> State:
        """JSON-able state: weights, averages, laws, and up to 512 blocks of the loss history."""
        laws = self._laws
        fields: dict[str, ArrayLike | None] = {
            "weights": self._weights,
            "average": self._average,
            "recent": self._recent,
            "last_losses": self._last_losses,
            "laws": None if laws is None else np.stack((laws.floor, laws.scale, laws.exponent)),
            "step": self._step,
            "num_rows": self._num_rows,
            "blocks": self._history[: self._num_blocks],
            "open_block": self._open_block,
            "num_open": self._num_open,
            "steps_per_block": self._steps_per_block,
        }
        return packed_state("ado", len(self._weights), fields)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        k = len(self._prior)
        reader = StateReader(state, "ado", k)
        weights, average = reader.weights("weights", k), reader.weights("average", k)
        recent = reader.weights("recent", k)
        losses = None if reader.is_none("last_losses") else reader.array("last_losses", k)
        laws = None if reader.is_none("laws") else ScalingLaws(*reader.array("laws", 3, k))
        blocks, open_block = reader.array("blocks", -1, 1 + k), reader.array("open_block", 1 + k)
        if len(blocks) >= MAX_BLOCKS:
            raise StateError(
                f"the state's blocks are {len(blocks)}, at most {MAX_BLOCKS - 1} are kept; "
                f"the state is damaged."
            )
        step, num_rows = reader.count("step"), reader.number("num_rows")
        num_open = reader.count("num_open")
        self._steps_per_block = reader.count("steps_per_block")
        self._weights, self._average, self._recent = weights, average, recent
        self._last_losses, self._laws = losses, laws
        self._history[: len(blocks)], self._num_blocks = blocks, len(blocks)
        self._open_block, self._num_open = open_block, num_open
        self._step, self._num_rows = step, num_rows
