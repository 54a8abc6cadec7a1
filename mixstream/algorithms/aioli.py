"""Aioli: fall of each domain's loss in short runs on known mixtures -> sampling weights.

At the start of each round the loop trains a few steps on each of K probe mixtures in random order,
several times over, as part of the training, and records how far each loss fell. From that follows
the matrix A of the linear law dL_i = - sum_j A_ij p_j, and the weights of the round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import checked_number, checked_signal, checked_weights
from mixstream.algorithms.simplex import exponentiated_gradient, log_weights, uniform_weights
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(K, K) float64."""


def probe_mixtures(num_domains: int, one_hot_factor: float) -> Matrix:
    """The K mixtures to probe: row j gives domain j this share, the others the rest evenly.

    Worked example: K = 3, factor 0.5: [[.5, .25, .25], [.25, .5, .25], [.25, .25, .5]].

    Source: Chen et al. 2024, arXiv:2411.05735, LearnParams; the code's one_hot_factor.
    """
    if num_domains == 1:
        return np.ones((1, 1))
    rest = (1 - one_hot_factor) / (num_domains - 1)
    return np.where(np.eye(num_domains, dtype=bool), one_hot_factor, rest)


def loss_matrix(loss_falls: Matrix, mixtures: Matrix) -> Matrix:
    """A of the law: fall of loss i = sum_j A_ij p_j, from the falls under K mixtures.

    Args:
        loss_falls: (K, K) float64, mean fall of loss i (row) in a run on mixture j (column), nats.
        mixtures: (K, K) float64, row j the mixture that was *realised* in run j: record what was
            drawn, as with few steps it differs from what was asked for.

    Returns:
        (K, K) float64, A: the fall of loss i (row) by a run on domain j (column) alone.

    Worked example: falls [[3, 2], [1, 1]] under [[1, 0], [0.5, 0.5]]: [[3, 1], [1, 1]].

    Source: Chen et al. 2024, arXiv:2411.05735; github.com/HazyResearch/aioli at a236112,
    learn_params_subroutine.

    Raises:
        WeightsError: the mixtures do not determine A.
    """
    if np.linalg.cond(mixtures) > 1e12:
        raise WeightsError(
            "the probe mixtures are nearly the same, so that the law is not determined; probe "
            "further apart (a larger one_hot_factor, more steps)."
        )
    return np.asarray(np.linalg.solve(mixtures, loss_falls.T).T, dtype=np.float64)


def shifted_to_simplex(matrix: Matrix) -> Matrix:
    """A less its least entry where that is negative, over its sum (the code's normalize_A).

    Worked example: [[1, -1], [0, 0]]: shifted [[2, 0], [1, 1]], over 4. All equal and not
    positive: all the same share.
    """
    shifted = matrix - min(float(matrix.min()), 0.0)
    total = float(shifted.sum())
    if total <= 0:
        return np.full_like(matrix, 1 / matrix.size)
    return np.asarray(shifted / total, dtype=np.float64)


class Aioli:
    """Sampling weights from a linear law that is learned anew each round.

    Signal: (K, K) mean falls of validation loss i (row) in the probe run of domain j (column), nats
    per token.
    Cost a step: K probe runs of a few steps each a round, which are training steps on other
    mixtures, and K x sweeps + 1 evaluations; an update is one solve, O(K^3).
    Absent domain: none may be absent, the law needs all K runs.
    Weight 0: none from the start; with `ema=None` a weight of 0 in `weights` is absorbing.
    NaN or infinity: WeightsError, and weights and average stay.
    K = 1: [1.0]. K = 10,000: no; K probe runs are for up to some tens of domains.

    Deviations: the code never checks what its probes drew; here `update` takes the realised
    mixtures. Two rules as in the code: with `ema` p ~ exp(eta colsum(mean A)), without it
    p_t ~ p_{t-1} exp(eta colsum(A)), which is the paper's. The code's prior stage and Skill-it
    stage are the loop's business; its aioli_diagonal (no solve, A_ii alone) is `diagonal`.

    Source: Chen et al. 2024, arXiv:2411.05735; github.com/HazyResearch/aioli at a236112,
    trainer/aioli_trainer.py. The paper's text was not opened here.
    """

    def __init__(
        self,
        num_domains: int,
        *,
        step_size: float,
        ema: float | None = None,
        one_hot_factor: float = 1.0,
        normalize: bool = True,
        diagonal: bool = False,
        weights: ArrayLike | None = None,
        domains: Sequence[str] = (),
    ):
        """Uniform weights until the first update.

        Args:
            num_domains: K.
            step_size: eta.
            ema: share of the old A kept, in [0, 1); None is the paper's product of updates.
            one_hot_factor: share of domain j in the probe mixture j, in (1/K, 1].
            normalize: shift and scale A to sum 1 first.
            diagonal: keep A_jj alone, the fall over the factor.
            weights: (K,) start of the product; None is uniform. With an ema they are not read.
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting is out of range.
        """
        self.step_size = checked_number(step_size, "step_size", 0.0)
        self.ema = None if ema is None else checked_number(ema, "ema", 0.0, 1.0, open_high=True)
        start = uniform_weights(num_domains)
        low = 1 / num_domains if num_domains > 1 else 0.0
        self.one_hot_factor = checked_number(
            one_hot_factor, "one_hot_factor", low, 1.0, open_low=True
        )
        self.normalize, self.diagonal = normalize, diagonal
        self._domains = tuple(domains)
        if weights is not None:
            start = checked_weights(weights, domains=self._domains)
        if len(start) != num_domains:
            raise WeightsError(f"weights hold {len(start)} numbers for {num_domains} domains.")
        self._logits = log_weights(start)
        self._matrix: Matrix | None = None

    @property
    def weights(self) -> Vector:
        """(K,) float64, what to sample by for the rest of the round."""
        return np.asarray(np.exp(self._logits), dtype=np.float64)

    @property
    def mixtures(self) -> Matrix:
        """(K, K) float64, the probe mixtures to run, one a row."""
        return probe_mixtures(len(self._logits), self.one_hot_factor)

    def update(self, loss_falls: ArrayLike, /, *, realised: ArrayLike | None = None) -> Vector:
        """Weights of this round.

        Args:
            loss_falls: (K, K) mean fall of loss i (row) in the probe run of domain j (column).
            realised: (K, K), row j the mean mixture that the runs of probe j drew; None takes what
                was asked for.

        Returns:
            (K,) float64.

        Raises:
            WeightsError: NaN, infinite, the wrong shape, or mixtures that do not determine the law;
                nothing has changed then.
        """
        num_domains = len(self._logits)
        shape = (num_domains, num_domains)
        falls = checked_signal(loss_falls, shape, source="loss_falls", domains=self._domains)
        drawn = self.mixtures
        if realised is not None:
            drawn = checked_signal(realised, shape, source="realised", domains=self._domains)
        matrix = self._law(falls, drawn)
        if self.ema is not None and self._matrix is not None:
            matrix = (1 - self.ema) * matrix + self.ema * self._matrix
        start = log_weights(uniform_weights(num_domains)) if self.ema is not None else self._logits
        logits = exponentiated_gradient(start, matrix.sum(axis=0), step_size=self.step_size)
        self._logits = logits
        self._matrix = matrix if self.ema is not None else None
        return self.weights

    def _law(self, falls: Matrix, mixtures: Matrix) -> Matrix:
        if self.diagonal:
            matrix = np.diag(np.diag(falls) / np.diag(mixtures))
        else:
            matrix = loss_matrix(falls, mixtures)
        return shifted_to_simplex(matrix) if self.normalize else matrix

    def state_dict(self) -> State:
        """JSON-able state: log-weights, and the average of A if there is one."""
        fields: dict[str, ArrayLike | None] = {"logits": self._logits, "matrix": self._matrix}
        return packed_state("aioli", len(self._logits), fields)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        num_domains = len(self._logits)
        reader = StateReader(state, "aioli", num_domains)
        logits = reader.log_weights("logits", num_domains)
        none = reader.is_none("matrix")
        self._matrix = None if none else reader.array("matrix", num_domains, num_domains)
        self._logits = logits
