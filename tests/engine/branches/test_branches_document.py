"""The example of docs/branches.md runs as it stands, its recipe is one, and its tables are those of the committed results."""

from __future__ import annotations

import yaml
from documents import blocks, run

from flowprune.engine.branches.savings import is_worth_opening
from flowprune.studies.sections import PruningSection

PAGE = "docs/branches.md"


def test_the_example_runs() -> None:
    (example,) = blocks(PAGE, "python")
    run([example], PAGE)


def test_the_recipe_is_one() -> None:
    (block,) = blocks(PAGE, "yaml")
    assert PruningSection.model_validate(yaml.safe_load(block)["pruning"]).branches is True


def test_the_rule_opens_what_was_measured_to_be_faster() -> None:
    """64 channels of 3x3 from 64, at 8x8 positions: 48 live ends save a block of 16, 56 save none."""
    macs = 64 * 9 * 64
    assert is_worth_opening(64, 48, macs, 64) and not is_worth_opening(64, 56, macs, 64)
    assert not is_worth_opening(16, 4, 16 * 9 * 1024, 1024)
    assert not is_worth_opening(256, 128, 64 * 3136, 3136)
