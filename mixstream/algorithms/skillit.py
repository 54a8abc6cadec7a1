"""Skill-it: validation loss of each skill and a graph of who trains whom -> weights.

A graph A has one row a skill that one trains on and one column a skill that one wants; A_ij > 0
says that data of i lower the loss of j. Pre-training: all skills are both (square A).
Fine-tuning: the columns are the target skills, the rows all that may be sampled.
Out of domain: no target is among the rows. One formula serves all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    as_float64,
    checked_number,
    checked_present,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.simplex import log_weights, softmax
from mixstream.arrays import Vector
from mixstream.errors import WeightsError

Matrix = NDArray[np.float64]
"""(K, M) float64, one row a training skill, one column a target skill."""


def skillit_weights(
    graph: Matrix, losses: Vector, *, step_size: float, prior: Vector | None = None
) -> Vector:
    """Weights by how much wanted loss a skill can lower: p_i ~ prior_i exp(eta sum_j A_ij L_j).

    Args:
        graph: (K, M) float64, A: skill i (row) trains skill j (column); or its (K,) diagonal.
        losses: (M,) float64, validation loss of each target skill, nats per token, summed or
            averaged over the window; all ones give the weights of the first round.
        step_size: eta, per nat.
        prior: (K,) float64, factor before the exponential; None is 1 everywhere.

    Returns:
        (K,) float64. Not multiplied by the previous weights: the window is the whole memory.

    Worked example: A = [[1, 0], [1/2, 1]], L = [log 4, 0], eta 1: exp gives [4, 2], p = [2/3, 1/3].

    Source: Chen et al. 2023, arXiv:2307.14430, Algorithm 1.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # softmax refuses what is not finite
        logits = step_size * (graph @ losses if graph.ndim == 2 else graph * losses)
    return softmax(logits if prior is None else logits + log_weights(prior))


def graph_from_edges(edges: ArrayLike, *, off_diagonal: float = 0.5) -> Matrix:
    """A graph from 0/1 edges: the diagonal as given, an edge between two skills `off_diagonal`.

    Worked example: [[1, 0], [1, 1]] gives [[1, 0], [0.5, 1]].

    Source: github.com/HazyResearch/skill-it at 807b3bf, mw_trainer.py; only entries that are
    exactly 1 are changed, so a graph of learned strengths passes through.
    """
    graph = as_float64(edges, "edges")
    num_domains, num_targets = graph.shape
    between = (graph == 1) & ~np.eye(num_domains, num_targets, dtype=bool)
    return np.where(between, off_diagonal, graph)


def brute_force_graph(initial_loss: Vector, alone: Vector, together: Matrix) -> Matrix:
    """Graph from K + K (K - 1) short runs: does adding skill i to the training of j help j?

    A_jj = 1; A_ij = max(0, alone_j - together_ij) / (initial_j - alone_j): the extra fall of j's
    loss when i is trained beside it, as a share of the fall without i.

    Args:
        initial_loss: (K,) float64, loss of each skill before any run, nats per token.
        alone: (K,) float64, loss of j after a run of H steps on j alone.
        together: (K, K) float64, loss of j (column) after H steps on i (row) and j, half each; the
            diagonal is not read.

    Returns:
        (K, K) float64. A skill that its own run did not improve gets no edges into it.

    Worked example: initial [3, 3], alone [2, 2], together [[-, 1.5], [2.4, -]]:
    [[1, 0.5], [0, 1]].

    Source: Chen et al. 2023, arXiv:2307.14430, "LearnGraph, brute force". The paper's text could
    not be opened here: that an edge exists where the joint run is better is the paper's, the
    strength as a relative gain is our choice.
    """
    fall = initial_loss - alone
    gain = np.maximum(alone[np.newaxis, :] - together, 0.0)
    graph = np.divide(gain, fall, out=np.zeros_like(gain), where=fall > 0)
    np.fill_diagonal(graph, 1.0)
    return graph


def approximate_graph(initial_loss: Vector, after: Matrix, *, relative: bool = False) -> Matrix:
    """Graph from K short runs: how far does training on i alone lower the loss of j?

    Args:
        initial_loss: (M,) float64, loss of each target skill before any run, nats per token.
        after: (K, M) float64, loss of j (column) after H steps on i (row) alone.
        relative: divide by the initial loss of j, so that skills of high entropy do not rule.

    Returns:
        (K, M) float64, max(0, initial_j - after_ij), or that over initial_j.

    Worked example: initial [3, 2], after [[2, 2.5], [1.5, 1]]: [[1, 0], [1.5, 1]].

    Source: Chen et al. 2023, arXiv:2307.14430, "LearnGraph, approximate". The paper's text could
    not be opened here; the published graphs (spanish_qg) have such diagonals.
    """
    fall = np.maximum(initial_loss - after, 0.0)
    if not relative:
        return fall
    return np.divide(fall, initial_loss, out=np.zeros_like(fall), where=initial_loss > 0)


class SkillIt:
    """Online Skill-it: one evaluation of the target skills a round -> the next round's weights.

    Signal: (M,) validation loss of each target skill, nats per token.
    Cost a step: none; an update is one product with the graph, O(K M), and the loop pays one
    evaluation on all target skills a round.
    Absent skill: not evaluated in a round, it counts with its last loss; it must have one.
    Weight 0: cannot occur by the formula; a prior of 0 keeps a skill at 0 for good.
    NaN or infinity: WeightsError, and weights and window stay.
    K = 1: weights [1.0]. K = 10,000: the graph has 10^8 numbers (0.8 GB) and a product takes some
    50 ms; give a diagonal graph as (K,) numbers, then it is O(K).

    Deviations from the reference code, which are options: there the window counts checkpoints, not
    rounds (call `observe` at each checkpoint and `update` at the last one of a round), and it
    averages over the window in fine-tuning (`aggregate="mean"`); the paper sums over the last w
    rounds. With a prior the code's first round uses exp(eta A prior), here exp(eta A 1). The code's
    flags dynamic_lambda, eta_schedule and ignore_lone_nodes have no counterpart.

    Source: Chen et al. 2023, arXiv:2307.14430, Algorithm 1; github.com/HazyResearch/skill-it at
    807b3bf, trainer/mw_trainer.py.
    """

    def __init__(
        self,
        graph: ArrayLike,
        *,
        step_size: float,
        window: int = 3,
        aggregate: Literal["sum", "mean"] = "sum",
        prior: ArrayLike | None = None,
        loss_scale: ArrayLike | None = None,
        domains: Sequence[str] = (),
    ):
        """Weights of the first round: exp(eta A 1).

        Args:
            graph: (K, M) non-negative; or (K,), a diagonal graph (skills that train themselves).
            step_size: eta, per nat; the paper tunes it in 0.1 to 0.8.
            window: w, the evaluations that count.
            aggregate: "sum" (paper) or "mean" (the code's fine-tuning) over the window.
            prior: (K,) factor before the exponential, non-negative.
            loss_scale: (M,) positive; losses are divided by it (the code's normalize_loss).
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting is out of range or the graph has no (K, M) shape.
        """
        self.step_size = checked_number(step_size, "step_size", 0.0)
        self.window = int(checked_number(window, "window", 1))
        if aggregate not in ("sum", "mean"):
            raise WeightsError(f"aggregate is {aggregate!r}; it must be 'sum' or 'mean'.")
        self.aggregate = aggregate
        self._domains = tuple(domains)
        self._graph = _checked_graph(graph)
        num_domains, num_targets = self._graph.shape[0], self._graph.shape[-1]
        self._prior = None if prior is None else checked_weights(prior, source="prior")
        if self._prior is not None and len(self._prior) != num_domains:
            raise WeightsError(f"prior holds {len(self._prior)} numbers for {num_domains} skills.")
        self._scale = np.ones(num_targets)
        if loss_scale is not None:
            self._scale = checked_signal(loss_scale, (num_targets,), source="loss_scale")
            if not (self._scale > 0).all():
                raise WeightsError(f"loss_scale holds {self._scale.min()}; all must be positive.")
        self._losses = np.zeros((0, num_targets))
        self._weights = self._weigh(np.ones(num_targets))

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of this round."""
        return self._weights.copy()

    def observe(self, losses: ArrayLike, /, *, present: ArrayLike | None = None) -> None:
        """Take one evaluation into the window; the weights stay until `update`.

        Args:
            losses: (M,) validation loss of each target skill, nats per token.
            present: (M,) bool, the skills that were evaluated; None means all.

        Raises:
            WeightsError: NaN, infinite, the wrong shape, or a skill that was never evaluated.
        """
        self._losses = self._window_with(losses, present)

    def update(self, losses: ArrayLike, /, *, present: ArrayLike | None = None) -> Vector:
        """Take one evaluation into the window, and return the weights of the next round.

        Args:
            losses: (M,) validation loss of each target skill, nats per token.
            present: (M,) bool, the skills that were evaluated; None means all.

        Returns:
            (K,) float64.

        Raises:
            WeightsError: as `observe`; nothing has changed then.
        """
        window = self._window_with(losses, present)
        total = window.sum(axis=0) if self.aggregate == "sum" else window.mean(axis=0)
        self._weights = self._weigh(total / self._scale)
        self._losses = window
        return self._weights.copy()

    def _weigh(self, losses: Vector) -> Vector:
        return skillit_weights(self._graph, losses, step_size=self.step_size, prior=self._prior)

    def _window_with(self, losses: ArrayLike, present: ArrayLike | None) -> Matrix:
        """(<= w, M) float64, the window with one more evaluation."""
        num_targets = self._graph.shape[-1]
        seen = checked_present(present, num_targets)
        latest = checked_signal(losses, (num_targets,), source="losses", present=seen)
        if seen is not None:
            if not len(self._losses):
                index = int(np.flatnonzero(~seen)[0])
                raise WeightsError(
                    f"target skill {index} has never been evaluated; evaluate all once."
                )
            latest = np.where(seen, latest, self._losses[-1])
        kept = np.concatenate((self._losses, latest[np.newaxis]))[-self.window :]
        return np.asarray(kept, dtype=np.float64)

    def state_dict(self) -> State:
        """JSON-able state: the weights and the losses in the window; the graph is a setting."""
        fields: dict[str, ArrayLike | None] = {"weights": self._weights, "losses": self._losses}
        return packed_state("skillit", len(self._weights), fields)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "skillit", len(self._weights))
        weights = reader.weights("weights", len(self._weights))
        losses = reader.array("losses", -1, self._graph.shape[-1])
        self._weights, self._losses = weights, losses[-self.window :]


def _checked_graph(graph: ArrayLike) -> Matrix:
    matrix = as_float64(graph, "graph")
    if matrix.ndim not in (1, 2) or matrix.size == 0:
        raise WeightsError(
            f"graph has shape {matrix.shape}; give (K, M), rows train columns, or a (K,) diagonal."
        )
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        raise WeightsError("graph holds a negative, NaN or infinite strength; clip it at 0 first.")
    return matrix
