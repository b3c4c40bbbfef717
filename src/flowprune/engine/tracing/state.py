"""What a forward leaves otherwise than it found it: the next one would read something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from flowprune.engine.tracing.graph import Graph


@dataclass(frozen=True)
class State:
    """What the modules of a shadow hold.

    Attributes:
        tensors: dotted name -> parameter or buffer.
        others: id of every tensor that is a plain attribute, bare or in a container.
        numbers: (path, name) -> a number among the plain attributes.
    """

    tensors: dict[str, torch.Tensor]
    others: frozenset[int]
    numbers: dict[tuple[str, str], Any]


def state_of(model: nn.Module) -> State:
    """Look at all modules; those of ``torch.nn`` hold no plain tensors, and no numbers that change."""
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    others: set[int] = set()
    numbers: dict[tuple[str, str], Any] = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.modules"):
            continue
        for name, held in vars(module).items():
            if isinstance(held, (int, float)):
                if name != "training":
                    numbers[path, name] = held
            elif isinstance(held, torch.Tensor):
                others.add(id(held))
            elif isinstance(held, (list, tuple, dict)) and name[:1] != "_":
                others.update(id(leaf) for leaf in tree_leaves(held) if isinstance(leaf, torch.Tensor))
    return State(tensors, frozenset(others), numbers)


def note_changes(graph: Graph, before: State, after: State, stand_ins: dict[int, int]) -> None:
    """Write down which tensors and numbers another forward would find otherwise.

    Args:
        graph: the pass that ran in between.
        before, after: of the shadow it ran.
        stand_ins: value number of a constant that a module held -> id of the tensor it held.
    """
    graph.replaced = frozenset(name for name, held in before.tensors.items() if after.tensors.get(name) is not held)
    graph.counts = any(after.numbers.get(place, held) != held for place, held in before.numbers.items())
    for number, held in stand_ins.items():
        if held not in after.others:
            del graph.constants[number]
