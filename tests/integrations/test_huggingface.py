"""transformers.Trainer on a Loader. Run as a script, this file is one rank of a training."""

import sys

import pytest

import mixstream
from tests.integrations.conftest import (
    GLOBAL_ROWS,
    NUM_STEPS,
    SAVE_STEP,
    SECOND,
    SEED,
    launched,
    make_loader,
    rows_of,
    steer,
    together,
    write_report,
)

MODULE = "tests.integrations.test_huggingface"


def make_trainer(output, corpus_path, max_steps, seen, accumulation=1, loader=None, **others):
    """A tiny Llama under a Trainer that notes the rows it trains on."""
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

    from mixstream.integrations.huggingface import MixTrainer

    class Noting(MixTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.setdefault("columns", sorted(inputs))
            seen.setdefault("rows", []).append(rows_of(inputs))
            return super().compute_loss(model, inputs, *args, **kwargs)

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    args = TrainingArguments(
        output_dir=output,
        max_steps=max_steps,
        gradient_accumulation_steps=accumulation,
        save_steps=SAVE_STEP,
        logging_steps=10,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    args.per_device_train_batch_size = GLOBAL_ROWS // args.world_size // accumulation
    if loader is None:
        loader = make_loader(corpus_path, accumulation=accumulation)
    model = LlamaForCausalLM(config)
    return Noting(model=model, args=args, train_loader=loader, steer=steer, **others)


def run(folder, corpus_path, output, stage):
    """Thirty steps of a batch each; or the rest, of two batches each."""
    seen = {}
    first = stage == "first"
    max_steps, accumulation = (SAVE_STEP, 1) if first else (NUM_STEPS, 2)
    trainer = make_trainer(output, corpus_path, max_steps, seen, accumulation)
    trainer.args.restore_callback_states_from_checkpoint = not first
    trainer.train(resume_from_checkpoint=None if first else True)
    loader = trainer._batches.loader
    write_report(
        folder,
        **seen,
        history=trainer.state.log_history,
        epoch=trainer.state.epoch,
        step=trainer.state.global_step,
        state=loader.state_dict(),
    )


def losses(folder, corpus_path, output, _stage):
    """The Trainer's loss of a batch, beside the mean of the next tokens' losses by hand."""
    import torch

    from mixstream.integrations.huggingface import _TrainerBatches

    trainer = make_trainer(output, corpus_path, 1, {})
    batch = next(iter(make_loader(corpus_path)))
    logits = trainer.model(batch["input_ids"]).logits
    by_hand = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    converted = next(iter(_TrainerBatches(make_loader(corpus_path))))
    loss = trainer.compute_loss(trainer.model, converted)
    write_report(
        folder,
        loss=loss.item(),
        by_hand=by_hand.item(),
        refused=refusals(trainer),
        ends=[end_of(output, corpus_path, resume) for resume in (None, True)],
        retired=[
            retired(output, corpus_path, **how) for how in ({}, {"on_retired": "redistribute"})
        ],
    )


def end_of(output, corpus_path, resume):
    """The last step of a training of two steps, and the steps that it took."""
    seen = {}
    trainer = make_trainer(output, corpus_path, 2, seen)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.state.global_step, len(seen.get("rows", []))


def retired(output, corpus_path, **how):
    """What comes of going on from the step of `end_of` over a corpus that has lost a domain."""
    corpus = mixstream.open_corpus({name: f"{corpus_path}/{name}" for name in ("code", "web")})
    loader = mixstream.Loader(corpus, batch_size=GLOBAL_ROWS, seed=SEED, labels=True)
    trainer = make_trainer(output, corpus_path, 3, {}, loader=loader, **how)
    trainer.args.restore_callback_states_from_checkpoint = bool(how)
    try:
        trainer.train(resume_from_checkpoint=True)
    except mixstream.StateError as error:
        return str(error)
    return loader.step, loader.weights.tolist()


def refusals(trainer):
    """What the integration says to settings that do not go together."""
    from transformers import TrainerState

    from mixstream.errors import StateError
    from mixstream.integrations.huggingface import _LoaderInCheckpoint

    said = {}
    for name, value, usual in [
        ("dataloader_num_workers", 2, 0),
        ("include_tokens_per_second", True, False),
        ("auto_find_batch_size", True, False),
        ("per_device_train_batch_size", 3, GLOBAL_ROWS),
    ]:
        setattr(trainer.args, name, value)
        try:
            trainer.get_train_dataloader()
        except StateError as error:
            said[name] = str(error)
        setattr(trainer.args, name, usual)
    trainer.train_dataset = [1]
    try:
        trainer.get_train_dataloader()
    except StateError as error:
        said["train_dataset"] = str(error)
    trainer.train_dataset = None
    foreign = TrainerState(global_step=7, stateful_callbacks={})
    try:
        _LoaderInCheckpoint().on_train_begin(
            trainer.args, foreign, None, train_dataloader=trainer.get_train_dataloader()
        )
    except StateError as error:
        said["checkpoint"] = str(error)
    return said


@pytest.fixture(scope="module")
def one_batch(corpus_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    (report,) = launched(1, MODULE, folder / "report", corpus_path, folder / "out", "losses")
    return report


def test_the_models_own_shift_gives_the_loss_of_the_next_tokens(one_batch):
    assert one_batch["loss"] == pytest.approx(one_batch["by_hand"], rel=1e-5)


def test_going_on_from_the_last_step_takes_none(one_batch):
    assert one_batch["ends"] == [[2, 2], [2, 0]]


def test_a_run_goes_on_over_a_corpus_that_has_lost_a_domain_if_told_how(one_batch):
    refused, (step, weights) = one_batch["retired"]
    assert "domain 'books', of weight 0.1 from row" in refused
    assert "on_retired='redistribute'" in refused
    assert step == 3
    assert weights == pytest.approx([2 / 9, 7 / 9])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dataloader_num_workers", "=2 has no effect on a Loader; give num_workers to the Loader"),
        ("auto_find_batch_size", "has no effect on a Loader, whose batch_size is part of it"),
        ("include_tokens_per_second", "makes the Trainer read all batches before the first step"),
        ("train_dataset", "train_dataset has no effect beside train_loader"),
        ("per_device_train_batch_size", "a step of the Trainer has 3 rows .* Loader has 4"),
        ("checkpoint", "the checkpoint of step 7 holds no loader's state"),
    ],
)
def test_what_does_not_go_together_is_refused(one_batch, setting, message):
    import re

    assert re.search(message, one_batch["refused"][setting])


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1)])
def test_rows_after_a_resume_on_another_world_size_are_those_of_a_plain_loop(
    corpus_path, plain_steps, tmp_path, before, after
):
    first = launched(before, MODULE, tmp_path / "a", corpus_path, tmp_path / "out", "first")
    assert together(first) == plain_steps[:SAVE_STEP]
    assert first[0]["columns"] == ["domain_ids", "input_ids", "labels"]
    assert all(report["state"] == first[0]["state"] for report in first)
    second = launched(after, MODULE, tmp_path / "b", corpus_path, tmp_path / "out", "second")
    halves = together(second)
    steps = [sorted(one + two) for one, two in zip(halves[::2], halves[1::2], strict=True)]
    assert steps == plain_steps[SAVE_STEP:]
    assert second[0]["step"] == NUM_STEPS
    assert second[0]["epoch"] == 1.0
    logged = {logs["step"]: logs for logs in second[0]["history"] if "loss" in logs}
    assert sorted(logged) == [10, 20, 30, 40, 50]
    assert logged[50]["mix/weight/books"] == pytest.approx(SECOND["books"])
    assert logged[10]["mix/weight/books"] == pytest.approx(0.1)
    for step in (10, 40, 50):
        assert sum(logged[step][f"mix/drawn/{name}"] for name in SECOND) == pytest.approx(1)
    assert logged[50]["mix/rows"] == NUM_STEPS * GLOBAL_ROWS


if __name__ == "__main__":
    {"losses": losses}.get(sys.argv[-1], run)(*sys.argv[1:])
