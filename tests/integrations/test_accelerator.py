"""Accelerate on a Loader. Run as a script, this file is one rank of a training."""

import sys

import pytest

import mixstream
from tests.integrations.conftest import (
    CHANGE_STEP,
    FIRST,
    NUM_STEPS,
    SAVE_STEP,
    SECOND,
    launched,
    make_loader,
    rows_of,
    together,
    write_report,
)

MODULE = "tests.integrations.test_accelerator"


def run(folder, corpus_path, checkpoint, stage):
    import torch
    from accelerate import Accelerator

    from mixstream.integrations.accelerator import prepare_loader

    accelerator = Accelerator(cpu=True)
    loader = prepare_loader(accelerator, make_loader(corpus_path))
    model = torch.nn.Sequential(torch.nn.Embedding(512, 8), torch.nn.Linear(8, 512))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, same = accelerator.prepare(model, optimizer, loader)
    assert same is loader
    if stage == "second":
        accelerator.load_state(checkpoint)
    rows = []
    for batch in loader:
        with accelerator.accumulate(model):
            rows.append(rows_of(batch))
            logits = model(batch["input_ids"]).flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, batch["labels"].flatten())
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if loader.step == CHANGE_STEP:
            loader.set_weights(SECOND)
        if loader.step == SAVE_STEP and stage == "first":
            accelerator.save_state(checkpoint)
        if loader.step == (SAVE_STEP + 2 if stage == "first" else NUM_STEPS):
            break
    write_report(folder, rows=rows)
    accelerator.end_training()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1)])
def test_rows_after_a_resume_on_another_world_size_are_those_of_a_plain_loop(
    corpus_path, plain_steps, tmp_path, before, after
):
    arguments = [corpus_path, tmp_path / "checkpoint"]
    first = launched(before, MODULE, tmp_path / "a", *arguments, "first")
    assert together(first) == plain_steps[: SAVE_STEP + 2]
    second = launched(after, MODULE, tmp_path / "b", *arguments, "second")
    assert together(second) == plain_steps[SAVE_STEP:]


def test_a_run_goes_on_over_a_corpus_that_has_lost_a_domain_if_told_how(
    corpus, corpus_path, tmp_path
):
    from accelerate import Accelerator

    from mixstream.integrations.accelerator import prepare_loader

    less = mixstream.open_corpus({name: f"{corpus_path}/{name}" for name in ("code", "web")})
    first, second = (
        mixstream.Loader(corpus, FIRST, batch_size=4),
        mixstream.Loader(less, batch_size=4),
    )
    saving, refusing, giving = (Accelerator(cpu=True) for _ in range(3))
    prepare_loader(saving, first)
    next(iter(first))
    saving.save_state(tmp_path)
    prepare_loader(refusing, second)
    with pytest.raises(mixstream.StateError, match=r"'books', of weight 0.1 .* is gone"):
        refusing.load_state(tmp_path)
    prepare_loader(giving, second, on_retired="redistribute")
    giving.load_state(tmp_path)
    assert second.step == 1
    assert second.weights == pytest.approx([2 / 9, 7 / 9])


def test_a_loader_of_another_number_of_ranks_is_refused(corpus):
    from mixstream.integrations.accelerator import prepare_loader

    class Two:
        num_processes = 2

        def register_for_checkpointing(self, *objects):
            raise AssertionError

    loader = mixstream.Loader(corpus, batch_size=2)
    with pytest.raises(mixstream.StateError, match="was made for world_size 1, Accelerate runs 2"):
        prepare_loader(Two(), loader)


if __name__ == "__main__":
    run(*sys.argv[1:])
