"""The examples of docs/flow.md run as they stand, and its recipe is one."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import yaml

from flowprune.recipe import FlowSection

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "flow.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_the_examples_run() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    variables: dict[str, object] = {}
    try:
        for block in blocks("python"):
            exec(compile(block, "flow.md", "exec"), variables)
    finally:
        torch.set_num_threads(threads)
    assert len(blocks("python")) == 2
    history = variables["history"]
    assert isinstance(history, list) and all(0 < epoch["macs_left"] <= 1 for epoch in history)


def test_the_recipe_is_one() -> None:
    (block,) = blocks("yaml")
    assert FlowSection.model_validate(yaml.safe_load(block)["flow"]).options(4)["target_macs"] == 0.5
