"""One method of a module carried out: what the module computes before and after it, and whether that is as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
import torch
from torch import Tensor, nn

from flowprune.engine.surgery.readings import reading
from flowprune.engine.tracing.expressions import Attribute
from flowprune.engine.tracing.shadow import copy_with, own_tensor

Taken = Sequence[tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of every tensor that a call of a module took in."""

TOLERANCE = 1e-5
"""How much a method may change what a module computes, as a share of its largest output; or ten times what it does to the dense."""
_PRESERVES = 1e-2
"""A method that changes the dense module's outputs by more than this share is none that is meant to leave them as they are."""
_SLICES = 64
"""How many ways of slicing a returned tensor are tried."""


@dataclass(frozen=True)
class Outcome:
    """What a method did.

    Attributes:
        before, after: the module's output, where it is one tensor of floating-point numbers and the call is known.
        returned: the tensors that the method returned.
        read: the integer attributes that it read.
        inconsistent: a layer that says other widths afterwards than its weight has.
        raised: what the method raised, in words.
    """

    before: Tensor | None = None
    after: Tensor | None = None
    returned: tuple[Tensor, ...] = ()
    read: tuple[Attribute, ...] = ()
    inconsistent: str = ""
    raised: str = ""

    @property
    def change(self) -> float:
        """By how much the output changed, as a share of its largest value; infinite where it has another shape, or is not known."""
        if self.before is None or self.after is None or self.before.shape != self.after.shape:
            return float("inf")
        if not self.before.numel():
            return 0.0
        largest = float((self.before - self.after).abs().max()) / max(float(self.before.abs().max()), 1e-30)
        return float("inf") if largest != largest else largest


def own_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode with tensors of its own, to be spent on one method."""
    return copy_with(module, own_tensor).eval()


def example_of(taken: Taken, like: nn.Module) -> tuple[Tensor, ...]:
    """Noise, one image of it, for what a module takes in; where the weights of ``like`` are."""
    device = next((parameter.device for parameter in like.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape, dtype in taken:
        one = (1, *shape[1:]) if len(shape) > 1 else shape
        noise = torch.randn(one, generator=generator) if dtype.is_floating_point else torch.zeros(one)
        made.append(noise.to(device, dtype))
    return tuple(made)


def outcome_of(module: nn.Module, method: str | None, inputs: tuple[Tensor, ...] | None) -> Outcome:
    """Run ``module``, its method, and what the method has made of it: the module that it returned, or ``module`` itself."""

    def run(called: nn.Module) -> Tensor | None:
        try:
            output = None if inputs is None else called(*(tensor.clone() for tensor in inputs))
        except Exception:  # it takes something else besides, or no longer what it took
            return None
        return output if isinstance(output, Tensor) and output.is_floating_point() else None

    devices = sorted({parameter.device.index or 0 for parameter in module.parameters() if parameter.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        before = run(module)
        if method is None:
            return Outcome(before)
        try:
            with reading(module) as read:
                returned = getattr(module, method)()
        except Exception as error:  # the user's own code
            line = str(error).strip().partition("\n")[0]
            return Outcome(before, raised=f"raises {type(error).__name__}: {line}".rstrip(": "))
        fused = returned if isinstance(returned, nn.Module) else module
        several = returned if isinstance(returned, (tuple, list)) else (returned,)
        tensors = tuple(tensor.detach().clone() for tensor in several if isinstance(tensor, Tensor))
        return Outcome(before, run(fused), tensors, tuple(read), _inconsistent(fused))


def problem_of(small: Outcome, dense: Outcome, as_cut: Tensor | None, removed: Sequence[tuple[int, ...]]) -> str:
    """What a method does otherwise to the small module than to the dense one, in words that follow "it"; empty where nothing.

    Args:
        small, dense: what it did to both.
        as_cut: what the small module computes with its attributes as they were.
        removed: the indices that left the module's tensors.
    """
    if small.raised:
        return small.raised
    if as_cut is not None and (small.before is None or not torch.equal(small.before, as_cut)):
        return "changes the forward"
    if dense.change <= _PRESERVES and not small.change <= max(TOLERANCE, 10 * dense.change):
        if small.after is None:
            return "leaves a module that does not run"
        return f"changes what the module computes by {small.change:.1e} of its largest value"
    if small.inconsistent and not dense.inconsistent:
        return small.inconsistent
    for before, after in zip(dense.returned, small.returned, strict=False):
        if not _is_slice(before, after, removed):
            return f"returns a tensor of {list(after.shape)} that is no slice of the dense module's of {list(before.shape)}"
    return ""


def _is_slice(dense: Tensor, small: Tensor, removed: Sequence[tuple[int, ...]]) -> bool:
    """Whether what left the parameters, taken from the dense result, leaves the small one."""
    if dense.dim() != small.dim():
        return False
    ways: list[list[tuple[int, ...]]] = []
    for before, after in zip(dense.shape, small.shape, strict=True):
        fitting = [left for left in dict.fromkeys(removed) if len(left) == before - after and max(left) < before]
        ways.append(fitting if before != after else [()])
    for leaving in islice(product(*ways), _SLICES):
        sliced = dense
        for dimension, indices in enumerate(leaving):
            kept = np.delete(np.arange(sliced.shape[dimension]), list(indices))
            sliced = sliced.index_select(dimension, torch.from_numpy(kept).to(sliced.device))
        if torch.allclose(sliced.double(), small.double(), rtol=1e-4, atol=1e-6):
            return True
    return False


def _inconsistent(module: nn.Module) -> str:
    for path, layer in module.named_modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            said: tuple[int, ...] = (layer.out_channels, layer.in_channels // layer.groups)
        elif isinstance(layer, nn.Linear):
            said = (layer.out_features, layer.in_features)
        else:
            continue
        weight = list(layer.weight.shape[:2])
        if list(said) != weight:
            return f"leaves {path or 'a layer'} said to be {said[0]} x {said[1]} with a weight of {weight[0]} x {weight[1]}"
    return ""
