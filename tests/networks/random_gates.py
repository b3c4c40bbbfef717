"""Building blocks of random architectures: gates that data opens and shuts. What is constant in front is no constant behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

COMPARED = ("above", "cast", "not below", "where", "where a number", "filled", "every channel", "own limit", "any")
CLIPPED = ("clamp", "clipped", "hard sigmoid", "step", "sign", "rounded", "integers")
CURED = ("finite", "nan_to_num", "logarithm")
CHOSEN = ("topk", "scattered topk", "largest", "argmax", "one_hot")
GATES = (*COMPARED, *CLIPPED, *CURED, *CHOSEN)


class Gated(nn.Module):
    """A feature map times a gate of one channel that is read off it: open or shut, or between, by place and by image.

    ``how`` is one of ``GATES``: by comparison, by clipping, through what cures NaN, or for the chosen places only. Places have
    an offset each, so that no two of them are equal and no order hangs on the last digit.
    """

    def __init__(self, width: int, size: int, how: str) -> None:
        super().__init__()
        self.how, self.chosen = how, max(size * size // 2, 1)
        gates = {"argmax": 2, "one_hot": 3, "every channel": width}.get(how, 1)
        self.read = nn.Conv2d(width, gates, 1)
        self.places = nn.Parameter(torch.randn(1, 1, size, size))
        self.limit = nn.Parameter(torch.rand(width, 1, 1) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.read(x)
        if self.how in COMPARED:
            return self._compared(x, gate)
        if self.how in CHOSEN:
            return x * self._chosen(gate).to(x.dtype)
        return x * self._number(gate)

    def _compared(self, x: Tensor, gate: Tensor) -> Tensor:
        if self.how == "where":
            return torch.where(gate > 0, x, torch.zeros_like(x))
        if self.how == "where a number":
            return torch.where(gate <= 0, 0.2, x)
        if self.how == "filled":
            return x.masked_fill(gate < 0, 0.25)
        if self.how == "own limit":
            return torch.where(x > self.limit, x, torch.zeros_like(x))
        if self.how == "any":
            return x * (gate > 0.3).flatten(1).any(1).view(-1, 1, 1, 1)
        if self.how == "not below":
            return x * ~(gate < 0)
        return x * (gate > 0).to(x.dtype) if self.how == "cast" else x * (gate > 0)

    def _number(self, gate: Tensor) -> Tensor:
        if self.how == "clamp":
            return gate.clamp(0, 1)
        if self.how == "clipped":
            return torch.minimum(torch.maximum(gate, torch.zeros_like(gate)), torch.ones_like(gate))
        if self.how == "hard sigmoid":
            return functional.hardsigmoid(4 * gate)
        if self.how == "step":
            return torch.heaviside(gate.detach(), torch.zeros_like(gate))
        if self.how == "sign":
            return torch.sign(gate)
        if self.how == "rounded":
            return torch.sigmoid(3 * gate).round()
        if self.how == "integers":
            return (gate * 3).long().clamp(0, 2).to(gate.dtype)
        if self.how == "finite":
            return torch.isfinite(gate).to(gate.dtype)
        return torch.nan_to_num(torch.log(gate) if self.how == "logarithm" else gate)

    def _chosen(self, gate: Tensor) -> Tensor:
        if self.how == "argmax":
            return gate.argmax(1, keepdim=True) == 0
        if self.how == "one_hot":
            return functional.one_hot(gate.argmax(1), 3)[..., 1].unsqueeze(1)
        scores = (gate + self.places).flatten(1)
        if self.how == "largest":
            return (scores == scores.amax(1, keepdim=True)).view_as(gate)
        if self.how == "topk":
            return (scores >= scores.topk(self.chosen, 1).values[:, -1:]).view_as(gate)
        best = scores.topk(self.chosen, 1).indices
        return torch.zeros_like(scores).scatter(1, best, 1.0).view_as(gate)


class ChannelsFirstRMSNorm(nn.RMSNorm):
    """Torch's RMS norm over the channels of a feature map: a channel of zeros adds nothing to its sum, but counts in its mean."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WrittenRMSNorm(nn.Module):
    """The same, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5) * self.weight
