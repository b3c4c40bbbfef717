"""The examples of docs/budgets.md run as they stand, and its recipe and commands are ones that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from flowprune.recipe import PruningSection

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "budgets.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_the_examples_run() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    variables: dict[str, object] = {}
    try:
        for block in blocks("python"):
            exec(compile(block, "budgets.md", "exec"), variables)
    finally:
        torch.set_num_threads(threads)
    assert len(blocks("python")) == 6


def test_the_recipe_is_one() -> None:
    (block,) = blocks("yaml")
    section = PruningSection.model_validate(yaml.safe_load(block)["pruning"])
    assert section.steps == 3 and section.round_to == 8 and section.between is not None


def test_the_commands_know_their_options() -> None:
    typer = pytest.importorskip("typer")
    from flowprune.cli import app

    known = {option for parameter in typer.main.get_command(app).commands["prune"].params for option in parameter.opts}
    (block,) = re.findall(r"^```\n(flowprune .*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    lines = block.strip().splitlines()
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["flowprune", "prune"] and {word for word in words if word.startswith("--")} <= known
