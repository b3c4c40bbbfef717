"""Networks whose layers read at places that data decides, and how far each is from the dense model without its dead filters.

``python data_layers.py`` prints a line for every network, before and after. A process of its own, because kernels that trust their
indices end it where those are no numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import DeformConv2d, roi_align

HOW = ("plain", "deformed", "sampled", "regions", "looked up", "counted", "unpooled")


def unit(inside: int, outside: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())


class ByData(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second, self.head = unit(3, 16), unit(16, 16), nn.Linear(16, 3)
        self.offsets, self.deformed = nn.Conv2d(16, 18, 3, padding=1), DeformConv2d(16, 16, 3, padding=1)
        self.rows, self.boxes = nn.Embedding(10, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.how == "deformed":
            h = self.deformed(h, self.offsets(h))
        if self.how == "sampled":
            grid = self.offsets(h)[:, :2].permute(0, 2, 3, 1).tanh()
            h = functional.grid_sample(h, grid, align_corners=False)
        if self.how == "regions":
            boxes = self.boxes(h.mean((2, 3))).sigmoid() * 7
            numbers = torch.arange(2.0, dtype=boxes.dtype).view(-1, 1)
            h = roi_align(h, torch.cat([numbers, boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), (3, 3))
        if self.how in ("looked up", "counted"):
            level = (h.mean((1, 2, 3)).abs() * 3).long().clamp(0, 9)
            looked_up = self.how == "looked up"
            h = h + self.rows(level).view(-1, 16, 1, 1) if looked_up else h * torch.bincount(level).to(h.dtype).sum()
        if self.how == "unpooled":
            values, places = functional.max_pool2d(h, 2, return_indices=True)
            h = functional.max_unpool2d(values, places, 2)
        return self.head(self.second(h).mean((2, 3)))


def main() -> None:
    from twin_property import distance

    from flowprune.pruning import plan, prune

    torch.set_num_threads(1)
    for how in HOW:
        torch.manual_seed(0)
        model = ByData(how).double().eval()
        with torch.no_grad():
            for layer, beta in ((model.first, -0.1), (model.second, 0.3)):
                layer[1].weight[:6] = 0.0
                layer[1].bias[:6] = beta
        inputs = [(torch.randn(2, 3, 8, 8, dtype=torch.float64),) for _ in range(4)]
        for branches in (False, True):
            print(how, flush=True)
            made = plan(model, inputs[0], threshold=0.01, fold_tolerance=0, branches=branches)
            difference = distance(prune(model, made).eval(), model, inputs)
            print(f"DONE {how}, branches={branches}: {made.filters_removed} removed, {difference:.1e} away", flush=True)
            assert difference < 1e-12 and made.filters_removed >= 6, how


if __name__ == "__main__":
    main()
