"""GRAPE: inner products of domains' and tasks' gradients -> weights of domains, and of tasks.

Sampling weights of the domains follow the target tasks, and the tasks' weights follow the task that
improves least, so that no target is left behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mixstream.algorithms.base import State, StateReader, packed_state
from mixstream.algorithms.checks import (
    checked_number,
    checked_present,
    checked_signal,
    checked_weights,
)
from mixstream.algorithms.simplex import (
    exponentiated_gradient,
    log_weights,
    smoothed,
    uniform_weights,
)
from mixstream.arrays import Vector


def grape_task_update(
    task_weights: Vector, task_alignment: Vector, *, mu: float, smoothing: float = 1e-3
) -> Vector:
    """GRAPE's step on the targets: z_t ~ z_t exp(-mu <g_t, g_train>), then smoothing.

    Args:
        task_weights: (T,) float64, z.
        task_alignment: (T,) float64, how far training lowers each task's loss: the inner product of
            the task's gradient (of log loss, in the paper's default) with the training gradient.
        mu: step size.
        smoothing: share of uniform mixed in.

    Returns:
        (T,) float64; the task that training helps least gains.

    Worked example: z [1/2, 1/2], alignment [0, log 3], mu 1, no smoothing: [3/4, 1/4].

    Source: github.com/Olivia-fsm/GRAPE_data_mixture_with_multi_target at 7f3efcf,
    tgt_reweight_step. The paper (Fan et al. 2025) was not opened here.
    """
    logits = exponentiated_gradient(log_weights(task_weights), task_alignment, step_size=-mu)
    return smoothed(np.exp(logits), smoothing)


class GRAPE:
    """Sampling weights of the domains and weights of T target tasks, moved in turn.

    Signal of `update`: (K, T) inner products of each domain's gradient with each task's; of
    `update_tasks`: (T,) inner products of each task's gradient with the training gradient.
    Cost a step: K + T backward passes at each update. Weight 0 of a domain: absorbing; tasks are
    floored by the smoothing. NaN: WeightsError, and all weights stay. K = 1, T = 1: [1.0].
    K = 10,000: an update is K T products. Absent domain: keeps its weight.

    Deviation: none known in the rule. The reference code clips the gradients first
    (`clipped_gradients`) and takes the tasks' gradients of the log of their loss.

    Source: Fan et al. 2025, GRAPE; github.com/Olivia-fsm/GRAPE_data_mixture_with_multi_target at
    7f3efcf, domain_reweight_step and tgt_reweight_step. The paper was not opened here.
    """

    def __init__(
        self,
        weights: ArrayLike,
        num_tasks: int,
        *,
        mu: float,
        task_mu: float,
        task_smoothing: float = 1e-3,
        domains: Sequence[str] = (),
    ):
        """Start from given domain weights and uniform task weights.

        Args:
            weights: (K,) initial weights.
            num_tasks: T.
            mu: step size of the domains, a factor (DoGE divides by what it calls mu).
            task_mu: step size of the tasks.
            task_smoothing: share of uniform mixed into the task weights, in [0, 1).
            domains: (K,) names, for error messages alone.

        Raises:
            WeightsError: a setting or weight is out of range.
        """
        self.mu = checked_number(mu, "mu", 0.0)
        self.task_mu = checked_number(task_mu, "task_mu", 0.0)
        self.task_smoothing = checked_number(
            task_smoothing, "task_smoothing", 0.0, 1.0, open_high=True
        )
        self._domains = tuple(domains)
        self._logits = log_weights(checked_weights(weights, domains=self._domains))
        self._tasks = uniform_weights(num_tasks)

    @property
    def weights(self) -> Vector:
        """(K,) float64, what to sample by."""
        return np.asarray(np.exp(self._logits), dtype=np.float64)

    @property
    def task_weights(self) -> Vector:
        """(T,) float64, z."""
        return self._tasks.copy()

    def update(self, alignment: ArrayLike, /, *, present: ArrayLike | None = None) -> Vector:
        """(K,) float64, new sampling weights from (K, T) inner products; (K,) for one task.

        Raises:
            WeightsError: NaN, infinite, or the wrong shape; nothing has changed then.
        """
        num_domains, num_tasks = len(self._logits), len(self._tasks)
        seen = checked_present(present, num_domains)
        shape = (num_domains,) if np.ndim(alignment) < 2 and num_tasks == 1 else None
        signal = checked_signal(
            alignment,
            shape or (num_domains, num_tasks),
            source="alignment",
            domains=self._domains,
            present=seen,
        ).reshape(num_domains, num_tasks)
        self._logits = exponentiated_gradient(
            self._logits, signal @ self._tasks, step_size=self.mu, present=seen
        )
        return self.weights

    def update_tasks(self, task_alignment: ArrayLike, /) -> Vector:
        """(T,) float64, new task weights from each task's alignment with the training gradient.

        Raises:
            WeightsError: NaN, infinite, or the wrong shape; nothing has changed then.
        """
        signal = checked_signal(task_alignment, self._tasks.shape, source="task_alignment")
        self._tasks = grape_task_update(
            self._tasks, signal, mu=self.task_mu, smoothing=self.task_smoothing
        )
        return self._tasks.copy()

    def state_dict(self) -> State:
        """JSON-able state: log-weights of the domains, weights of the tasks."""
        fields: dict[str, ArrayLike | None] = {"logits": self._logits, "tasks": self._tasks}
        return packed_state("grape", len(self._logits), fields)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up a saved state; StateError, and nothing changed, if it does not fit."""
        reader = StateReader(state, "grape", len(self._logits))
        logits = reader.log_weights("logits", len(self._logits))
        self._tasks = reader.weights("tasks", len(self._tasks))
        self._logits = logits
