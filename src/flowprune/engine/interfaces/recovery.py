"""How the accuracy that a cut has cost comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from torch import nn

from flowprune.engine.interfaces.regularizer import Regularizer


class CutSlices(Protocol):
    """What a recovery is told of a cut; a ``Plan`` is one."""

    @property
    def removed(self) -> Mapping[str, Mapping[int, tuple[int, ...]]]:
        """Tensor name -> dimension -> indices that have left."""
        ...


class Recovery(Regularizer):
    """What brings accuracy back after a cut, built as ``Method(**options)``. It is called so::

        trainable = method.prepare(small, dense, plan, batches)
        # a method that trains: train(trainable, ..., regularizer=method), whose hooks are those of a regularizer
        small = method.restored()

    One that does not train has done all its work when ``prepare`` returns. ``dense`` is never changed; ``small`` is changed in
    place, or is part of what ``prepare`` returns.

    Attributes:
        trains: whether it acts during a training that has to follow.
        needs_data: whether ``prepare`` looks at the batches.
    """

    trains: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True

    _prepared: nn.Module | None = None

    def prepare(self, small: nn.Module, dense: nn.Module, plan: CutSlices, batches: Iterable[Any]) -> nn.Module:
        """Begin, and return what is to be trained.

        Args:
            small: what the cut left.
            dense: what it was made from, with weights.
            plan: the cut between the two.
            batches: calibration images: tensors, (input, target) pairs or dictionaries of keyword inputs.
        """
        self._prepared = small
        return small

    def restored(self) -> nn.Module:
        """The small model once all is done, with ordinary layers."""
        if self._prepared is None:
            raise RuntimeError("restored() before prepare()")
        return self._prepared
