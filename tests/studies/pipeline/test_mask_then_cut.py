"""A recipe that masks whole channels and then cuts by a threshold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowprune.artifacts import load
from flowprune.methods.masks import REGISTRY
from flowprune.studies.pipeline.run import run
from flowprune.studies.recipe import Recipe


class WholeChannels:
    """Of what every convolution but the first reads, the first quarter leaves."""

    def select(self, scores, keep):
        masks = {name: torch.ones(score.shape, dtype=torch.bool) for name, score in scores.items()}
        for mask in masks.values():
            if mask.dim() == 4 and mask.shape[1] > 1:
                mask[:, : mask.shape[1] // 4] = False
        return masks


def test_channels_that_a_mask_lets_nobody_read_leave_in_the_next_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(REGISTRY)
    monkeypatch.setitem(REGISTRY._items, "whole_channels", WholeChannels)
    recipe = Recipe.model_validate({
        "network": {"name": "vgg6", "options": {"in_channels": 1, "width": 4}},
        "data": {"name": "digits", "subset": 64},
        "phases": [
            {"phase": "train", "training": {"epochs": 1, "batch_size": 32}},
            {"phase": "mask", "mask": "whole_channels"},
            {"phase": "cut", "budgets": [{"threshold": 1e-9}]},
        ],
    })  # fmt: skip
    run(recipe, tmp_path / "run", progress=False, say=lambda line: None)
    models = tmp_path / "run" / "models"
    (sparse,) = models.glob("*masked.fp")
    (small,) = models.glob("*pruned.fp")
    allow = ["whole_channels"]
    widths = [[module.out_channels for module in load(path, allow=allow).modules() if isinstance(module, torch.nn.Conv2d)]
              for path in (sparse, small)]  # fmt: skip
    assert widths[1] == [*(width - width // 4 for width in widths[0][:-1]), widths[0][-1]]
