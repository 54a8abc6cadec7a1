"""What is said where a trainer is not installed."""

import importlib
import re
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("huggingface", ["transformers"], "transformers"),
        ("lightning_trainer", ["lightning.pytorch", "pytorch_lightning"], "lightning"),
    ],
)
def test_a_trainer_that_is_not_there_is_named_with_its_install_line(
    monkeypatch, name, missing, extra
):
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"mixstream.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=re.escape(f"pip install 'mixstream[{extra}]'")):
        importlib.import_module(f"mixstream.integrations.{name}")


@pytest.mark.parametrize("name", ["accelerator", "mixture_log", "steering", "tensorboard"])
def test_the_others_need_nothing_but_torch(monkeypatch, name):
    for package in ("accelerate", "lightning", "tensorboard", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"mixstream.integrations.{name}", raising=False)
    importlib.import_module(f"mixstream.integrations.{name}")
