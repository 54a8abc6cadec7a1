"""The page on trainers is true: its snippets run, in order, on a tiny corpus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import mixstream

PAGE = Path(mixstream.__file__).parent / "integrations" / "README.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_every_snippet_of_the_page_on_trainers_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("web", "code", "books"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "a.txt").write_text(f"{name} and more of it. " * 400)
    mixstream.convert("raw", "corpus", tokenizer="bytes", seq_len=64)
    corpus = mixstream.open_corpus("corpus")
    vocab_size = corpus.manifest.tokenizer.vocab_size

    def make_model():
        return torch.nn.Sequential(
            torch.nn.Embedding(vocab_size, 8), torch.nn.Linear(8, vocab_size)
        )

    namespace = {
        "__name__": "readme",
        "torch": torch,
        "mixstream": mixstream,
        "corpus": corpus,
        "vocab_size": vocab_size,
        "make_model": make_model,
    }
    text = PAGE.read_text(encoding="utf-8")
    for number, snippet in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)):
        exec(compile(snippet, f"{PAGE.name}, python snippet {number}", "exec"), namespace)
