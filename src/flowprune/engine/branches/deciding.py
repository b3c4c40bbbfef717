"""What becomes of a branch: opened, ended, its block a constant or nothing; and which channels it reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.allocation import BranchChange
from flowprune.engine.branches.ends import BranchEnd, block_around, stand_ins
from flowprune.engine.branches.readers import Reader
from flowprune.engine.branches.savings import is_worth_opening, is_worth_reading
from flowprune.engine.constants import constants_behind
from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing import tensors_of

Mask = NDArray[np.bool_]

SMALLEST_WIDTH = 2
"""Channels that what is opened keeps at least, as every dimension does."""


@dataclass(frozen=True)
class Terms:
    """On which terms branches are changed.

    Attributes:
        negligible: constants up to this are let go where their block could vanish.
        always: change branches also where the index costs more than it saves.
        round_to: so many channels stay that a width is a multiple of this.
    """

    negligible: float
    always: bool
    round_to: int

    def width(self, live: int) -> int:
        """How many channels stay of so many live ones."""
        return max(SMALLEST_WIDTH, -(-live // self.round_to) * self.round_to)


def change_of_end(
    model: nn.Module, dense: CoupledModel, end: BranchEnd, dead: Mask, within: Sequence[str], terms: Terms
) -> tuple[BranchChange, torch.Tensor] | str:
    """What becomes of a branch, and what its dead ends say ([channels], 0 for live ones); or why it stays as it is.

    Args:
        model, dense: the model and its analysis.
        end: the branch.
        dead: [channels] which of its ends are dead.
        within: the ends of the branches that nothing but this one needs.
        terms: see there.
    """
    graph = dense.graph
    width, live = len(dead), int((~dead).sum())
    found = constants_behind(graph.producers()[end.value], graph, graph.producers(), tensors_of(model))
    if found is None:
        return "its batch norm keeps no statistics"
    said = torch.where(torch.from_numpy(dead), found[1].detach().double().cpu(), 0.0)
    change = BranchChange(end.module, "opened", end.layer.name, width, live, end.rank)
    if live == 0:
        block = block_around(graph, end)
        inner = stand_ins(model, graph, end)
        if block is not None:
            vanishes = block.changes_nothing and bool((said.abs() <= terms.negligible).all())
            kind = "vanished" if vanishes else "constant"
            return replace(change, module=block.module, kind=kind, activation=block.activation), said
        if isinstance(inner, tuple) and not within:
            return replace(change, kind="ended", stand_ins=inner), said
    staying = terms.width(live)
    if staying >= width:
        return "too few are dead for a narrower branch"
    macs = macs_of(dense, {index for index, _ in end.layer.positions})
    if not terms.always and not is_worth_opening(width, staying, macs // width, end.positions):
        return f"putting {staying} of {width} channels at their places costs more than it saves"
    return change, said


def change_of_reader(dense: CoupledModel, reader: Reader, unread: Mask, terms: Terms) -> BranchChange | None:
    """The branch's first convolution reading only what it needs; None where that is not worth it."""
    staying = terms.width(int((~unread).sum()))
    if staying >= reader.channels:
        return None
    macs = macs_of(dense, {reader.operation}) // reader.channels
    if not terms.always and not is_worth_reading(reader.channels, staying, macs, reader.positions):
        return None
    return BranchChange(reader.module, "reading", reader.module, reader.channels, staying, reader.rank)


def macs_of(dense: CoupledModel, operations: Collection[int]) -> int:
    """Multiply-accumulates of an image in some operations."""
    total = 0
    for cost in dense.coupling.notes.costs:
        if cost.operation in operations:
            total += cost.constant * int(np.prod([len(factor) for factor in cost.factors], dtype=np.int64))
    return total // dense.batch
