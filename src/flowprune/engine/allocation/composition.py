"""Several plans, each carried out on what the one before it left, as the one plan that they make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from flowprune.engine.allocation.plan import AttributeChange, BranchChange, LayerChange, Plan
from flowprune.engine.steps.lineage import lineage_of


def cuts_between(dense: nn.Module, small: nn.Module) -> list[Plan]:
    """The plans that have made ``small`` of ``dense``, in their order, by what both know of where they come from."""
    return [Plan.from_dict(plan) for plan in lineage_of(small).plans[len(lineage_of(dense).plans) :]]


def composed(plans: Sequence[Plan], asked: str, *, untrained: bool = False) -> Plan:
    """One plan, in the dense model's indices, that cuts what all of them cut.

    It says what was cut and what is left. The values that folds have moved are only in it where nothing was trained between the
    steps: they were moved step by step, and may have been trained since.

    Args:
        plans: in their order; at least one.
        asked: the budget of all of them.
        untrained: whether the plans follow each other without training, so that carrying out the one plan gives the same model.
    """
    first, last = plans[0], plans[-1]
    staying: dict[tuple[str, int], np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    branches: list[BranchChange] = []
    for made in plans:
        for branch in made.branches:
            branches.append(_in_dense_channels(branch, staying, shapes))
        for name, shape in made.shapes.items():
            shapes.setdefault(name, tuple(shape))
        for name, dimensions in made.removed.items():
            for dimension, indices in dimensions.items():
                before = staying.get((name, dimension), np.arange(made.shapes[name][dimension]))
                staying[name, dimension] = np.delete(before, list(indices))
    removed: dict[str, dict[int, tuple[int, ...]]] = {}
    for (name, dimension), kept in staying.items():
        gone = np.setdiff1d(np.arange(shapes[name][dimension]), kept)
        if len(gone) and not any(_is_gone(name, branch) for branch in branches):
            removed.setdefault(name, {})[dimension] = tuple(gone.tolist())
    still_there = {layer.layer for layer in last.layers}
    return replace(
        last,
        asked=asked,
        removed=removed,
        shapes={name: shapes[name] for name in shapes if name in removed},
        attributes=_attributes(plans),
        layers=merged_layers([layer for layer in first.layers if layer.layer in still_there], last.layers),
        macs=(first.macs[0], last.macs[1]),
        params=(first.params[0], last.params[1]),
        frozen={name: reason for made in plans for name, reason in made.frozen.items()},
        folds=tuple(fold for made in plans for fold in made.folds),
        branches=tuple(branches),
        shifts=_shifts(plans) if untrained else {},
    )


def _in_dense_channels(
    branch: BranchChange, staying: dict[tuple[str, int], np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> BranchChange:
    """The branch with its channels counted in the dense model; notes which of them are left where it is changed."""
    reads = branch.kind == "reading"
    counted = (f"{branch.end}.weight", 1 if reads else 0)
    kept = staying.get(counted, np.arange(branch.channels))
    channels = shapes[counted[0]][counted[1]] if counted in staying else branch.channels
    for buffer, dimension in (("reads", 0),) if reads else (("constant", 1), ("places", 0)):
        name = f"{branch.module}.{buffer}"
        staying[name, dimension] = kept
        shapes[name] = (1, channels, *[1] * (branch.rank - 2)) if dimension else (channels,)
    gone = np.setdiff1d(np.arange(channels), np.delete(kept, list(branch.stream_removed))) if reads else ()
    return replace(branch, channels=channels, stream_removed=tuple(int(channel) for channel in gone))


def _is_gone(name: str, branch: BranchChange) -> bool:
    """Whether a tensor of the dense model is in a branch that has none of its own any more."""
    if branch.kind in ("opened", "reading"):
        return False
    paths = (branch.module, *branch.stand_ins)
    return any(name.startswith(f"{path}.") for path in paths) and name != f"{branch.module}.constant"


def _shifts(plans: Sequence[Plan]) -> dict[str, torch.Tensor]:
    """What all folds add to each tensor, at the dense model's places."""
    staying: dict[str, np.ndarray] = {}
    sums: dict[str, torch.Tensor] = {}
    for made in plans:
        for name, shift in made.shifts.items():
            places = staying.get(name, np.arange(len(shift)))
            if name not in sums:
                dense = next(earlier.shapes[name][0] for earlier in plans if name in earlier.shapes)
                sums[name] = torch.zeros(dense, dtype=shift.dtype)
            sums[name][torch.from_numpy(places)] += shift.to(sums[name])
        for name, dimensions in made.removed.items():
            if 0 in dimensions:
                before = staying.get(name, np.arange(made.shapes[name][0]))
                staying[name] = np.delete(before, list(dimensions[0]))
    return sums


def _attributes(plans: Sequence[Plan]) -> tuple[AttributeChange, ...]:
    found: dict[tuple[str, str, int | None], AttributeChange] = {}
    for made in plans:
        for change in made.attributes:
            key = (change.module, change.name, change.position)
            before = found[key].before if key in found else change.before
            found[key] = replace(change, before=before)
    return tuple(found.values())


def merged_layers(dense: Sequence[LayerChange], left: Sequence[LayerChange]) -> tuple[LayerChange, ...]:
    """Every layer of the dense model, with what is left of it; nothing of those that are gone, with their branch."""
    after = {change.layer: change for change in left}
    nothing = LayerChange("", (0, 0), (0, 0), (0, 0))
    pairs = [(change, after.get(change.layer, nothing)) for change in dense]
    return tuple(
        LayerChange(a.layer, (a.channels[0], b.channels[1]), (a.macs[0], b.macs[1]), (a.params[0], b.params[1]))
        for a, b in pairs
    )
