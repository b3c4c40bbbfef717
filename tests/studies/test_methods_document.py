"""The recipe that docs/methods.md shows is one."""

from __future__ import annotations

import yaml
from documents import blocks

from flowprune.studies.recipe import Recipe


def test_the_recipe_of_the_page_is_read_as_it_says() -> None:
    recipe = Recipe.model_validate(yaml.safe_load(blocks("docs/methods.md", "yaml")[0]))
    train, pushed, cut, recover = recipe.phases_of("pushed")
    assert [phase.phase for phase in (train, pushed, cut, recover)] == ["train", "train", "cut", "recover"]
    assert {phase.training.batch_size for phase in (train, pushed, recover)} == {32}  # type: ignore[union-attr]
    assert cut.by_outcome and recover.recoveries[0].name == "distillation"  # type: ignore[union-attr]
