"""Layers that read activations on a grid, up to a clip which is learned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.quantizers._channelwise.min_max import checked_bits
from flowprune.methods.quantizers._channelwise.pact import HALF, SMALLEST_CLIP, clipped, step_of
from flowprune.methods.quantizers._channelwise.read_tensors import read_tensors
from flowprune.methods.replacements.in_model import matching, replace_modules
from flowprune.methods.replacements.registry import REGISTRY

PUBLISHED_CLIP = 6.0


@dataclass(frozen=True)
class Grid:
    """Of activations: how many bits, and whether they may be negative."""

    bits: int
    signed: bool


class _Clipping(nn.Module):
    """What both kinds of layers have in common."""

    clip: nn.Parameter
    grid: Grid
    weight: Any

    def read(self, x: Tensor) -> Tensor:
        """The activations on their grid."""
        if torch.onnx.is_in_onnx_export():
            return _as_onnx(x, self.clip, self.grid)
        return clipped(x, self.clip, self.grid.bits, self.grid.signed)

    def weighed(self) -> Tensor:
        """The weight; in an export, of the whole numbers that ``levels`` holds, where it was given some."""
        levels = self._buffers.get("levels")
        if levels is None or not torch.onnx.is_in_onnx_export():
            return cast(Tensor, self.weight)
        weight: Tensor = self.weight
        found: Tensor = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (levels, cast(Tensor, self._buffers["level_scales"])),
            {"axis": 0},
            dtype=weight.dtype,
            shape=weight.shape,
        )
        return found


class PactConv2d(_Clipping, nn.Conv2d):
    """A convolution behind such a grid."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> what the convolution makes of it, clipped and on its grid."""
        found: Tensor = self._conv_forward(self.read(x), self.weighed(), self.bias)
        return found


class PactLinear(_Clipping, nn.Linear):
    """A linear layer behind such a grid."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> what the layer makes of it, clipped and on its grid."""
        return functional.linear(self.read(x), self.weighed(), self.bias)


_KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: PactConv2d, nn.Linear: PactLinear}


@REGISTRY.register("pact")
class Pact:
    """Convolutions and linear layers read activations on a grid up to a learned clip, one a tensor that layers read.

    Choi et al., PACT, arXiv 1805.06085: ``floor(S clamp(x, 0, c)) / S``, ``S = (2^p - 1) / (c + 0.001)``, as in the code of arXiv
    2407.01054 (fixtures). Where the trace says that a tensor may be negative (an image, a sum without an activation), levels lie on
    both sides of zero and are rounded. Layers that read one tensor share its clip, which is a parameter of the model and learned
    with it. Additions are made with numbers off the grid. An ONNX file has ``QuantizeLinear`` and ``DequantizeLinear`` there.

    Linear layers and convolutions in two dimensions, of any groups, are taken; those inside torch's own attention modules and
    subclasses are left alone.
    """

    def matches(self, module: nn.Module) -> bool:
        """Whether it is such a layer."""
        return type(module) in _KINDS

    def replace(
        self, module: nn.Module, *, bits: int = 8, signed: bool = False, clip: float = PUBLISHED_CLIP
    ) -> nn.Module:
        """The layer behind a grid.

        Args:
            module: a convolution or linear layer; it is left as it is.
            bits: of the activations, 2 to 8.
            signed: whether they may be negative.
            clip: c to begin with.

        Raises:
            ModelError: it is no such layer.
            FlowpruneError: the bits or the clip are none.
        """
        if not self.matches(module):
            raise ModelError(f"{type(module).__name__} is no plain Conv2d or Linear, which alone can be clipped")
        checked_bits(bits, "bits", 2)
        if isinstance(clip, bool) or not isinstance(clip, (int, float)) or not clip >= SMALLEST_CLIP:
            raise FlowpruneError(f"clip={clip!r} is none; give a number of at least {SMALLEST_CLIP}")
        new = copy.deepcopy(module)
        new.__class__ = _KINDS[type(module)]
        weight = cast(Tensor, new.weight)
        new.register_parameter("clip", nn.Parameter(weight.new_full((1,), float(clip))))
        cast(Any, new).grid = Grid(bits, bool(signed))
        return new

    def restore(self, module: nn.Module) -> nn.Module | None:
        """The plain layer with the weights it has now."""
        if not isinstance(module, _Clipping):
            return None
        plain: nn.Module = copy.deepcopy(module)
        del plain._parameters["clip"]
        vars(plain).pop("grid")
        cast(Any, plain).__class__ = next(one for one, kind in _KINDS.items() if kind is type(module))
        return plain

    def in_model(
        self,
        model: nn.Module,
        inputs: Any,
        names: Sequence[str] | None = None,
        *,
        bits: int = 8,
        clip: float = PUBLISHED_CLIP,
    ) -> tuple[nn.Module, list[tuple[list[str], dict[str, Any]]]]:
        """A copy of the model with such layers, one clip for all that read one tensor; and what was put where, with which options.

        Raises:
            FlowpruneError: no layer is left to replace, or as ``replace``.
        """
        chosen = set(matching(model, self, names))
        tensors = [
            (own, tensor.signed)
            for tensor in read_tensors(model, inputs)
            if (own := [name for name in tensor.layers if name in chosen])
        ]
        if not tensors:
            raise FlowpruneError("the example inputs reach no layer whose activations could be clipped")
        done: list[tuple[list[str], dict[str, Any]]] = []
        new = model
        for signed in (False, True):
            own = [name for layers, is_signed in tensors if is_signed == signed for name in layers]
            if own:
                options = {"bits": bits, "signed": signed, "clip": clip}
                new = replace_modules(new, self, own, **options)
                done.append((own, options))
        modules = dict(new.named_modules())
        for (first, *others), _ in tensors:
            for name in others:
                modules[name].register_parameter("clip", modules[first]._parameters["clip"])
        return new, done


def _as_onnx(x: Tensor, clip: Tensor, grid: Grid) -> Tensor:
    """The same as operators of ONNX: half a step less, where ``QuantizeLinear`` rounds and PACT floors."""
    bound, step = clip.clamp(min=SMALLEST_CLIP), step_of(clip, grid.bits, grid.signed)
    held = torch.minimum(torch.maximum(x, -bound if grid.signed else torch.zeros_like(bound)), bound)
    if not grid.signed:
        held = held - HALF * step
    kind = torch.int8 if grid.signed else torch.uint8
    scale, zero = step.reshape(()), torch.zeros((), dtype=kind)
    levels = torch.onnx.ops.symbolic("QuantizeLinear", (held, scale, zero), dtype=kind, shape=x.shape)
    found: Tensor = torch.onnx.ops.symbolic("DequantizeLinear", (levels, scale, zero), dtype=x.dtype, shape=x.shape)
    return found
