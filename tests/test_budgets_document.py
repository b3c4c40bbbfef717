"""The examples of docs/budgets.md run as they stand, and its recipe and commands are ones that exist."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from documents import blocks, run, text_of

from flowprune.studies.sections import PruningSection

PAGE = "docs/budgets.md"


def test_the_examples_run() -> None:
    examples = blocks(PAGE, "python")
    assert len(examples) == 9
    run(examples, PAGE)


def test_the_recipes_are_ones() -> None:
    steps, allocated = (
        PruningSection.model_validate(yaml.safe_load(block)["pruning"]) for block in blocks(PAGE, "yaml")
    )
    assert steps.steps == 3 and steps.round_to == 8 and steps.between is not None
    assert allocated.allocator == "rate_distortion" and allocated.allocator_options == {"points": 20}


def test_the_commands_know_their_options() -> None:
    typer = pytest.importorskip("typer")
    from flowprune.cli import app

    known = {option for parameter in typer.main.get_command(app).commands["prune"].params for option in parameter.opts}
    (block,) = re.findall(r"^```\n(flowprune .*?)^```$", text_of(PAGE), re.DOTALL | re.MULTILINE)
    lines = block.strip().splitlines()
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["flowprune", "prune"] and {word for word in words if word.startswith("--")} <= known
