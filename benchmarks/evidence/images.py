"""Which images choose and which report: no test image does both, and none that a choice was made by is reported on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowprune.studies.pipeline.job import data_of
from flowprune.studies.sections import DataSection
from flowprune.training import Data, evaluate
from flowprune.training.splits import Subset, split_off

REPORTING_FROM = 2000
"""Test images from this one on report, also where training images choose: so every study reports on the same ones."""


@dataclass(frozen=True)
class Images:
    """A data set, parted.

    Attributes:
        data: the images that train, and as its test images those that report.
        chooses: the same with the images that choose as its test images.
    """

    data: Data
    chooses: Data

    @classmethod
    def of(cls, section: Mapping[str, Any], data_dir: Path | None, choosing: int, chosen_from: str) -> Images:
        """Part a data set.

        Args:
            section: of the data, as in a recipe. Every seed sees the same images: a subset is drawn by 0.
            data_dir: where data sets lie.
            choosing: how many images choose.
            chosen_from: "test": the first ones, for weights that saw all training images, and the others report; "training": drawn
                by 0 and never trained on, and the test images from 2,000 on report, as many of them as there are.
        """
        whole = data_of(DataSection.model_validate(dict(section)), data_dir, seed=0)
        order = torch.arange(len(whole.test))
        if chosen_from == "test":
            data = replace(whole, test=Subset(whole.test, order[choosing:]))
            return cls(data, replace(whole, test=Subset(whole.test, order[:choosing])))
        held, rest = split_off(whole.train, choosing, seed=0)
        first = min(REPORTING_FROM, len(order) // 5)
        data = replace(whole, train=rest, test=Subset(whole.test, order[first:]))
        return cls(data, replace(whole, test=held))

    def top1_choosing(self, model: nn.Module) -> float:
        """Top-1 in per cent on the images that choose."""
        return evaluate(model, self.chooses).top1
