"""Two processes under torch.distributed (gloo, a file as store) against one process.

Run as a script, this file is one rank: it measures its half of the rows and writes what it found.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mixstream import feedback
from mixstream.algorithms import DGA, DoReMi, doremi_token_weights
from mixstream.feedback import GradientProbe
from tests.feedback.conftest import NUM_DOMAINS, losses_of, make_batch, make_model, rows

WORLD_SIZE = 2
TIMEOUT_SECONDS = 120
DOMAINS_OF_RANK = ([0, 0, 1, 3, 3], [1, 0, 3, 3, 3])
"""Domain 2 is on no rank; the ranks hold other numbers of rows and tokens of each other one."""


def my_rows(rank, seed):
    """A rank's rows; rank None is the single process, which has those of all."""
    if rank is not None:
        return make_batch(5, seed + rank, DOMAINS_OF_RANK[rank])
    parts = [my_rows(each, seed) for each in range(WORLD_SIZE)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def by_domain(batch):
    """One batch a domain, None where there is no row."""
    masks = [batch["domain_ids"] == domain for domain in range(NUM_DOMAINS)]
    return [rows(batch, mask) if mask.any() else None for mask in masks]


def measure(rank):
    """Everything that feedback offers, as lists of numbers."""
    model, found = make_model(), {}
    inner, reference = model, make_model(1).eval()
    if rank is not None:
        model = torch.nn.parallel.DistributedDataParallel(model)
    model.eval()
    batch, target = my_rows(rank, 30), my_rows(rank, 60)
    losses = losses_of(model, batch)
    places = (batch["labels"], batch["domain_ids"])
    loss = feedback.domain_losses(losses, *places, NUM_DOMAINS)
    with torch.no_grad():
        reference_losses = losses_of(reference, batch)
    excess = feedback.excess_losses(losses, reference_losses, *places, NUM_DOMAINS)
    found["loss"] = [loss.loss_sum, loss.num_tokens, loss.num_rows, loss.per_token]
    found["excess"] = [excess.per_token, excess.per_row]
    meter = feedback.LossMeter(NUM_DOMAINS)
    if rank != 1:  # the other has no batch to add
        meter.add(losses, *places)
    found["meter"] = [meter.total().per_token] if rank is not None else []
    doremi = DoReMi(np.ones(NUM_DOMAINS)).update(excess.per_token, present=excess.present)
    weights = doremi_token_weights(doremi, np.full(NUM_DOMAINS, 0.25), excess.num_tokens)
    found["doremi"] = [doremi]
    feedback.weighted_loss(losses, *places, weights).backward()
    found["gradient of the weighted loss"] = [p.grad.flatten().clone() for p in inner.parameters()]

    probe = GradientProbe(model, losses_of, loss_scale=8.0)
    direction = probe.gradient(target)
    found["direction"] = [part.flatten() for part in direction]
    found["mean direction"] = [part.flatten() for part in probe.gradient(*by_domain(batch))]
    alignment = feedback.gradient_alignment(probe, by_domain(batch), direction)
    found["alignment"] = [alignment.values, alignment.present]
    dga = DGA(np.ones(NUM_DOMAINS), step_size=1.0, ema=0.5, update_every=1)
    found["dga"] = [dga.update(alignment.values, present=alignment.present)]
    gram = feedback.gradient_gram(probe, by_domain(batch))
    found["gram"] = [*gram.values, gram.present]
    forward = feedback.forward_alignment(probe, batch, direction, NUM_DOMAINS)
    found["forward"] = [forward.values, forward.present]
    split = [
        [] if part is None else [rows(part, [row]) for row in range(len(part["labels"]))]
        for part in by_domain(batch)
    ]
    noise = feedback.gradient_noise(probe, split)
    found["noise"] = [noise.squared_norms, noise.variances, noise.num_batches]
    # the training goes on: the reducer of DistributedDataParallel was left in peace
    model.train()
    losses_of(model, batch).mean().backward()
    return {name: [np.asarray(part).tolist() for part in parts] for name, parts in found.items()}


def one_rank(rank, folder):
    import datetime

    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=int(rank),
        world_size=WORLD_SIZE,
        timeout=datetime.timedelta(seconds=60),
    )
    Path(folder, f"{rank}.json").write_text(json.dumps(measure(int(rank))))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feedback")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.feedback.test_feedback_ranks", str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(WORLD_SIZE)
    ]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        for process in processes:
            output, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD_SIZE)]


def test_every_number_is_the_same_on_all_ranks(reports):
    # as text, since NaN is not equal to itself
    assert json.dumps(reports[0]) == json.dumps(reports[1])


def test_every_number_is_that_of_a_single_process(reports):
    expected = measure(None)
    assert set(expected) == set(reports[0])
    for name in set(expected) - {"meter"}:
        for part, wanted in zip(reports[0][name], expected[name], strict=True):
            np.testing.assert_allclose(part, wanted, rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_rank_without_a_batch_takes_part_in_the_meter(reports):
    batch = my_rows(0, 30)
    losses = losses_of(make_model().eval(), batch)
    alone = feedback.domain_losses(losses, batch["labels"], batch["domain_ids"], NUM_DOMAINS)
    np.testing.assert_allclose(reports[1]["meter"][0], alone.per_token, rtol=1e-6)


if __name__ == "__main__":
    one_rank(*sys.argv[1:])
