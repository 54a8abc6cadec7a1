"""A corpus -> the rows to train on, to measure on, and to be good at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

import mixstream
from mixstream import feedback
from mixstream.arrays import ADDRESS, Addresses, Counts

MAX_HELD_OUT = 0.1
"""Of a domain's rows, where they are cut off the training corpus."""
MAX_TARGET_ROWS = 64
"""Of each domain of a target, where its loss is measured."""


class TargetRows:
    """Random rows of a corpus of their own: the same at the same step on any number of ranks.

    Args:
        corpus: the target.
        num_rows: of a batch, over all ranks; a multiple of world_size.
        seed: of the choice of rows.
        rank: of this process.
        world_size: processes.
    """

    def __init__(
        self, corpus: mixstream.Corpus, num_rows: int, *, seed: int, rank: int, world_size: int
    ):
        self.corpus, self._seed, self._num_rows = corpus, seed, num_rows
        self._dataset = mixstream.RowDataset(corpus, labels=True)
        self._share = slice(rank, None, world_size)

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """This rank's part of a target batch; its domain_ids index the target corpus."""
        ends = np.cumsum(self.corpus.num_rows)
        random = np.random.default_rng((self._seed, step))
        rows = random.integers(ends[-1], size=self._num_rows)[self._share]
        domain = np.searchsorted(ends, rows, side="right")
        return self._dataset.batch(addresses(domain, rows - (ends - self.corpus.num_rows)[domain]))

    def domain_batches(self, step: int, num_rows: int) -> Iterator[dict[str, torch.Tensor]]:
        """This rank's part of so many random rows of each of the target's domains."""
        for domain, total in enumerate(self.corpus.num_rows.tolist()):
            random = np.random.default_rng((self._seed, step, domain))
            rows = random.integers(total, size=num_rows)[self._share]
            yield self._dataset.batch(addresses(np.full(len(rows), domain), rows))

    def log_probabilities(self, model: torch.nn.Module) -> np.ndarray:
        """(T,) of up to 64 whole rows of each domain, nats; all of them on each rank."""
        rows, found = spaced_rows(self.corpus, MAX_TARGET_ROWS), []
        device = next(model.parameters()).device
        with feedback.undisturbed(model), torch.no_grad():
            for start in range(0, len(rows), self._num_rows):
                batch = self._dataset.batch(rows[start : start + self._num_rows])
                batch = {name: value.to(device) for name, value in batch.items()}
                found.append(-losses_of(model, batch).double().sum(dim=1).cpu())
        return torch.cat(found).numpy()

    def losses(self, model: torch.nn.Module) -> np.ndarray:
        """(M,) loss of each of the target's domains, nats per token, on up to 64 rows of each."""
        rows = spaced_rows(self.corpus, MAX_TARGET_ROWS)[self._share]
        return measured_losses(model, self.corpus, rows, batch_size=self._num_rows).per_token

    def histogram(self, domains: tuple[str, ...]) -> list[int]:
        """Target rows in each training domain, by name."""
        rows = dict(zip(self.corpus.domains, self.corpus.num_rows.tolist(), strict=True))
        if not set(rows) <= set(domains):
            raise SystemExit(
                f"this method needs a target whose domains are named like the corpus's "
                f"({', '.join(domains)}); it holds {', '.join(rows)}."
            )
        return [rows.get(name, 0) for name in domains]


def addresses(domain: Counts, row: Counts) -> Addresses:
    """(n,) domains and (n,) rows -> (n,) addresses."""
    found = np.empty(len(row), dtype=ADDRESS)
    found["domain"], found["row"] = domain, row
    return found


def split(corpus: mixstream.Corpus, num_rows: int) -> tuple[mixstream.Corpus, Addresses]:
    """The corpus without the last rows of each domain, and the addresses of those rows.

    At most a tenth of a domain is cut. Rows of a domain are numbered in shard order, so those that
    stay keep their numbers when the layout loses rows at its end.
    """
    layout, held_out = {}, []
    for domain, (name, shards) in enumerate(corpus.layout.items()):
        total = int(shards.sum())
        kept = total - min(num_rows, int(total * MAX_HELD_OUT))
        ends = np.minimum(np.cumsum(shards), kept)
        layout[name] = np.diff(ends, prepend=0)
        held_out.append(addresses(np.full(total - kept, domain), np.arange(kept, total)))
    return replace(corpus, layout=layout), np.concatenate(held_out)


def spaced_rows(corpus: mixstream.Corpus, num_rows: int) -> Addresses:
    """Addresses of evenly spaced rows of each domain; all rows of a domain that holds fewer."""
    found = []
    for domain, total in enumerate(corpus.num_rows.tolist()):
        rows = np.arange(min(num_rows, total)) * total // max(1, min(num_rows, total))
        found.append(addresses(np.full(len(rows), domain), rows))
    return np.concatenate(found)


def same_tokens(corpus: mixstream.Corpus, path: str) -> mixstream.Corpus:
    """Another corpus, which must be of the same tokenizer and row length."""
    other = mixstream.open_corpus(path)
    kinds = [
        (each.seq_len, each.manifest.tokenizer.sha256 if each.manifest else None)
        for each in (corpus, other)
    ]
    if kinds[0] != kinds[1]:
        raise SystemExit(
            f"{path} has rows of {kinds[1][0]} tokens of tokenizer {kinds[1][1]}, the corpus has "
            f"rows of {kinds[0][0]} of {kinds[0][1]}; convert both alike."
        )
    return other


def losses_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, S) token losses, nats."""
    return feedback.token_losses(model(batch["input_ids"]), batch["labels"])


def measured_losses(
    model: torch.nn.Module, corpus: mixstream.Corpus, rows: Addresses, *, batch_size: int
) -> feedback.DomainLosses:
    """Loss of rows of a corpus, by its domains; this rank gives its share of them."""
    dataset = mixstream.RowDataset(corpus, labels=True)
    meter = feedback.LossMeter(len(corpus.domains))
    device = next(model.parameters()).device
    with feedback.undisturbed(model), torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = dataset.batch(rows[start : start + batch_size])
            batch = {name: value.to(device) for name, value in batch.items()}
            meter.add(losses_of(model, batch), batch["labels"], batch["domain_ids"])
    return meter.total()
