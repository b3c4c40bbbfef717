"""Scripted and traced parts (torch.jit) of a model: what is inside cannot be looked into, sliced, or hooked.

In a shadow such a part is replaced by a stand-in that runs it out of sight and then tells every dispatch mode, by one operator that
returns the result, what went in. The operator has no coupling: all it reads stays. Only the part itself knows what it returns for
which sizes, so the stand-in refuses tensors without data, and the trace goes on to real ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula


@torch.library.custom_op("flowprune::scripted", mutates_args=())
def scripted(result: torch.Tensor, read: list[torch.Tensor], part: str, flops: int) -> torch.Tensor:
    """A copy of ``result``, which a scripted part has made of ``read``."""
    return result.clone()


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, list[None], None, None]:
    return gradient, [None] * ctx.read, None, None


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.read = len(inputs[1])


scripted.register_autograd(_backward, setup_context=_remember)


@register_flop_formula(torch.ops.flowprune.scripted)
def _flops(result: Any, read: Any, part: str, flops: int, *, out_shape: Any = None) -> int:
    return flops


class ScriptedPart(nn.Module):
    """The stand-in of a scripted module, under its names; those of the modules in it are in it, should the model call them."""

    def __init__(self, part: torch.jit.ScriptModule, path: str) -> None:
        super().__init__()
        self.__dict__["_part"], self.__dict__["_path"] = part, path
        self.training = getattr(part, "training", False)  # a frozen part has forgotten
        for name, child in part.named_children():
            assert isinstance(child, torch.jit.ScriptModule)
            self._modules[name] = ScriptedPart(child, f"{path}.{name}")
        self._hold_tensors()

    def _hold_tensors(self) -> None:
        self._parameters.update(self._part.named_parameters(recurse=False))
        self._buffers.update(self._part.named_buffers(recurse=False))

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """What the part returns."""
        return self._run(self._part, *arguments, **keywords)

    def train(self, mode: bool = True) -> ScriptedPart:
        """Put the part into the mode, too."""
        self._part.train(mode)
        super().train(mode)
        return self

    def _apply(self, function: Any, recurse: bool = True) -> ScriptedPart:
        """Convert the part itself; its tensors may be others then."""
        self._part._apply(function, recurse)
        for module in self.modules():
            assert isinstance(module, ScriptedPart)
            module._hold_tensors()
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "_part":  # while it is being copied
                raise
            found = getattr(self._part, name)
        return partial(self._run, found) if isinstance(found, torch.ScriptMethod) else found

    def _run(self, function: Any, *arguments: Any, **keywords: Any) -> Any:
        read = [leaf for leaf in tree_leaves([arguments, keywords]) if isinstance(leaf, torch.Tensor)]
        if any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in read):
            raise RuntimeError(f"{self._path} is scripted or traced (torch.jit) and runs on tensors with data only")
        with _disable_current_modes(), FlopCounterMode(display=False) as counter:
            result = function(*arguments, **keywords)
        read += [*self.parameters(), *self.buffers()]
        spent = iter([counter.get_total_flops()])

        def tell(tensor: torch.Tensor) -> torch.Tensor:
            told: torch.Tensor = scripted(tensor, read, self._path, next(spent, 0))
            return told

        return tree_map_only(torch.Tensor, tell, result)


def hide_scripted_parts(model: nn.Module) -> None:
    """Put stand-ins in the places of the scripted parts of a shadow."""
    stand_ins: dict[int, ScriptedPart] = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, child in module._modules.items():
            if isinstance(child, torch.jit.ScriptModule):
                place = f"{path}.{name}" if path else name
                module._modules[name] = stand_ins.setdefault(id(child), ScriptedPart(child, place))
