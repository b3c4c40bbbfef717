"""Linear over-parameterization: a layer as three, which are one again when training is over."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements.hooks import objection_to_hooks
from flowprune.methods.replacements.layer_contraction import contract
from flowprune.methods.replacements.registry import REGISTRY

Start = Literal["semi_orthogonal", "random"]
KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ExpandedLayer(nn.Module):
    """``last(core(first(x)))``: three layers without anything between them, so all together linear in x.

    ``first`` and ``last`` are 1x1 (or linear), and the core has the kernel, the stride, the dilation and the padding. The first
    two have no bias: behind one, zero padding would not be what it was.
    """

    def __init__(self, first: nn.Module, core: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first: Any = first
        self.core: Any = core
        self.last: Any = last
        self._positions: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """What the layer in whose place this stands would give for its contracted weight."""
        result: Tensor = self.last(self.core(self.first(x)))
        dimensions = self.last.weight.dim() - 2
        self._positions = math.prod(result.shape[-dimensions:] if dimensions else result.shape[1:-1])
        return result

    def contracted(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the one layer that this is, on the device of the three; gradients flow through."""
        layers = [(layer.weight, layer.bias) for layer in (self.first, self.core, self.last)]
        return contract(layers, groups=getattr(self.core, "groups", 1))

    def effective_macs(self) -> int:
        """Multiply-accumulates per image of the layer it contracts to, on inputs like those of the last call.

        Raises:
            FlowpruneError: it was not called yet.
        """
        if self._positions is None:
            raise FlowpruneError(
                "an expanded layer knows its MACs after it has run once; call the model on an input first"
            )
        first, core, last = self.first.weight, self.core.weight, self.last.weight
        return int(self._positions * last.shape[0] * first.shape[1] * math.prod(core.shape[2:]))


@REGISTRY.register("linear_expansion")
class LinearExpansion:
    """A convolution or linear layer as three linear layers with the same function, to be trained and made one again.

    Boosting Pruned Networks with Linear Over-parameterization, arXiv 2204.11444 (from the published abstract: there is no
    code), and Guo, Alvarez & Salzmann, ExpandNets, arXiv 1811.10495 (contraction compared with the authors' code)::

        W = P3 core P1,   core = pinv(P3) W pinv(P1),   P1 [r C, C] and P3 [F, r F] 1x1, core [r F, r C, K, K]

    Semi-orthogonal: ``P1^T P1 = 1`` and ``P3 P3^T = 1``, so the pseudo-inverses are the transposes. With groups each has
    its own three factors; a depthwise layer is C groups of one channel. Works for ``nn.Linear``, ``nn.Conv1d``, ``Conv2d`` and
    ``Conv3d`` with every kernel, stride, dilation, groups, padding and padding mode; subclasses, layers with hooks or
    parametrizations and half-precision weights are refused in one line.

    Example:
        >>> expansion = LinearExpansion()
        >>> wide = expansion.replace(nn.Conv2d(16, 32, 3, padding=1), expansion=4)
        >>> # train it, then:
        >>> plain = expansion.restore(wide)
    """

    def matches(self, module: nn.Module) -> bool:
        """Whether ``replace`` takes this module."""
        return _objection(module) is None

    def replace(
        self, module: nn.Module, *, expansion: float = 4.0, start: Start = "semi_orthogonal", seed: int = 0
    ) -> ExpandedLayer:
        """An expanded layer with the function of ``module``, on its device, in its mode, and frozen where it is.

        Args:
            module: left as it is.
            expansion: r, at least 1: inner channels for every outer one, rounded up in each group.
            start: the first and last factor: with orthonormal columns and rows, or normal random numbers of variance
                1 / inputs.
            seed: of the random numbers.

        Raises:
            ModelError: the module is none of those, or holds NaN or infinite weights.
            FlowpruneError: ``expansion`` is below 1, or ``start`` is neither.
        """
        objection = _objection(module)
        if objection is not None:
            raise ModelError(objection)
        if not expansion >= 1 or math.isinf(expansion):
            raise FlowpruneError(f"expansion={expansion}: a layer can be expanded by 1 or more, not narrowed")
        if start not in ("semi_orthogonal", "random"):
            raise FlowpruneError(f"start={start!r}: begin with 'semi_orthogonal' or 'random' factors")
        weight = module.weight
        assert isinstance(weight, Tensor)
        groups = getattr(module, "groups", 1)
        outputs, inputs = weight.shape[0] // groups, weight.shape[1]
        before, behind = math.ceil(expansion * inputs), math.ceil(expansion * outputs)
        random = torch.Generator().manual_seed(seed)
        first, first_inverse = _factor(groups, before, inputs, start, random)
        last, last_inverse = (factor.mT for factor in _factor(groups, behind, outputs, start, random))
        dense = weight.detach().double().cpu().reshape(groups, outputs, inputs, -1)
        core = torch.einsum("gno,goik,gim->gnmk", last_inverse, dense, first_inverse)
        expanded = _layers(module, groups * before, groups * behind)
        with torch.no_grad():
            layers = (expanded.first, expanded.core, expanded.last)
            for layer, factor in zip(layers, (first, core, last), strict=True):
                layer.weight.copy_(factor.reshape(layer.weight.shape))
                layer.weight.requires_grad_(weight.requires_grad)
            if isinstance(module.bias, Tensor):
                expanded.last.bias.copy_(module.bias)
                expanded.last.bias.requires_grad_(module.bias.requires_grad)
        return expanded.train(module.training)

    def restore(self, module: nn.Module) -> nn.Module | None:
        """The plain layer that an expanded one is now; None for any other module.

        Weights are multiplied in float64 and rounded once.
        """
        if not isinstance(module, ExpandedLayer):
            return None
        with torch.no_grad():
            weight, bias = module.contracted()
            plain = _built(module.core, module.first, module.last)
            plain.weight.copy_(weight)
            plain.weight.requires_grad_(module.core.weight.requires_grad)
            if bias is not None:
                plain.bias.copy_(bias)
                plain.bias.requires_grad_(module.last.bias.requires_grad)
        restored: nn.Module = plain.train(module.training)
        return restored


def _objection(module: nn.Module) -> str | None:
    """Why a module cannot be expanded."""
    kind = type(module).__name__
    if type(module) not in KINDS:
        return f"a {kind} cannot be expanded; only Linear, Conv1d, Conv2d and Conv3d themselves can"
    hooked = objection_to_hooks(module)
    if hooked is not None:
        return hooked
    weight = module.weight
    if not isinstance(weight, nn.Parameter) or weight.dtype not in (torch.float32, torch.float64):
        return f"a {kind} whose weight is no parameter in float32 or float64 cannot be expanded; convert it first"
    if not bool(torch.isfinite(weight).all()):
        return f"a {kind} with NaN or infinite weights cannot be expanded"
    return None


def _factor(groups: int, tall: int, wide: int, start: Start, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A factor ``[groups, tall, wide]`` of full rank, tall >= wide, and its pseudo-inverse, in float64."""
    drawn = torch.randn(groups, tall, wide, dtype=torch.float64, generator=random)
    if start == "random":
        factor = drawn / math.sqrt(wide)
        return factor, torch.linalg.pinv(factor)
    orthonormal = torch.linalg.qr(drawn).Q
    return orthonormal, orthonormal.mT


def _layers(module: nn.Module, before: int, behind: int) -> ExpandedLayer:
    """Three layers of the right shapes, nothing in them yet; no random number of anyone's is drawn."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    has_bias = module.bias is not None
    empty: Any = nn.utils.skip_init
    kind = type(module)
    if isinstance(module, nn.Linear):
        first = empty(kind, module.in_features, before, bias=False, **place)
        core = empty(kind, before, behind, bias=False, **place)
        return ExpandedLayer(first, core, empty(kind, behind, module.out_features, bias=has_bias, **place))
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    groups = module.groups
    first = empty(kind, module.in_channels, before, 1, groups=groups, bias=False, **place)
    core = empty(kind, before, behind, bias=False, **_geometry(module), **place)
    return ExpandedLayer(
        first, core, empty(kind, behind, module.out_channels, 1, groups=groups, bias=has_bias, **place)
    )


def _built(core: Any, first: Any, last: Any) -> Any:
    """A plain layer of the shape the three contract to, nothing in it yet."""
    place = {"device": core.weight.device, "dtype": core.weight.dtype, "bias": last.bias is not None}
    if isinstance(core, nn.Linear):
        return nn.utils.skip_init(nn.Linear, first.in_features, last.out_features, **place)
    return nn.utils.skip_init(type(core), first.in_channels, last.out_channels, **_geometry(core), **place)


def _geometry(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(convolution, name) for name in names}
