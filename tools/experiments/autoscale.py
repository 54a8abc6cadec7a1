"""AutoScale on facts to be memorised: the best mixture at two small budgets gives a large one's."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lab import Experiment, Line, Measures, main
from tiny_rows import spaced_rows
from tiny_swarm import best_counts

import mixstream
from mixstream import feedback
from mixstream.algorithms import AutoScale, AutoScaleWarning

EXPONENTS = {"steepest": 3.0, "steep": 2.0, "flat": 1.6, "flattest": 1.4}
"""Of Zipf's law, how often each fact of a domain comes."""
SEQ_LEN, FACTS_A_DOCUMENT = 32, 64


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Facts, and the budgets in rows of 32 tokens (15 facts or so)."""

    num_facts: int = 30_000
    """Of each domain."""
    num_values: int = 64
    """What a fact may say; a fact never seen costs the logarithm of it."""
    first_rows: int = 300
    """Of the base run at the smaller budget."""
    second_rows: int = 1_200
    """Of that at the larger."""
    target_rows: int = 9_600
    """Of the run that the mixture is for."""
    batch_size: int = 10
    """Rows a step."""
    up: float = 5.0
    """A domain's rows in its up run, over the base run's; the down run has one over it."""
    rate: float = 8.0
    """Learning rate of plain gradient descent on the sum of the losses."""
    test_facts: int = 20_000
    """Of each domain."""


@dataclass(frozen=True)
class Facts:
    """A tokenizer of numbers: keys of all domains first, then the values, then the end."""

    num_keys: int
    num_values: int
    name: str = "facts"
    sha256: str = ""

    @property
    def end_id(self) -> int:
        """The last id."""
        return self.num_keys + self.num_values

    @property
    def vocab_size(self) -> int:
        """Ids in all."""
        return self.end_id + 1

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers as they stand."""
        rows = [np.array(text.split(), dtype=np.uint32) for text in texts]
        return np.concatenate(rows), np.array([len(row) for row in rows])

    def decode(self, ids: np.ndarray) -> str:
        """The same backwards."""
        return " ".join(map(str, ids.tolist()))


class Bench:
    """Corpora of facts, and runs of a table of logits on them."""

    def __init__(self, seed: int, setting: Setting, folder: Path):
        self.seed, self.setting = seed, setting
        self.random = np.random.default_rng(seed)
        self.num_keys = len(EXPONENTS) * setting.num_facts
        self.values = self.random.integers(setting.num_values, size=self.num_keys) + self.num_keys
        tokenizer = Facts(self.num_keys, setting.num_values)
        facts_a_row = (SEQ_LEN - 1) // 2
        sizes = {
            "train": 2 * setting.target_rows * facts_a_row,
            "validation": setting.test_facts,
            "test": setting.test_facts,
        }
        self.corpora = {}
        for split, num_facts in sizes.items():
            for index, (name, exponent) in enumerate(EXPONENTS.items()):
                self.write(folder / f"raw-{split}" / name, index, exponent, num_facts)
            out = folder / split
            mixstream.convert(folder / f"raw-{split}", out, tokenizer=tokenizer, seq_len=SEQ_LEN)
            self.corpora[split] = mixstream.open_corpus(out)
        self.domains = self.corpora["train"].domains

    def write(self, folder: Path, index: int, exponent: float, num_facts: int) -> None:
        """Draws of a domain's facts as documents of numbers."""
        shares = np.arange(1, self.setting.num_facts + 1) ** -exponent
        keys = self.random.choice(len(shares), num_facts, p=shares / shares.sum())
        keys += index * self.setting.num_facts
        pairs = np.stack((keys, self.values[keys]), axis=1)
        folder.mkdir(parents=True)
        with (folder / "part-0.jsonl").open("w") as file:
            for at in range(0, num_facts, FACTS_A_DOCUMENT):
                text = " ".join(map(str, pairs[at : at + FACTS_A_DOCUMENT].ravel().tolist()))
                file.write(json.dumps({"text": text}) + "\n")

    def run(self, counts: np.ndarray, split: str, looks: int = 1) -> list[tuple[int, float]]:
        """Trains on about these rows of each domain; (rows so far, mean loss) at some steps."""
        setting = self.setting
        num_rows = round(float(counts.sum()))
        table = torch.zeros(self.num_keys + setting.num_values + 1, setting.num_values)
        loader = mixstream.Loader(
            self.corpora["train"],
            counts / counts.sum(),
            batch_size=setting.batch_size,
            seed=self.seed,
            sampling="stratified",
            labels=True,
        )
        num_steps = max(1, num_rows // setting.batch_size)
        found = []
        for step, batch in enumerate(loader, 1):
            ids = batch["input_ids"]
            logits = table[ids].requires_grad_()
            losses = feedback.token_losses(logits, self.value_labels(batch))
            gradient = torch.autograd.grad(losses.sum(), logits)[0]
            table.index_add_(0, ids.flatten(), gradient.flatten(0, 1), alpha=-setting.rate)
            if step % max(1, num_steps // looks) == 0 or step == num_steps:
                found.append((step * setting.batch_size, self.mean_loss(table, split)))
            if step == num_steps:
                return found
        raise AssertionError("a loader has no end")

    def value_labels(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, S) which value follows a key; -100 where no key stands."""
        follows = batch["labels"] - self.num_keys
        is_value = (batch["input_ids"] < self.num_keys) & (batch["labels"] >= self.num_keys)
        return torch.where(is_value & (follows < self.setting.num_values), follows, -100)

    def mean_loss(self, table: torch.Tensor, split: str) -> float:
        """Mean over the domains of the loss of a fact, nats."""
        corpus = self.corpora[split]
        meter = feedback.LossMeter(len(corpus.domains))
        dataset = mixstream.RowDataset(corpus, labels=True)
        addresses = spaced_rows(corpus, int(corpus.num_rows.max()))
        with torch.no_grad():
            for at in range(0, len(addresses), 256):
                batch = dataset.batch(addresses[at : at + 256])
                labels = self.value_labels(batch)
                losses = feedback.token_losses(table[batch["input_ids"]], labels)
                meter.add(losses, labels, batch["domain_ids"])
        return float(np.mean(meter.total().per_token))

    def best_counts(self, num_rows: int) -> np.ndarray:
        """(K,) DDO at one budget, by validation losses."""
        return best_counts(
            num_rows,
            self.domains,
            lambda counts: self.run(counts, "validation")[-1][1],
            up=self.setting.up,
        )


def run(seed: int, setting: Setting, folder: Path) -> Measures:
    """One seed."""
    bench = Bench(seed, setting, folder)
    first, second = bench.best_counts(setting.first_rows), bench.best_counts(setting.second_rows)
    num_domains = len(bench.domains)
    lower = np.array([setting.first_rows, setting.second_rows]) / num_domains / setting.up
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AutoScaleWarning)  # counted among the measures
        method = AutoScale(
            first, second, first_lower=lower[0], second_lower=lower[1], domains=bench.domains
        )
    weights = method.update(setting.target_rows)
    at_bound = (np.stack((first, second)) <= lower[:, np.newaxis] * (1 + 1e-6)).sum()
    uniform = np.full(num_domains, 1 / num_domains)
    plain = bench.run(uniform * setting.target_rows, "test", looks=1)[-1][1]
    steered = bench.run(weights * setting.target_rows, "test", looks=100)
    enough = [rows for rows, loss in steered if loss <= plain]
    same = bench.run(second / second.sum() * setting.target_rows, "test", looks=100)
    enough_same = [rows for rows, loss in same if loss <= plain]
    return {
        "rows to uniform's loss, over uniform's": min(enough, default=np.inf) / setting.target_rows,
        "the same with the weights of the second budget": min(enough_same, default=np.inf)
        / setting.target_rows,
        "optima at a bound, of 8": float(at_bound),
        "loss uniform": plain,
        "loss autoscale": steered[-1][1],
        "loss, weights of the second budget": same[-1][1],
        **{
            f"weight {name}, {budget} budget": float(share)
            for budget, counts in (("first", first), ("second", second), ("target", weights))
            for name, share in zip(bench.domains, counts / counts.sum(), strict=True)
        },
    }


EXPERIMENT = Experiment(
    name="autoscale",
    claim=(
        "four domains of facts whose frequencies follow Zipf's law are memorised by a table; the "
        "best mixtures at two budgets, found by Direct Data Optimization, give the mixture of a "
        "budget eight times the larger, which needs less data than uniform for the same test loss."
    ),
    lines=(Line(measure="rows to uniform's loss, over uniform's", at_most=0.85),),
    settings=Setting(),
    run=run,
    notes=(
        "The line holds, but not by the extrapolation: the weights of the second budget, kept as "
        "they are, need no more data. Three runs a domain leave the optima of the two budgets "
        "uncertain by some percent, and the law raises that to the power of the step between them.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
