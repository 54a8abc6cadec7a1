"""Plain loops: DDP, FSDP and torch.distributed.checkpoint; torchdata; a stock DataLoader.

Run as a script, this file is one rank of a training.
"""

import sys

import pytest

import mixstream
from mixstream.errors import StateError
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

    from mixstream.integrations.stateful import StatefulLoader

    model, loader, rows = wrapped(kind), make_loader(corpus_path), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if stage == "second":
        weights = get_model_state_dict(model)
        dcp.load({"model": weights, "loader": StatefulLoader(loader)}, checkpoint_id=checkpoint)
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
            state = {"model": get_model_state_dict(model), "loader": StatefulLoader(loader)}
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


ALONE = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or unini")


def saved_and_loaded(folder, first, second, **how):
    """A loader goes on from the checkpoint of another one, both in this process."""
    import torch.distributed.checkpoint as dcp

    from mixstream.integrations.stateful import StatefulLoader

    dcp.save({"loader": StatefulLoader(first)}, checkpoint_id=folder)
    dcp.load({"loader": StatefulLoader(second, **how)}, checkpoint_id=folder)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "1" * 5000, b"\xff\xfe\xfa"])
def test_a_damaged_text_of_a_checkpoint_is_a_state_error(corpus, text):
    from mixstream.integrations.stateful import StatefulLoader

    stateful = StatefulLoader(mixstream.Loader(corpus, batch_size=4))
    with pytest.raises(StateError, match=r"the loader's state .* is no JSON"):
        stateful.load_state_dict({"json": text})


@ALONE
def test_a_state_that_a_distributed_checkpoint_took_apart_is_refused_not_loaded_in_part(
    corpus, tmp_path
):
    import torch.distributed.checkpoint as dcp

    saved, loaded = (mixstream.Loader(corpus, batch_size=4, seed=1) for _ in range(2))
    saved.set_weights(saved.weights, at_step=5)
    saved.set_weights(saved.weights, at_step=9)
    loaded.set_weights(loaded.weights, at_step=7)
    before = loaded.state_dict()
    dcp.save({"loader": saved}, checkpoint_id=tmp_path / "dcp")
    with pytest.raises(StateError, match=r"as mixstream.*StatefulLoader"):
        dcp.load({"loader": loaded}, checkpoint_id=tmp_path / "dcp")
    assert loaded.state_dict() == before


@ALONE
@pytest.mark.parametrize("num_planned", [0, 1, 2, 3])
def test_planned_changes_survive_a_distributed_checkpoint_whatever_is_planned_where_it_is_loaded(
    corpus, tmp_path, num_planned
):
    first, second = (mixstream.Loader(corpus, FIRST, batch_size=GLOBAL_ROWS) for _ in range(2))
    steps_of(first, 0, 2)
    first.set_weights(SECOND, at_step=5)
    first.set_weights(FIRST, at_step=7, reason="back")
    for number in range(num_planned):
        second.set_weights(SECOND, at_step=4 + number)
    saved_and_loaded(tmp_path / "checkpoint", first, second)
    assert steps_of(second, 2, 12) == steps_of(first, 2, 12)


@ALONE
def test_a_distributed_checkpoint_loads_into_a_corpus_that_gained_or_lost_a_domain(
    corpus, corpus_path, tmp_path
):
    code, web = (f"{corpus_path}/{name}" for name in ("code", "web"))
    grown = mixstream.open_corpus({"code": code, "web": web, "new": code})
    first = mixstream.Loader(corpus, FIRST, batch_size=GLOBAL_ROWS, seed=SEED)
    steps_of(first, 0, 2)
    second = mixstream.Loader(grown, batch_size=GLOBAL_ROWS, seed=SEED)
    with pytest.raises(mixstream.StateError, match="load the state with on_retired='redistribu"):
        saved_and_loaded(tmp_path / "refused", first, second)
    saved_and_loaded(tmp_path / "checkpoint", first, second, on_retired="redistribute")
    assert second.step == 2
    assert second.weights == pytest.approx([2 / 9, 7 / 9, 0])


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
