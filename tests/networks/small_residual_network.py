"""A network small enough to write every paper's formula out by hand: a stem, one residual block, a hidden layer, a head."""

from __future__ import annotations

import torch
from torch import nn

from flowprune.engine.coupling import CoupledGroup, analyse, group_channels
from flowprune.engine.tracing import trace


class SmallResidual(nn.Module):
    """Coupled groups: stem and end (tied by the addition), inner, hidden. Its activations overwrite in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(5)
        self.inner = nn.Conv2d(5, 7, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(7)
        self.end = nn.Conv2d(7, 5, 1)
        self.end_norm = nn.BatchNorm2d(5)
        self.hidden = nn.Linear(5, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        stem = nn.functional.relu_(self.stem_norm(self.stem(x)))
        inner = nn.functional.relu_(self.inner_norm(self.inner(stem)))
        added = nn.functional.relu_(self.end_norm(self.end(inner)).add_(stem))
        return self.head(self.hidden(added.mean((2, 3))).relu_())

    def parts(self, x):
        """The maps, with nothing overwritten: after the activation, and before it (names ending in "_raw")."""
        stem_raw = self.stem_norm(self.stem(x))
        stem = stem_raw.relu()
        inner_raw = self.inner_norm(self.inner(stem))
        inner = inner_raw.relu()
        added = (self.end_norm(self.end(inner)) + stem).relu()
        hidden = self.hidden(added.mean((2, 3))).relu()
        return {"stem": stem, "inner": inner, "added": added, "hidden": hidden, "inner_raw": inner_raw}

    def rest(self, name, value):
        """The logits, from one of ``parts`` on; only the end of "stem" that enters the branch and the sum."""
        if name == "stem":
            inner = self.inner_norm(self.inner(value)).relu()
            return self.rest("added", (self.end_norm(self.end(inner)) + value).relu())
        if name == "added":
            return self.rest("hidden", self.hidden(value.mean((2, 3))).relu())
        return self.head(value)


def build(
    seed: int = 1, kind: type[SmallResidual] = SmallResidual, dtype: torch.dtype = torch.float64
) -> SmallResidual:
    """With random weights and batch-norm statistics, in training mode."""
    torch.manual_seed(seed)
    model = kind().to(dtype)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.2, 1.5)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def groups_of(model: nn.Module, x: torch.Tensor) -> dict[str, CoupledGroup]:
    notes, passes = analyse(model, [trace(model, x)])
    return {group.name: group for group in group_channels(notes, passes).groups}


def images(count: int, dtype: torch.dtype = torch.float64, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)


def labels(count: int) -> torch.Tensor:
    return torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(count))
