"""README.md is true: snippets run in order, commands are CI's, the file tree is the tree."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mixstream.cli.demo import train_tokenizer
from mixstream.cli.demo_text import write_domains
from tools import file_tree

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = ("pip install . && mixstream demo", "pip install --editable '.[test]' && tools/check")


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with raw/{web,code,books} and tokenizer.json, as README assumes."""
    folder = tmp_path_factory.mktemp("readme")
    texts = write_domains(folder / "all")
    (folder / "raw").mkdir()
    for name, domain in {"web": "docstrings", "code": "tables", "books": "reference"}.items():
        (folder / "all" / domain).rename(folder / "raw" / name)
    train_tokenizer({"reference": texts["reference"]}, folder / "tokenizer.json", vocab_size=4096)
    return folder


@pytest.mark.slow
def test_every_snippet_runs_in_the_order_of_the_page(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    namespace: dict[str, object] = {"__name__": "readme"}
    fences = re.findall(r"^```(bash|python)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    for number, (language, snippet) in enumerate(fences):
        if language == "python":
            exec(compile(snippet, f"README.md, snippet {number}", "exec"), namespace)
        elif snippet.strip() not in SET_UP:
            for line in snippet.strip().replace("\\\n", "").splitlines():
                program, *arguments = shlex.split(line)
                assert program == "mixstream"
                subprocess.run(
                    [sys.executable, "-m", "mixstream", *arguments], check=True, timeout=120
                )


def test_the_recipe_on_the_page_is_one_that_convert_reads(tmp_path):
    from mixstream.corpus.recipe import read_recipe

    (recipe,) = snippets("toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    settings = read_recipe(tmp_path / "recipe.toml")
    assert settings["seq_len"] == 2048
    assert settings["tokenizer"] == str(tmp_path / "tokenizer.json")


def test_the_commands_that_set_up_are_on_the_page_and_ci_runs_the_second():
    commands = [command.strip() for command in snippets("bash")]
    assert [command for command in commands if command in SET_UP] == list(SET_UP)
    ci = (ROOT / ".ci" / "run").read_text()
    assert SET_UP[1] in ci


def test_the_file_tree_is_that_of_the_files():
    assert file_tree.page() == README
