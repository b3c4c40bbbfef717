"""What is pruned: a model of a list, its example inputs, and what it returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flowprune as fp

IMAGES = 2  # a batch norm over one value cannot run in training mode
_DETECTORS = ("ssd", "rcnn", "retinanet", "fcos")


@dataclass(frozen=True)
class Subject:
    """A model to prune.

    Attributes:
        name: as ``flowprune.models.create`` takes it.
        size: height and width of the images, in pixels.
        options: further arguments of the builder.
    """

    name: str
    size: int
    options: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of_line(cls, line: str) -> Subject:
        """From ``NAME SIZE [OPTION=NUMBER ...]``."""
        name, size, *options = line.split()
        pairs = (option.partition("=") for option in options)
        return cls(name, int(size), tuple((key, int(number)) for key, _, number in pairs))

    @property
    def line(self) -> str:
        """The line of the list that this is."""
        return " ".join([self.name, str(self.size), *(f"{key}={number}" for key, number in self.options)])

    @property
    def detects(self) -> bool:
        """Whether it takes a list of images and, in training mode, what is to be found on them."""
        return any(kind in self.name for kind in _DETECTORS)

    def build(self) -> nn.Module:
        """The dense model with the same random weights every time, in training mode.

        A detector has seen one batch: with the running statistics that it is born with it would find the same on every image, and
        what depends on the image would not be put to the test.
        """
        torch.manual_seed(0)
        model = fp.models.create(self.name, **dict(self.options))
        if self.detects:
            with torch.no_grad():
                model(*self.inputs())
        return model

    def inputs(self) -> tuple[Any, ...]:
        """Positional arguments that the forward takes in both modes."""
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(IMAGES, 3, self.size, self.size, generator=generator)
        if not self.detects:
            return ((images - 0.5) * 4,)
        return list(images), [self._found_on_an_image() for _ in range(IMAGES)]

    def _found_on_an_image(self) -> dict[str, torch.Tensor]:
        low, high = self.size // 8, self.size // 2
        found = {
            "boxes": torch.tensor([[low, low, high, high]], dtype=torch.float32),
            "labels": torch.tensor([1]),
        }
        if "mask" in self.name:
            found["masks"] = torch.zeros(1, self.size, self.size, dtype=torch.uint8)
            found["masks"][:, low:high, low:high] = 1
        if "keypoint" in self.name:
            found["keypoints"] = torch.full((1, 17, 3), float(low + 1))
            found["keypoints"][:, :, 2] = 1
        return found


def read_list(path: Path) -> list[Subject]:
    """The subjects of a list; lines that begin with ``#`` are comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Subject.of_line(line) for line in lines if line.strip() and not line.startswith("#")]


def tensors_in(outputs: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists, tuples and dictionaries, in their order."""
    if isinstance(outputs, torch.Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        for value in outputs.values():
            yield from tensors_in(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from tensors_in(value)


def shapes(outputs: Any) -> Any:
    """The outputs with every tensor replaced by its shape; names and nesting stay."""
    if isinstance(outputs, torch.Tensor):
        return tuple(outputs.shape)
    if isinstance(outputs, dict):
        return {name: shapes(value) for name, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return [shapes(value) for value in outputs]
    return type(outputs).__name__


def output_sizes(outputs: Any) -> list[int]:
    """How many classes, or features, each output has: the second dimension of a map, else the last."""
    sizes = {t.shape[1] if t.dim() == 4 else t.shape[-1] for t in tensors_in(outputs) if t.dim() > 1}
    return sorted(sizes)


class TinyNetwork(nn.Sequential):
    """What every tool prunes once before its clock starts, so that imports and first calls are nobody's time."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        )
