"""Small random networks for properties of budgets: chains, residuals, concatenations, groups, and shortcuts that pad channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (1, 3, 6, 6)


@dataclass(frozen=True)
class Stage:
    kind: str
    width: int
    inner: int


class SmallNetwork(nn.Module):
    def __init__(self, stem: int, stages: tuple[Stage, ...]) -> None:
        super().__init__()
        self.stages = stages
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.norm = nn.BatchNorm2d(stem)
        self.layers = nn.ModuleList()
        width = stem
        for stage in stages:
            if stage.kind == "chain":
                self.layers.append(nn.Conv2d(width, stage.width, 3, padding=1))
                width = stage.width
            elif stage.kind == "residual":
                first, second = nn.Conv2d(width, stage.inner, 3, padding=1), nn.Conv2d(stage.inner, width, 1)
                self.layers.append(nn.Sequential(first, nn.ReLU(), second))
            elif stage.kind == "concatenation":
                self.layers.append(nn.Conv2d(width, stage.inner, 1))
                width += stage.inner
            elif stage.kind == "depthwise":
                self.layers.append(nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU()))
            else:  # a shortcut that pads: channel c stays channel c, new ones come behind
                self.layers.append(nn.Conv2d(width, width + stage.width, 3, padding=1))
                width += stage.width
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for stage, layer in zip(self.stages, self.layers, strict=True):
            if stage.kind in ("chain", "depthwise"):
                x = layer(x)
            elif stage.kind == "residual":
                x = x + layer(x)
            elif stage.kind == "concatenation":
                x = torch.cat([x, layer(x)], 1)
            else:
                y = layer(x)
                x = y + functional.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            x = torch.relu(x)
        return self.head(x.mean((2, 3)))


STAGES = st.builds(
    Stage,
    kind=st.sampled_from(["chain", "residual", "concatenation", "depthwise", "padded"]),
    width=st.integers(3, 24),
    inner=st.integers(3, 24),
)
NETWORKS = st.builds(SmallNetwork, stem=st.integers(3, 24), stages=st.lists(STAGES, min_size=1, max_size=4).map(tuple))
