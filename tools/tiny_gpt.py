"""Token ids -> logits: a GPT of a few hundred thousand parameters, plain torch, no dropout."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

HEAD_SIZE = 32


class TinyGPT(nn.Module):
    """A decoder with learned positions, pre-norm blocks and a head tied to the embedding.

    Args:
        vocab_size: V.
        seq_len: S, the longest row.
        width: of the residual stream, a multiple of 32 (the size of a head).
        num_layers: blocks.
    """

    def __init__(self, vocab_size: int, seq_len: int, *, width: int = 128, num_layers: int = 4):
        super().__init__()
        if width % HEAD_SIZE:
            raise ValueError(f"width is {width}; give a multiple of {HEAD_SIZE}.")
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(seq_len, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith("out.weight")  # what adds up in the residual stream
                nn.init.normal_(parameter, std=0.02 / (2 * num_layers) ** (0.5 * deep))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, S) int64 -> (B, S, V) logits."""
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.blocks(self.tokens(ids) + self.positions(places))
        return functional.linear(self.norm(hidden), self.tokens.weight)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each beside the residual stream."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = Attention(width)
        self.perceptron = Perceptron(width)
        self.norms = nn.ModuleList((nn.LayerNorm(width), nn.LayerNorm(width)))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, S, width) -> the same shape."""
        hidden = hidden + self.attention(self.norms[0](hidden))
        return hidden + self.perceptron(self.norms[1](hidden))


class Attention(nn.Module):
    """Causal self-attention over a whole row, across the ends of documents."""

    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, S, width) -> the same shape."""
        heads = self.into(hidden).unflatten(-1, (3, -1, HEAD_SIZE)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, S, width) -> the same shape."""
        return self.out(functional.gelu(self.into(hidden)))
