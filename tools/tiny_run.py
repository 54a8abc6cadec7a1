"""Settings -> the phases of a run, step by step; its checkpoint and its report."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tiny_bench import Bench, Method, Seen
from tiny_gpt import TinyGPT
from tiny_methods import METHODS, PHASES
from tiny_rows import (
    TargetRows,
    losses_of,
    measured_losses,
    same_tokens,
    spaced_rows,
    split,
)
from tiny_settings import Settings, what_counts

import mixstream
from mixstream import feedback


class Run:
    """The phases of a method, one after the other; all that a checkpoint holds."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.rank, self.world_size = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )
        for name in ("batch_size", "probe_rows"):
            if getattr(settings, name) % self.world_size:
                raise SystemExit(f"{name} must be a multiple of the {self.world_size} ranks.")
        if settings.dtype not in ("float32", "float64", "bfloat16"):
            raise SystemExit(f"--dtype is {settings.dtype!r}; give float32, float64 or bfloat16.")
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", self.rank % torch.cuda.device_count())
        whole = mixstream.open_corpus(settings.corpus)
        self.corpus, self.held_out = split(whole, settings.eval_rows)
        self.eval_corpus = whole
        if settings.eval is not None:
            self.corpus, self.eval_corpus = whole, same_tokens(whole, settings.eval)
            self.held_out = spaced_rows(self.eval_corpus, settings.eval_rows)
        self.num_rows = np.array([rows.sum() for rows in self.corpus.layout.values()])
        for empty in np.flatnonzero(self.num_rows == 0)[:1]:
            raise SystemExit(f"domain {whole.domains[empty]!r} has no rows to train on.")
        self.phases = [*PHASES.get(settings.method, {}), "main"]
        self.earlier: dict[str, Any] = {}
        self.history: list[list[Any]] = []
        self.seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in self.phases}
        self.start_phase(self.phases[0])

    def start_phase(self, phase: str) -> None:
        """A fresh model, optimizer, loader and method."""
        settings = self.settings
        self.phase, self.step = phase, 0
        self.model = self.fresh_model()
        self.parallel: torch.nn.Module = self.model
        if self.world_size > 1:
            self.parallel = torch.nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.peak_rate, betas=(0.9, 0.95), weight_decay=0.1
        )
        self.loader = self.fresh_loader(None, run_log=self.log_path())
        self.bench = Bench(
            settings=settings,
            loader=self.loader,
            model=self.model,
            learning_rate=self.learning_rate,
            num_rows=self.num_rows,
            budget=settings.steps * settings.batch_size,
            target=self.target_rows(),
            earlier=self.earlier,
            short_run=self.short_run,
        )
        self.method = self.make_method()
        self.loader.set_weights(self.method.weights, reason=f"{phase}: start")

    def make_method(self) -> Method:
        """The method's part in this phase; the main phase after others samples by their result."""
        before = PHASES.get(self.settings.method, {})
        if self.phase in before:
            return before[self.phase](self.bench)
        if before:
            return Method(np.array(self.earlier["weights"]))
        return METHODS[self.settings.method](self.bench)

    def fresh_model(self) -> TinyGPT:
        """The model before the first step; the same in every phase."""
        settings, manifest = self.settings, self.corpus.manifest
        torch.manual_seed(settings.seed)
        vocab_size = 2**16 if manifest is None else manifest.tokenizer.vocab_size
        model = TinyGPT(
            vocab_size, self.corpus.seq_len, width=settings.width, num_layers=settings.layers
        )
        return model.to(self.device, getattr(torch, settings.dtype))

    def log_path(self) -> Path | None:
        """Of this phase's run log."""
        if self.settings.run_log is None:
            return None
        path = Path(self.settings.run_log)
        named = path.with_name(f"{path.stem}.{self.phase}{path.suffix}")
        return path if self.phase == self.phases[-1] else named

    def fresh_loader(self, weights: Any, run_log: Path | None = None) -> mixstream.Loader:
        """This rank's loader from row 0 on."""
        return mixstream.Loader(
            self.corpus,
            weights,
            batch_size=self.settings.batch_size // self.world_size,
            seed=self.settings.seed,
            sampling=self.settings.sampling,
            labels=True,
            run_log=run_log,
        )

    def target_rows(self) -> TargetRows | None:
        """Rows of --target."""
        if self.settings.target is None:
            return None
        corpus = same_tokens(self.corpus, self.settings.target)
        return TargetRows(
            corpus,
            self.settings.batch_size,
            seed=self.settings.seed,
            rank=self.rank,
            world_size=self.world_size,
        )

    def learning_rate(self, step: int) -> float:
        """A linear warm-up over a tenth of the steps (at most 100), then a cosine to a tenth."""
        warm_up = min(100, self.settings.steps // 10) or 1
        done = min(1.0, step / self.settings.steps)
        shape = 0.1 + 0.45 * (1 + math.cos(math.pi * done))
        return self.settings.peak_rate * min(1.0, (step + 1) / warm_up) * shape

    def short_run(
        self, weights: np.ndarray, steps: int, measure: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """What `measure` finds in this model after some steps; then it is as it was."""
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.settings.peak_rate)
        batches = iter(self.fresh_loader(weights))
        for _ in range(steps):
            self.optimize(optimizer, self.mean_loss(self.bench.to_device(next(batches))))
        found = measure()
        self.model.load_state_dict(before)
        return found

    def mean_loss(self, batch: Any) -> torch.Tensor:
        """The plain loss over the global batch."""
        losses = losses_of(self.parallel, batch)
        places = (batch["labels"], batch["domain_ids"])
        num_tokens = feedback.domain_losses(losses, *places, self.bench.num_domains).num_tokens
        return feedback.weighted_loss(losses, *places, np.ones_like(num_tokens) / num_tokens.sum())

    def optimize(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        """One step along the gradient of a loss, clipped at norm 1."""
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()

    def train_step(self, batch: Any) -> None:
        """Loss, the method's loss weights, the step, the method's new sampling weights."""
        method, start = self.method, self.clock()
        batch = self.bench.to_device(batch)
        losses = losses_of(self.parallel, batch)
        places = (batch["labels"], batch["domain_ids"])
        measured = feedback.domain_losses(losses, *places, self.bench.num_domains)
        seen = Seen(self.step, batch, losses.detach(), measured)
        token_weights = np.ones(self.bench.num_domains) / measured.num_tokens.sum()
        with self.timed() as weighing:
            if method.weigh is not None:
                token_weights = method.weigh(seen)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimize(self.optimizer, feedback.weighted_loss(losses, *places, token_weights))
        with self.timed() as steering:
            if method.steer is not None:
                weights = method.steer(seen)
                if weights is not None:
                    self.loader.set_weights(weights, reason=self.settings.method)
        self.seconds[self.phase].append((self.clock() - start, weighing[0] + steering[0]))
        self.step += 1
        if self.step % self.settings.log_every == 0:
            moving = method.algorithm.weights if method.weigh else self.loader.weights
            self.history.append([self.phase, self.step, moving.tolist()])
            if self.settings.run_log is not None:
                self.loader.log_signal("training loss", measured.per_token, unit="nats per token")

    def end_phase(self) -> None:
        """Keeps what the next phase needs, and starts it."""
        result = self.loader.weights if self.method.result is None else self.method.result()
        self.earlier["weights"] = result.tolist()
        if self.phase == "reference":
            self.earlier["reference model"] = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.start_phase(self.phases[self.phases.index(self.phase) + 1])

    def clock(self) -> float:
        """Seconds; with --time after all that the GPU has to do."""
        if self.settings.time and self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def timed(self) -> Iterator[list[float]]:
        """A list that holds the seconds of the block after it."""
        seconds, start = [0.0], self.clock()
        yield seconds
        seconds[0] = self.clock() - start

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on."""
        earlier = dict(self.earlier)
        if "reference model" in earlier:
            earlier["reference model"] = earlier["reference model"].state_dict()
        algorithm = self.method.algorithm
        return {
            "settings": what_counts(self.settings),
            "phase": self.phase,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "algorithm": None if algorithm is None else algorithm.state_dict(),
            "earlier": earlier,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a state was saved, on any number of ranks."""
        if state["settings"] != what_counts(self.settings):
            raise SystemExit(
                f"{self.settings.checkpoint} is of a run with other settings: {state['settings']}"
            )
        self.earlier = dict(state["earlier"])
        if "reference model" in self.earlier:
            reference = self.fresh_model().eval().requires_grad_(False)
            reference.load_state_dict(self.earlier["reference model"])
            self.earlier["reference model"] = reference
        self.start_phase(state["phase"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        if self.method.algorithm is not None:
            self.method.algorithm.load_state_dict(state["algorithm"])
        self.step, self.history = state["step"], state["history"]

    def save(self) -> None:
        """Writes the checkpoint whole or not at all."""
        if self.rank == 0 and self.settings.checkpoint is not None:
            path = Path(self.settings.checkpoint)
            torch.save(self.state_dict(), path.with_suffix(".new"))
            os.replace(path.with_suffix(".new"), path)

    def report(self) -> dict[str, Any]:
        """Held-out loss by domain, the weights, and what the method cost."""
        found = measured_losses(
            self.model,
            self.eval_corpus,
            self.held_out[self.rank :: self.world_size],
            batch_size=self.settings.batch_size,
        )
        losses = dict(zip(self.eval_corpus.domains, found.per_token.tolist(), strict=True))
        return {
            "settings": asdict(self.settings),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "domains": list(self.corpus.domains),
            "weights": self.loader.weights.tolist(),
            "num_rows": self.num_rows.tolist(),
            "losses": losses,
            "mean_loss": float(np.nanmean(found.per_token)),
            "history": self.history,
            "cost": {phase: cost(seconds) for phase, seconds in self.seconds.items() if seconds},
        }


def cost(seconds: list[tuple[float, float]]) -> dict[str, float]:
    """Of (whole, method) seconds of each step: a step's mean, the method's part of the rest.

    The first three steps, in which torch warms up, are left out where there are more.
    """
    whole, method = np.array(seconds[3:] or seconds).mean(axis=0)
    return {
        "step_seconds": float(whole),
        "overhead_percent": float(100 * method / (whole - method)),
    }
