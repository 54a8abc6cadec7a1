"""Plain loops: DDP, FSDP and torch.distributed.checkpoint; torchdata; a stock DataLoader.

Run as a script, this file is one rank of a training.
"""

import sys

import pytest

import mixstream
from tests.integrations.conftest import (
    CHANGE_STEP,
    FIRST,
    GLOBAL_ROWS,
    NUM_STEPS,
    SAVE_STEP,
    SECOND,
    SEED,
    launched,
    make_loader,
    rows_of,
    together,
    write_report,
)

MODULE = "tests.integrations.test_torch_loops"
KINDS = ("ddp", "fsdp")


def wrapped(kind):
    import torch
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(512, 8), torch.nn.Linear(8, 512))
    return DistributedDataParallel(model) if kind == "ddp" else fully_shard(model)


def run(folder, corpus_path, checkpoint, stage):
    """Both kinds, one after the other: a process takes seconds to start."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rows = {kind: loop(corpus_path, f"{checkpoint}-{kind}", kind, stage) for kind in KINDS}
    write_report(folder, **rows)
    dist.barrier()
    dist.destroy_process_group()


def loop(corpus_path, checkpoint, kind, stage):
    """A loop as torchtitan has it: what is saved is one dict of Stateful objects."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    model, loader, rows = wrapped(kind), make_loader(corpus_path), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if stage == "second":
        weights = get_model_state_dict(model)
        dcp.load({"model": weights, "loader": loader}, checkpoint_id=checkpoint)
        set_model_state_dict(model, weights)
    for batch in loader:
        rows.append(rows_of(batch))
        logits = model(batch["input_ids"]).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, batch["labels"].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if loader.step == CHANGE_STEP:
            loader.set_weights(SECOND if dist.get_rank() == 0 else FIRST)
        if loader.step == SAVE_STEP and stage == "first":
            state = {"model": get_model_state_dict(model), "loader": loader}
            dcp.save(state, checkpoint_id=checkpoint)
        if loader.step == (SAVE_STEP + 2 if stage == "first" else NUM_STEPS):
            return rows
    return None


@pytest.fixture(scope="module")
def stages(corpus_path, tmp_path_factory):
    """What two processes saw, and then, from their checkpoints, one."""
    folder = tmp_path_factory.mktemp("loops")
    arguments = [corpus_path, folder / "checkpoint"]
    first = launched(2, MODULE, folder / "a", *arguments, "first")
    return first, launched(1, MODULE, folder / "b", *arguments, "second", distributed=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_rows_after_a_resume_from_a_distributed_checkpoint_are_those_of_a_plain_loop(
    plain_steps, stages, kind
):
    first, second = stages
    assert together(first, kind) == plain_steps[: SAVE_STEP + 2]
    assert together(second, kind) == plain_steps[SAVE_STEP:]


def halves(corpus):
    sampler = mixstream.MixSampler(corpus.layout, FIRST, seed=SEED)
    return mixstream.RowDataset(corpus), mixstream.MixBatchSampler(sampler, GLOBAL_ROWS)


def steps_of(loader, first, end, on_step=None):
    """The sorted rows of the steps [first, end)."""
    steps = []
    for step, batch in enumerate(loader, first):
        steps.append(sorted(rows_of(batch)))
        if on_step is not None:
            on_step(step + 1)
        if step + 1 == end:
            return steps
    return None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stock_dataloader_goes_on_from_the_batch_samplers_state(corpus, plain_steps, num_workers):
    from torch.utils.data import DataLoader

    dataset, batches = halves(corpus)
    batches.set_weights(SECOND, at_step=CHANGE_STEP)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=num_workers)
    assert steps_of(loader, 0, SAVE_STEP) == plain_steps[:SAVE_STEP]
    state = batches.state_dict(SAVE_STEP)  # the steps that were delivered, not those in flight
    _, resumed = halves(corpus)
    resumed.load_state_dict(state)
    loader = DataLoader(dataset, batch_sampler=resumed, num_workers=num_workers)
    assert steps_of(loader, SAVE_STEP, NUM_STEPS) == plain_steps[SAVE_STEP:]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.15
@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdatas_stateful_dataloader_keeps_the_batch_samplers_state(
    corpus, plain_steps, num_workers
):
    from torchdata.stateful_dataloader import StatefulDataLoader

    dataset, batches = halves(corpus)
    batches.set_weights(SECOND, at_step=CHANGE_STEP)
    loader = StatefulDataLoader(dataset, batch_sampler=batches, num_workers=num_workers)
    assert steps_of(loader, 0, SAVE_STEP) == plain_steps[:SAVE_STEP]
    state = loader.state_dict()
    fresh = halves(corpus)[1]
    resumed = StatefulDataLoader(dataset, batch_sampler=fresh, num_workers=num_workers)
    resumed.load_state_dict(state)
    assert steps_of(resumed, SAVE_STEP, NUM_STEPS) == plain_steps[SAVE_STEP:]


if __name__ == "__main__":
    run(*sys.argv[1:])
