"""On a GPU: rows into its memory, and what the Loader takes of a real training step.

B = 32, S = 2,048 uint16, four domains, no workers. Ids cross the bus as they are stored and are
widened behind it, or as int64. The training step is that of a decoder of GPT-2's size (bfloat16
autocast, AdamW) beside the same step on one batch that lies on the device. Times are those of the
wall: the device works beside the processor. Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from harness import Line, in_turns, least, parser, report, spread
from random_corpus import open_written, write_corpus
from torch import nn

from mixstream import Corpus, Loader

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))  # the experiments' model
from tiny_gpt import TinyGPT

SEQ_LEN, BATCH_SIZE = 2048, 32
WEIGHTS = {"web": 0.5, "code": 0.25, "books": 0.15, "wiki": 0.1}
VOCABULARY = 50_304


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--device", default="cuda", help="cpu: to see that it works")
    settings = arguments.parse_args()
    if settings.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        return
    device = torch.device(settings.device)
    num_copies, num_steps, rounds = (16, 2, 2) if settings.quick else (500, 20, 15)
    length, width, num_layers = (16, 64, 1) if settings.quick else (SEQ_LEN, 768, 12)
    model = TinyGPT(VOCABULARY, SEQ_LEN, width=width, num_layers=num_layers)
    rows = {name: round(2 * BATCH_SIZE * num_copies * w) for name, w in WEIGHTS.items()}
    with tempfile.TemporaryDirectory() as folder, report("gpu", settings) as lines:
        write_corpus(Path(folder) / "corpus", rows, seq_len=SEQ_LEN)
        corpus = open_written(Path(folder) / "corpus")
        for calls, each in (
            (copies(corpus, device, num_copies), num_copies),
            (steps(corpus, model.to(device), length, num_steps), num_steps),
        ):
            for line in measured(calls, each, rounds, name_of(device)):
                lines.add(line)


def measured(
    calls: dict[str, Callable[[], object]], num_steps: int, rounds: int, device: str
) -> Iterator[Line]:
    """A line for each of the calls but the first, which is their floor."""
    seconds = in_turns(calls, rounds=rounds, clock=finished)
    best = least(seconds, num_steps)
    floor = next(iter(best))
    for name in list(best)[1:]:
        yield Line(
            name=name,
            seconds=best[name],
            floor_seconds=best[floor],
            floor=floor,
            rows=BATCH_SIZE,
            note=f"{device}; spread x{spread(seconds[name]):.2f}",
        )


def copies(corpus: Corpus, device: torch.device, num_steps: int) -> dict[str, Callable[[], object]]:
    """Batches into the memory of the device, as (B, S) int64 there."""
    block = torch.zeros(BATCH_SIZE, SEQ_LEN, dtype=torch.uint16)
    block = block.pin_memory() if device.type == "cuda" else block
    there = torch.empty_like(block, device=device)

    def bare() -> None:
        for _ in range(num_steps):
            there.copy_(block, non_blocking=True)

    def of_loader(**asked: bool) -> Callable[[], object]:
        batches = iter(Loader(corpus, WEIGHTS, batch_size=BATCH_SIZE, **asked))

        def run() -> None:
            for _ in range(num_steps):
                next(batches)["input_ids"].to(device, non_blocking=True).to(torch.int64)

        return run

    return {
        "copy of a pinned uint16 block": bare,
        "Loader, pinned, widened on the device": of_loader(native=True, pin_memory=True),
        "Loader, pinned, int64 over the bus": of_loader(pin_memory=True),
        "Loader, not pinned, int64 over the bus": of_loader(),
    }


def steps(
    corpus: Corpus, model: TinyGPT, length: int, num_steps: int
) -> dict[str, Callable[[], object]]:
    """Training steps of a model, on a batch that lies on the device and on those of a Loader."""
    size, device = BATCH_SIZE // 4, model.tokens.weight.device
    batches = iter(Loader(corpus, WEIGHTS, batch_size=size, native=True, pin_memory=True))

    def batch() -> torch.Tensor:
        ids = next(batches)["input_ids"].to(device, non_blocking=True)
        return ids[:, :length].to(torch.int64)

    lying = batch()
    optimizer = torch.optim.AdamW(model.parameters())

    def trained(ids: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(ids)[:, :-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def bare() -> None:
        for _ in range(num_steps):
            trained(lying)

    def loaded() -> None:
        for _ in range(num_steps):
            trained(batch())

    return {
        f"a training step on a batch that lies there, B={size}": bare,
        f"a training step with the Loader, B={size}": loaded,
    }


def finished() -> float:
    """The wall's clock, when the device has done all that it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "the processor in place of a GPU"


if __name__ == "__main__":
    main()
