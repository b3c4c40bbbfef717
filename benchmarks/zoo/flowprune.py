"""flowprune, called as its README shows: ``plan`` and ``prune``, L2, half of the channels of every group."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flowprune as fp
from zoo.subjects import Subject, tensors_in

PACKAGE = "flowprune"
MODES = ("train",)


@dataclass(frozen=True)
class Pruned:
    """The new, small model and the plan that it follows."""

    model: nn.Module
    plan: fp.Plan


def prune(model: nn.Module, inputs: tuple[Any, ...], classes: Collection[int]) -> Pruned:
    """A small copy of ``model``. Its outputs keep their dimensions by default, so nothing need be ignored."""
    plan = fp.plan(model, inputs, importance=fp.importance.L2(), channels=0.5)
    return Pruned(fp.prune(model, plan), plan)


def details(pruned: Pruned) -> dict[str, Any]:
    """What the plan says of itself: MACs kept, and why what stays must stay."""
    reasons: dict[str, int] = {}
    for reason in pruned.plan.frozen.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    before, after = pruned.plan.macs
    most = sorted(reasons.items(), key=lambda item: -item[1])[:6]
    return {
        "macs_kept": after / max(before, 1),
        "frozen": len(pruned.plan.frozen),
        "reasons": {reason[:240]: count for reason, count in most},
    }


def check_saving(small: nn.Module, subject: Subject, inputs: tuple[Any, ...]) -> None:
    """Raise unless a file gives back a model with the very same outputs, through ``model=`` and a fresh dense instance."""
    small.eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "small.fp"
        fp.save(small, path)
        again = fp.load(path, model=subject.build()).eval()
        outputs = []
        for model in (small, again):
            torch.manual_seed(0)
            outputs.append(list(tensors_in(model(*inputs))))
    assert len(outputs[0]) == len(outputs[1]) > 0, "the loaded model returns something else"
    assert all(map(torch.equal, *outputs)), "the loaded model's output differs"


def export(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """``torch.export`` of ``model`` in evaluation mode; raises whatever that raises."""
    torch.export.export(model.eval(), inputs, strict=False)
