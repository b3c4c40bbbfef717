"""Micro-structured blocks: small rectangles of a weight matrix that are zero, or of one absolute value, as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError


@dataclass(frozen=True)
class BlockShape:
    """p filters by q weights of a filter, of a weight seen as ``[F, C K K]``; blocks at the edges are what is left there.

    Raises:
        FlowpruneError: a side is no number of at least 1.
    """

    p: int = 4
    q: int = 4

    def __post_init__(self) -> None:
        for name in ("p", "q"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise FlowpruneError(f"{name}={value!r} is no side of a block: use a whole number of at least 1")

    def blocks(self, weight: Tensor) -> Tensor:
        """``[blocks, p q]``, row by row; what sticks out over an edge is 0."""
        matrix = weight.reshape(len(weight), -1)
        rows, columns = matrix.shape
        padded = torch.nn.functional.pad(matrix, (0, -columns % self.q, 0, -rows % self.p))
        tiles = padded.unflatten(0, (-1, self.p)).unflatten(2, (-1, self.q))
        result: Tensor = tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        return result

    def weight(self, blocks: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """The weight of such a shape that ``blocks`` made them of."""
        rows = shape[0]
        columns = max(1, int(torch.Size(shape[1:]).numel()))
        down, along = -(-rows // self.p), -(-columns // self.q)
        tiles = blocks.view(down, along, self.p, self.q).permute(0, 2, 1, 3)
        return tiles.reshape(down * self.p, along * self.q)[:rows, :columns].reshape(shape)

    def inside(self, weight: Tensor) -> Tensor:
        """bool ``[blocks, p q]``: what does not stick out."""
        return self.blocks(torch.ones_like(weight, dtype=torch.uint8)).bool()


@dataclass(frozen=True)
class MicroStructure:
    """Which blocks of a weight are zero, and which have one absolute value; bool ``[blocks]`` each, and the signs of these.

    Attributes:
        pruned: the blocks that are zero.
        unified: the blocks of one absolute value.
        signs: ``[blocks, p q]``, 1 or -1.
    """

    pruned: Tensor
    unified: Tensor
    signs: Tensor

    def held(self, weight: Tensor, shape: BlockShape) -> Tensor:
        """The nearest weight of this structure: zeros, the mean of sign times weight in a unified block, all others as they are."""
        blocks = shape.blocks(weight)
        inside = shape.inside(weight)
        values = _means(blocks * self.signs, inside)
        one = torch.where(self.unified[:, None], values[:, None] * self.signs * inside, blocks)
        return shape.weight(torch.where(self.pruned[:, None], torch.zeros_like(one), one), weight.shape)


def structure_of(weight: Tensor, shape: BlockShape, prune: float, unify: float) -> MicroStructure:
    """The structure that a weight is nearest to, block by block.

    "Efficient Micro-Structured Weight Unification and Pruning for Neural Network Compression", arXiv 2106.08301; from the published
    abstract, the costs are derived: a block loses ``sum w^2`` where it is zeroed, and ``sum (|w| - u)^2`` where all its absolute
    values become u, which is least for u = mean |w|. The share ``prune`` of the blocks, those that lose least, is zeroed; of the
    others the share ``unify`` (of all blocks) that loses least becomes one value.

    Raises:
        FlowpruneError: the shares are none, or add up to more than 1.
    """
    if not (0 <= prune <= 1 and 0 <= unify <= 1 and prune + unify <= 1 + 1e-9):
        raise FlowpruneError(
            f"prune={prune!r} and unify={unify!r} are no shares of the blocks that add up to 1 at most"
        )
    blocks, inside = shape.blocks(weight.detach()), shape.inside(weight)
    signs = torch.where(blocks < 0, -1.0, 1.0).to(blocks.dtype)
    number = len(blocks)
    pruned = torch.zeros(number, dtype=torch.bool, device=weight.device)
    unified = pruned.clone()
    by_size = blocks.square().sum(1).sort(stable=True).indices
    pruned[by_size[: int(prune * number + 1e-6)]] = True
    spread = ((blocks.abs() - _means(blocks.abs(), inside)[:, None]).square() * inside).sum(1)
    by_spread = torch.where(pruned, torch.inf, spread).sort(stable=True).indices
    unified[by_spread[: min(int(unify * number + 1e-6), number - int(pruned.sum()))]] = True
    return MicroStructure(pruned, unified, signs)


def projected(weight: Tensor, shape: BlockShape, prune: float, unify: float) -> Tensor:
    """The weight with ``prune`` of its blocks zero and ``unify`` of them of one absolute value; twice is as once."""
    return structure_of(weight, shape, prune, unify).held(weight, shape)


def _means(values: Tensor, inside: Tensor) -> Tensor:
    """``[blocks]``: the mean of what is inside; exactly the value, where there is but one."""
    shown = torch.where(inside, values, -torch.inf)
    most, least = shown.amax(1), torch.where(inside, values, torch.inf).amin(1)
    return torch.where(most == least, most, (values * inside).sum(1) / inside.sum(1))
