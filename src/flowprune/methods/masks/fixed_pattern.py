"""Masks that are a function of position alone: which taps of which kernels stay is known before there are any weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch

from flowprune.engine.interfaces import Keep
from flowprune.errors import BudgetError, ModelError
from flowprune.methods.masks.kept_weights import checked_keep, density

CLOSE_ENOUGH = 5e-4
"""A share that is asked for as it is printed, with three decimals, is the one that is meant."""


class FixedPattern(ABC):
    """A table of kernels and a rule which one filter f has on channel c; the same at initialisation and on trained weights.

    Applies to every convolution of the right kernel size: grouped and depthwise ones (c counts the channels that a filter reads,
    from 0) and transposed ones. All other weights, of linear layers and attention too, are kept whole, and count for the density.
    No indices have to be stored: the mask follows from the shape.

    Args:
        first_dense: the first convolution stays whole, as in the papers' experiments.
    """

    def __init__(self, *, first_dense: bool = True) -> None:
        self.first_dense = first_dense

    @abstractmethod
    def table(self, kernel: tuple[int, ...]) -> torch.Tensor | None:
        """The kernels, ``[period, *kernel]`` boolean; None where kernels of this size stay whole."""

    @abstractmethod
    def index(self, filters: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        """Which kernel of the table filter f has on channel c; ``filters`` is ``[F, 1]``, ``channels`` ``[1, C]``."""

    @abstractmethod
    def settings(self) -> Iterator[FixedPattern]:
        """The densities there are to choose from: this kind of pattern, with every usual setting."""

    @abstractmethod
    def __str__(self) -> str:
        """The name and the settings, for messages."""

    def select(self, scores: Mapping[str, torch.Tensor], keep: Keep | None = None) -> dict[str, torch.Tensor]:
        """The pattern.

        Args:
            scores: name of the parameter -> any tensor of its shape, in the model's order: ``[F, C, *kernel]`` of a convolution.
            keep: None, or what the pattern keeps of all these weights anyway, to three decimals.

        Returns:
            Name -> a boolean tensor of its shape, on its device.

        Raises:
            BudgetError: another density is asked for; the nearest there is, is named.
            ModelError: no convolution has a kernel of the right size.
        """
        masks = self._masks(scores)
        if all(mask.all() for mask in masks.values()):
            shapes = "; ".join(f"{name} is {tuple(score.shape)}" for name, score in list(scores.items())[:3])
            raise ModelError(f"{self} finds no kernel that it fits beside the first convolution ({shapes}, ...)")
        if keep is not None:
            self._check(checked_keep(keep, scores), scores, density(masks))
        return masks

    def _masks(self, scores: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tables = self._tables({name: tuple(score.shape) for name, score in scores.items()})
        return {
            name: torch.ones(score.shape, dtype=torch.bool, device=score.device)
            if name not in tables
            else tables[name][self._indices(score.shape)].to(score.device)
            for name, score in scores.items()
        }

    def _tables(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        """The table of every weight that the pattern is laid on."""
        convolutions = [name for name, shape in shapes.items() if len(shape) > 2]
        found = {name: self.table(shapes[name][2:]) for name in convolutions[1 if self.first_dense else 0 :]}
        return {name: table for name, table in found.items() if table is not None}

    def _indices(self, shape: Sequence[int]) -> torch.Tensor:
        return self.index(torch.arange(shape[0])[:, None], torch.arange(shape[1])[None])

    def _density(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The share of all weights of such shapes that stays."""
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        for name, table in self._tables(shapes).items():
            sizes[name] = int(table.flatten(1).sum(1)[self._indices(shapes[name])].sum())
        return sum(sizes.values()) / sum(math.prod(shape) for shape in shapes.values())

    def _check(self, keep: Keep, scores: Mapping[str, torch.Tensor], have: float) -> None:
        sizes = {name: score.numel() for name, score in scores.items()}
        total = sum(sizes.values())
        asked = sum(keep[name] * size for name, size in sizes.items()) / total if isinstance(keep, Mapping) else keep
        if abs(asked - have) <= CLOSE_ENOUGH:
            return
        shapes = {name: tuple(score.shape) for name, score in scores.items()}
        nearest, reached = self, have
        for other in self.settings():
            other.first_dense = self.first_dense
            found = other._density(shapes)
            if abs(asked - found) < abs(asked - reached):
                nearest, reached = other, found
        advice = (
            "no setting of it comes nearer; leave weights= out"
            if nearest is self
            else f"the nearest to that is {nearest}, which keeps {reached:.4f}"
        )
        raise BudgetError(f"{self} keeps {have:.4f} of these weights, not {asked:.4f}; {advice}")
