"""Points in the plane that no straight line separates: two moons, two circles, a spiral of four arms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import make_circles, make_moons
from torch import Tensor

from flowprune.errors import FlowpruneError

NAMES = ("moons", "circles", "spiral")
_ARMS = 4


@dataclass(frozen=True)
class Points:
    """Standardised points float32 [N, 2] and classes int64 [N]."""

    x: Tensor
    y: Tensor

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.y.max()) + 1

    def some(self, each: int, seed: int) -> tuple[Tensor, Tensor]:
        """So many of every class, drawn by ``seed``.

        Raises:
            FlowpruneError: a class has fewer.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = []
        for label in range(self.classes):
            members = (self.y == label).nonzero()[:, 0]
            if len(members) < each:
                raise FlowpruneError(f"{each} points a class were asked for, and there are {len(members)}")
            chosen.append(members[torch.randperm(len(members), generator=generator)[:each]])
        positions = torch.cat(chosen)
        return self.x[positions], self.y[positions]


def points(name: str, each: int, seed: int) -> Points:
    """Draw a data set.

    Args:
        name: "moons" (noise 0.1), "circles" (noise 0.1, factor 0.3) or "spiral" (four arms).
        each: points a class.
        seed: of the draw; the shapes and their scale are the same for every seed.
    """
    if name == "moons":
        x, y = make_moons((each, each), noise=0.1, random_state=seed)
        return _standardised(x, y, np.array([0.5, 0.25]), np.array([0.87, 0.5]))
    if name == "circles":
        x, y = make_circles((each, each), noise=0.1, factor=0.3, random_state=seed)
        return _standardised(x, y, np.zeros(2), np.full(2, 0.53))
    draw = np.random.default_rng(seed)
    radius = np.sqrt(draw.uniform(0.01, 1.0, (_ARMS, each)))
    start = 2 * math.pi * np.arange(_ARMS)[:, None] / _ARMS
    angle = start + 1.25 * math.pi * radius + draw.normal(0, 0.12, (_ARMS, each))
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 2)
    return _standardised(x, np.repeat(np.arange(_ARMS), each), np.zeros(2), np.full(2, 0.5))


def _standardised(x: np.ndarray, y: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> Points:
    return Points(torch.from_numpy((x - centre) / scale).float(), torch.from_numpy(y).long())
