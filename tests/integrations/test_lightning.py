"""lightning.Trainer on a Loader. Run as a script, this file is one rank of a training."""

import functools
import re
import subprocess
import sys

import pytest

import mixstream
from tests.integrations.conftest import (
    FIRST,
    GLOBAL_ROWS,
    NUM_STEPS,
    SAVE_STEP,
    SECOND,
    SEED,
    launched,
    rows_of,
    steer,
    together,
    write_report,
)

MODULE = "tests.integrations.test_lightning"


def make_module(seen):
    import torch
    from lightning.pytorch import LightningModule

    class Tiny(LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Embedding(512, 8), torch.nn.Linear(8, 512))

        def training_step(self, batch, batch_idx):
            seen.append(rows_of(batch))
            logits = self.layers(batch["input_ids"]).flatten(0, 1)
            return torch.nn.functional.cross_entropy(logits, batch["labels"].flatten())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Tiny()


def make_trainer(output, num_processes, **settings):
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    from mixstream.integrations.lightning_trainer import MixCallback

    checkpoints = ModelCheckpoint(f"{output}/checkpoints", every_n_train_steps=15, save_top_k=-1)
    return Trainer(
        accelerator="cpu",
        devices=num_processes,
        strategy="ddp" if num_processes > 1 else "auto",
        callbacks=[MixCallback(steer), checkpoints],
        logger=CSVLogger(output, version=0),
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def run(folder, corpus_path, output, num_processes, stage):
    from mixstream.integrations.lightning_trainer import MixDataModule

    num_processes, seen = int(num_processes), []
    batch_size = GLOBAL_ROWS // num_processes
    corpus = mixstream.open_corpus(corpus_path)
    data = MixDataModule(
        functools.partial(
            mixstream.Loader, corpus, FIRST, batch_size=batch_size, seed=SEED, labels=True
        )
    )
    ends = {"first": {"max_steps": SAVE_STEP + 5}, "epochs": {"max_epochs": 2, "max_steps": -1}}
    settings = ends.get(stage, {"max_steps": NUM_STEPS})
    if stage == "epochs":
        settings["limit_train_batches"] = 25
    trainer = make_trainer(output, num_processes, **settings)
    checkpoint = f"{output}/checkpoints/epoch=0-step={SAVE_STEP}.ckpt"
    trainer.fit(
        make_module(seen), datamodule=data, ckpt_path=checkpoint if stage == "second" else None
    )
    lost = {}
    if stage == "epochs":
        ways = ({}, {"on_retired": "redistribute"})
        lost["retired"] = [retired(output, corpus_path, **how) for how in ways]
    state = data.loader.state_dict()
    write_report(folder, rows=seen, step=trainer.global_step, state=state, **lost)


def retired(output, corpus_path, **how):
    """What comes of going on over a corpus that has lost a domain of positive weight."""
    from mixstream.integrations.lightning_trainer import MixDataModule

    corpus = mixstream.open_corpus({name: f"{corpus_path}/{name}" for name in ("books", "web")})
    make = functools.partial(mixstream.Loader, corpus, batch_size=4, seed=SEED, labels=True)
    data = MixDataModule(make, **how)
    trainer = make_trainer(f"{output}/less", 1, max_steps=NUM_STEPS)
    checkpoint = f"{output}/checkpoints/epoch=1-step=45.ckpt"
    try:
        trainer.fit(make_module([]), datamodule=data, ckpt_path=checkpoint)
    except mixstream.StateError as error:
        return str(error)
    return data.loader.step, data.loader.weights.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1)])
def test_rows_after_a_resume_on_another_world_size_are_those_of_a_plain_loop(
    corpus_path, plain_steps, tmp_path, before, after
):
    out = tmp_path / "out"
    first = launched(before, MODULE, tmp_path / "a", corpus_path, out, before, "first")
    assert together(first) == plain_steps[: SAVE_STEP + 5]
    assert all(report["state"] == first[0]["state"] for report in first)
    second = launched(after, MODULE, tmp_path / "b", corpus_path, out, after, "second")
    assert together(second) == plain_steps[SAVE_STEP:]
    assert second[0]["step"] == NUM_STEPS


@pytest.fixture(scope="module")
def epochs(corpus_path, tmp_path_factory):
    """Where a run of two epochs of steps has written, and what it tells."""
    folder = tmp_path_factory.mktemp("lightning")
    out = folder / "out"
    return out, launched(1, MODULE, folder / "a", corpus_path, out, 1, "epochs")


def test_epochs_of_limit_train_batches_go_on_where_the_last_one_ended(plain_steps, epochs):
    out, reports = epochs
    assert together(reports) == plain_steps
    lines = (out / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40, 50]
    assert float(rows[-1]["mix/weight/books"]) == pytest.approx(SECOND["books"])
    assert sum(float(rows[-1][f"mix/drawn/{name}"]) for name in SECOND) == pytest.approx(1)


def test_a_run_goes_on_over_a_corpus_that_has_lost_a_domain_if_told_how(epochs):
    refused, (step, weights) = epochs[1][0]["retired"]
    assert "domain 'code', of weight 0.3 from row" in refused
    assert step == NUM_STEPS
    assert weights == pytest.approx([6 / 7, 1 / 7])


@pytest.fixture
def data_module():
    from mixstream.integrations.lightning_trainer import MixDataModule

    return MixDataModule(functools.partial(mixstream.Loader, batch_size=1))


def test_a_run_without_an_end_is_refused(data_module):
    from lightning.pytorch import Trainer

    data_module.trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False)
    with pytest.raises(mixstream.StateError, match="a Loader has no end; give the Trainer max_st"):
        data_module.train_dataloader()


def test_the_loader_is_not_there_before_fit(data_module):
    with pytest.raises(mixstream.StateError, match=re.escape("the loader is made when fit starts")):
        data_module.loader  # noqa: B018


@pytest.mark.slow
def test_the_classes_are_those_of_the_lightning_that_is_in_use():
    code = (
        "import pytorch_lightning; from mixstream.integrations.lightning_trainer import *; "
        "assert issubclass(MixDataModule, pytorch_lightning.LightningDataModule); "
        "assert issubclass(MixCallback, pytorch_lightning.Callback)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=200)


if __name__ == "__main__":
    run(*sys.argv[1:])
