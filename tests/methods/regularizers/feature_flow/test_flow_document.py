"""The examples of docs/flow.md run as they stand, and its recipe is one."""

from __future__ import annotations

import yaml
from documents import blocks, run

from flowprune.studies.sections import FlowSection

PAGE = "docs/flow.md"


def test_the_examples_run() -> None:
    examples = blocks(PAGE, "python")
    assert len(examples) == 3
    history = run(examples, PAGE)["history"]
    assert isinstance(history, list) and all(0 < epoch["macs_left"] <= 1 for epoch in history)


def test_the_recipe_is_one() -> None:
    (block,) = blocks(PAGE, "yaml")
    assert FlowSection.model_validate(yaml.safe_load(block)["flow"]).options(4)["target_macs"] == 0.5
