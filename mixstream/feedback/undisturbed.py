"""A block in which a model is measured, and after which the training goes on as if it were not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch

__all__ = ["Mode", "undisturbed"]

Mode: TypeAlias = Literal["eval", "as_is"]
"""Whether layers such as dropout and batch norm behave as in evaluation, or as they were set."""


@contextmanager
def undisturbed(model: torch.nn.Module, *, mode: Mode = "eval") -> Iterator[None]:
    """Puts back each module's train or eval mode, its buffers, and torch's random numbers.

    Gradients in `.grad` are left alone as long as the block calls `torch.autograd.grad`, not
    `backward`. Buffers (running means) are copied at the start: their bytes, once.

    Args:
        model: what will be measured.
        mode: "eval" turns dropout off and freezes running means for the block; "as_is" keeps each
            module's mode (gradient checkpointing, for one, is on in training mode only).
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    with torch.random.fork_rng(_cuda_devices(model)):
        if mode == "eval":
            model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    module._buffers[name] = buffer
                    buffer.copy_(before)


def _cuda_devices(model: torch.nn.Module) -> list[int]:
    """The CUDA devices of the parameters, whose random numbers are kept with the CPU's."""
    devices = {parameter.device for parameter in model.parameters()}
    return sorted({device.index or 0 for device in devices if device.type == "cuda"})
