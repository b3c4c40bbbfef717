"""What a phase costs, counted: image passes, a forward and a backward 1, a forward alone a third."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from flowprune.training import Data
from flowprune.training.splits import Split

FORWARD = 1 / 3


@dataclass
class Passes:
    """Images that went through whole networks."""

    forwards: int = 0
    with_backward: int = 0
    tested: int = 0

    @property
    def cost(self) -> float:
        """In image passes, without those of the tests (of which an example input is handed out, too)."""
        return self.with_backward + FORWARD * max(0, self.forwards - self.tested)


@dataclass
class _Told:
    """Test images that are counted when they are handed out: tests are no part of what a method costs."""

    whole: Split
    passes: Passes

    def __len__(self) -> int:
        return len(self.whole)

    def batches(self, positions: Sequence[Tensor], device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
        for images, targets in self.whole.batches(positions, device):
            self.passes.tested += len(images)
            yield images, targets


@contextmanager
def counted(data: Data) -> Iterator[tuple[Data, Passes]]:
    """The data, by which tests are told, and what whole networks are called with inside the block.

    A network is what is called from outside any other module with images of the data's shape; with gradients enabled it counts as
    a forward and a backward.
    """
    passes, depth = Passes(), 0

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal depth
        images = arguments[0] if arguments else None
        real = type(images) is Tensor and not images.is_meta
        if depth == 0 and real and images is not None and tuple(images.shape[1:]) == data.shape:
            if torch.is_grad_enabled():
                passes.with_backward += len(images)
            else:
                passes.forwards += len(images)
        depth += 1

    def after(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        nonlocal depth
        depth -= 1

    handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after, always_call=True),
    ]
    try:
        yield replace(data, test=_Told(data.test, passes)), passes
    finally:
        for handle in handles:
            handle.remove()
