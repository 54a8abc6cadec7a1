"""A small model with attention, dropout and batch norm, batches, and naive loops over both."""

import numpy as np
import pytest
import torch

from mixstream import feedback

NUM_DOMAINS, VOCAB, SEQ_LEN = 4, 11, 6


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Model(torch.nn.Module):
    """(B, S) ids -> (B, S, V) logits, in float64; every kind of state that a probe might spoil."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, 8)
        self.qkv = torch.nn.Linear(8, 24)
        self.norm = torch.nn.BatchNorm1d(8)
        self.dropout = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(8, VOCAB)

    def forward(self, ids):
        hidden = self.embedding(ids)
        q, k, v = (part.unsqueeze(1) for part in self.qkv(hidden).chunk(3, dim=-1))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + mixed.squeeze(1)
        hidden = self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        return self.head(self.dropout(torch.nn.functional.gelu(hidden)))


def make_model(seed=0):
    torch.manual_seed(seed)
    model = Model().double()
    for _ in range(3):  # running means of their own
        model(torch.randint(VOCAB, (5, SEQ_LEN)))
    return model


def make_batch(num_rows, seed, domain_ids=None):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(VOCAB, (num_rows, SEQ_LEN), generator=generator)
    masked = torch.rand(num_rows, SEQ_LEN, generator=generator) < 0.3
    masked[:, -1] = True
    if domain_ids is None:
        domain_ids = torch.randint(NUM_DOMAINS, (num_rows,), generator=generator)
    return {
        "input_ids": torch.randint(VOCAB, (num_rows, SEQ_LEN), generator=generator),
        "labels": labels.masked_fill(masked, -100),
        "domain_ids": torch.as_tensor(domain_ids),
    }


def rows(batch, which):
    """Some rows of a batch."""
    return {name: value[which] for name, value in batch.items()}


def losses_of(model, batch):
    """The loss that users write."""
    return feedback.token_losses(model(batch["input_ids"]), batch["labels"])


def naive_gradient(model, batch, names=None):
    """(D,) gradient of the mean token loss in evaluation mode, by backward into .grad."""
    model = model.eval()
    model.zero_grad()
    logits = model(batch["input_ids"])
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100
    ).backward()
    parts = [
        (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
        for name, p in model.named_parameters()
        if names is None or name in names
    ]
    model.zero_grad()
    return torch.cat(parts).numpy().astype(np.float64)


def flat(gradient):
    return torch.cat([part.flatten() for part in gradient]).double().numpy()


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def domain_batches():
    """One batch a domain, of other sizes; the third is absent."""
    return [
        None if domain == 2 else make_batch(2 + domain, 100 + domain, [domain] * (2 + domain))
        for domain in range(NUM_DOMAINS)
    ]


@pytest.fixture
def target():
    return make_batch(5, 7)
