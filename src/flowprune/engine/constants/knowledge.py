"""What is known of a tensor whatever the model is given: a mask beside finite values.

An entry is known if a proof says that it is the same finite number for all inputs. Nothing known is ``None`` in place of a
``Knowledge``, which is what most tensors of a pass are, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Knowledge:
    """What is known of one tensor.

    Attributes:
        values: of the tensor's shape and type; 0 where nothing is known.
        known: bool, of the same shape: which entries are known; None for all of them. A tensor that something is later written
            into always has a mask, and views share it as they share the values.
    """

    values: Tensor
    known: Tensor | None = None

    def mask(self) -> Tensor:
        """Which entries are known, also where all of them are."""
        return torch.ones_like(self.values, dtype=torch.bool) if self.known is None else self.known

    def is_whole(self) -> bool:
        """Whether every entry is known."""
        return self.known is None or bool(self.known.all())


def learned(values: Tensor, known: Tensor | None) -> Knowledge | None:
    """What is known where ``known`` says so (None: everywhere) and the value is finite; None where that is nowhere."""
    if values.is_floating_point() or values.is_complex():
        finite = torch.isfinite(values)
        known = finite if known is None else known & finite
    if known is None or bool(known.all()):
        return Knowledge(values)
    if not bool(known.any()):
        return None
    return Knowledge(torch.where(known, values, torch.zeros((), dtype=values.dtype, device=values.device)), known)


def nothing(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Knowledge:
    """A tensor of which nothing is known, for what only part of it will be written to."""
    return Knowledge(
        torch.zeros(tuple(shape), dtype=dtype, device=device),
        torch.zeros(tuple(shape), dtype=torch.bool, device=device),
    )


def is_zero(knowledge: Knowledge) -> Tensor:
    """Bool, of the tensor's shape: which entries are known to be exactly zero."""
    zero = knowledge.values == 0
    return zero if knowledge.known is None else zero & knowledge.known
