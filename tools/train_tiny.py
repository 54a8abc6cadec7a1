"""Corpus + a method by name -> a tiny GPT, its held-out loss by domain, and the weights it took.

    python tools/train_tiny.py corpus/ --method dga --target target/ --steps 300
    torchrun --nproc-per-node 2 tools/train_tiny.py corpus/ --method doremi --time

Held-out rows: with `--eval CORPUS`, evenly spaced rows of each of its domains. Without, the last
`--eval-rows` rows (at most a tenth) of each domain of the corpus itself: they are cut off the
layout before the loader sees it, so neither training nor probes can draw them. (A document that
lies across the cut has a part on both sides, and one that occurs twice may be on both.)

Rows are counted over all ranks: a run draws the same global batches on any number of them.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_methods import METHODS
from tiny_run import Run
from tiny_settings import Settings

from mixstream.errors import MixstreamError


def train(settings: Settings, on_step: Callable[[Run], None] | None = None) -> dict[str, Any]:
    """Runs all phases from the checkpoint on, if there is one; the report.

    Args:
        settings: of the run.
        on_step: called after each step, and after its checkpoint.
    """
    run = Run(settings)
    if settings.checkpoint is not None and Path(settings.checkpoint).exists():
        state = torch.load(settings.checkpoint, map_location=run.device, weights_only=True)
        run.load_state_dict(state)
    while True:
        batches = iter(run.loader)
        while run.step < settings.steps:
            run.train_step(next(batches))
            if run.step % settings.checkpoint_every == 0 or run.step == settings.steps:
                run.save()
            if on_step is not None:
                on_step(run)
        if run.phase == run.phases[-1]:
            return run.report()
        run.end_phase()


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    settings = report["settings"]
    trained = dict(zip(report["domains"], report["weights"], strict=True))
    rows = [("domain", "weight", "held-out loss, nats per token")]
    for name in dict.fromkeys([*trained, *report["losses"]]):
        cells = [trained.get(name), report["losses"].get(name)]
        rows.append((name, *("-" if cell is None else f"{cell:.4f}" for cell in cells)))
    rows.append(("mean", "", f"{report['mean_loss']:.4f}"))
    lines = [
        f"{settings['method']}, seed {settings['seed']}, {settings['steps']} steps of "
        f"{settings['batch_size']} rows, {report['parameters']:,} parameters"
    ]
    wide = max(len(row[0]) for row in rows)
    lines += [f"{name:<{wide}}  {weight:>7}  {loss}" for name, weight, loss in rows]
    if settings["time"]:
        lines += [
            f"{phase}: {found['step_seconds'] * 1000:.1f} ms a step, "
            f"the method adds {found['overhead_percent']:.1f} % to the rest of it"
            for phase, found in report["cost"].items()
        ]
    return "\n".join(lines)


def documented(settings: type) -> dict[str, str]:
    """What is written under each field of a settings class."""
    body = ast.parse(inspect.getsource(settings)).body[0].body
    return {
        name.target.id: text.value.value
        for name, text in pairwise(body)
        if isinstance(name, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def read_settings() -> tuple[Settings, str | None]:
    """The command line: the settings, and where --json writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="what to train on")
    parser.add_argument("--json", metavar="FILE", help="write the report there, - for the screen")
    texts = documented(Settings)
    for each in fields(Settings):
        if each.name == "corpus":
            continue
        kind = next(kind for kind in (bool, int, float, str) if kind.__name__ in str(each.type))
        how: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
        if each.name == "method":
            how["choices"] = METHODS
        text = f"{texts[each.name]} (default: {each.default})".replace("%", "%%")
        flag = "--" + each.name.replace("_", "-")
        parser.add_argument(flag, default=each.default, help=text, **how)
    given = vars(parser.parse_args())
    path = given.pop("json")
    return Settings(**given), path


def main() -> None:
    """One run, as the command line says."""
    settings, path = read_settings()
    # so that a GPU adds in a fixed order, too
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        report = train(settings)
    except (MixstreamError, OSError) as error:
        raise SystemExit(f"train_tiny: {error}") from error
    if not dist.is_initialized() or dist.get_rank() == 0:
        if path != "-":
            print(table(report))
        if path is not None:
            text = json.dumps(report, indent=1)
            print(text) if path == "-" else Path(path).write_text(text)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
