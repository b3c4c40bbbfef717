"""Small residual networks with dead branch ends planted, and what a network without those ends must compute."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from silenced_twin import randomized, silenced_twin
from torch import Tensor, nn
from torch.nn import functional

from flowprune.engine.allocation import Plan


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)), added in place, as torchvision writes it."""

    def __init__(self, wide_in: int, inner: int, wide: int, stride: int = 1, shortcut: str = "identity") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.shortcut: nn.Module = nn.Identity()
        if shortcut == "conv":
            self.shortcut = nn.Sequential(nn.Conv2d(wide_in, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
        if shortcut == "pad":
            self.shortcut = Padded(wide_in, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


class Padded(nn.Module):
    def __init__(self, wide_in: int, wide: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, wide - wide_in

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class Linear(nn.Module):
    """x + branch(x): nothing behind the addition."""

    def __init__(self, wide: int, inner: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(wide, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, 1, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Network(nn.Module):
    def __init__(self, blocks: Sequence[nn.Module], wide: int, first: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(wide, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def network(*kinds: str) -> nn.Module:
    """Three blocks of 8 channels, and where a kind is given, one that widens to 16 by that shortcut and one more."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = [Block(8, 6, 8) for _ in range(3)]
    for kind in kinds:
        blocks += [Block(8, 10, 16, 2, kind), Block(16, 10, 16)]
    return ready(Network(blocks, 16 if kinds else 8))


def ready(model: nn.Module) -> nn.Module:
    return randomized(model).double().eval()


def kill(norm: nn.Module, dead: Sequence[int], constant: float | Sequence[float]) -> None:
    """Make ends say nothing but a constant."""
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[list(dead)] = 0.0
        norm.bias[list(dead)] = torch.as_tensor(constant, dtype=norm.bias.dtype)


def images(count: int = 3, size: int = 12) -> Tensor:
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def branch_twin(model: nn.Module, plan: Plan, ends: Mapping[str, Sequence[int]]) -> nn.Module:
    """What the cut model must compute: the dense model with everything else that leaves silenced, and its dead ends saying their
    constants where their stream lives.

    Args:
        model: the dense model.
        plan: of its cut.
        ends: last batch norm of a branch -> its dead ends.
    """
    norms = {name: copy.deepcopy(model.get_submodule(name)) for name in ends}
    twin = silenced_twin(model, replace(plan, removed=dict(plan.removed)))
    with torch.no_grad():
        for name, dead in ends.items():
            gone = plan.removed.get(f"{name}.constant", {}).get(1, ())
            saying = [channel for channel in dead if channel not in gone]
            norm = twin.get_submodule(name)
            norm.weight[saying] = 0.0
            norm.bias[saying] = norms[name].bias[saying]
    return twin
