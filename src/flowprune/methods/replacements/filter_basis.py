"""Interspace pruning's filter bases: kernels as sums over a few shared kernels, whose coefficients are what a mask prunes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowprune.errors import FlowpruneError, ModelError, UnknownNameError

Shared = Literal["layer", "block", "network"]
KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FilterBasis(nn.Module):
    """The basis of some layers' kernels, as a parametrization of their weights; one module stands in all that share it.

    ``h[f, c] = sum_n lambda[f, c, n] g[n]``, the coefficients lambda in the shape of the weight.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        size = like[0, 0].numel()
        self.basis = nn.Parameter(torch.eye(size, dtype=like.dtype, device=like.device))

    def forward(self, coefficients: Tensor) -> Tensor:
        """``[F, C, *kernel]`` from coefficients of that shape: every kernel is a row of them times the basis."""
        return (coefficients.flatten(2) @ self.basis).view(coefficients.shape)


class BasisCounts(NamedTuple):
    """What is stored of a network with filter bases."""

    coefficients: int
    """Coefficients that are not zero."""
    bases: int
    """Numbers of the bases, each basis once."""
    plain: int
    """Weights of convolutions and linear layers without a basis that are not zero."""

    @property
    def kept(self) -> int:
        """All of them."""
        return sum(self)


def with_filter_bases(model: nn.Module, shared: Shared = "layer", names: Iterable[str] | None = None) -> nn.Module:
    """A copy of the model whose kernels are sums over bases, with the same function, bit for bit.

    Wimmer, Mehnert & Condurache, Interspace Pruning: Using Adaptive Filter Representations to Improve Training of Sparse CNNs, CVPR
    2022, arXiv 2203.07808; from the published abstract, as there is no code: kernels are linear combinations of an adaptive
    basis, the coefficients are pruned, and coefficients and bases are trained together. The basis begins as the standard one
    (taps), so that the coefficients are the weights, and every score of weights says what it did. A mask on the coefficients
    leaves dense kernels.

    Convolutions of any number of dimensions, grouped and depthwise ones, too, with kernels of more than one position; 1x1 and
    linear layers, and so transformers but for their patches, have nothing to make a basis of and stay plain.

    Args:
        model: left as it is.
        shared: who has a basis together, of those with kernels of one size: nobody ("layer"), the layers of one parent module
            ("block"), or all ("network").
        names: dotted paths of the convolutions; all of them if None.

    Raises:
        UnknownNameError: ``shared`` is none of these, or a name is of no module.
        ModelError: a convolution's weight is parametrized already, or there is no kernel to make a basis of.

    Example:
        >>> wide = with_filter_bases(nn.Sequential(nn.Conv2d(3, 8, 3)), shared="layer")
        >>> wide[0].parametrizations.weight.original.shape
        torch.Size([8, 3, 3, 3])
    """
    if shared not in ("layer", "block", "network"):
        raise UnknownNameError("way to share bases", str(shared), ("layer", "block", "network"))
    copied = copy.deepcopy(model)
    modules = dict(copied.named_modules())
    chosen = list(modules if names is None else names)
    for name in chosen:
        if name not in modules:
            raise UnknownNameError("module", name, modules)
    bases: dict[tuple[str, tuple[int, ...]], FilterBasis] = {}
    for name in chosen:
        module = modules[name]
        if not isinstance(module, KINDS) or all(size == 1 for size in module.kernel_size):
            if names is not None:
                raise ModelError(f"{name} has no kernel to make a basis of; name convolutions larger than 1x1")
            continue
        if parametrize.is_parametrized(module):
            raise ModelError(f"{name} is parametrized already; take that off first")
        owner = {"layer": name, "block": name.rpartition(".")[0], "network": ""}[shared]
        key = owner, tuple(module.kernel_size)
        bases.setdefault(key, FilterBasis(module.weight))
        parametrize.register_parametrization(module, "weight", bases[key])
    if not bases:
        raise ModelError(
            "no convolution of this model has a kernel larger than 1x1, so there is nothing to make a basis of"
        )
    return copied


def coefficients_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name of the coefficients -> the parameter, of every layer with a basis; a mask and a weight score work on these."""
    return {
        f"{path}.parametrizations.weight.original" if path else "parametrizations.weight.original": original
        for path, module in model.named_modules()
        if (original := _original(module)) is not None
    }


def coefficient_scores(model: nn.Module, score: Any, batches: Iterable[Any] | None = None) -> dict[str, Tensor]:
    """What each coefficient is worth, by any score of weights: of a copy whose weights are the coefficients.

    Right at the start, where both are one; later for scores of the numbers alone (magnitude, random). Plain layers are scored, too.

    Args:
        model: with filter bases.
        score: a ``WeightScore``.
        batches: for scores that look at data.

    Returns:
        Name of the coefficients, or of a plain layer's weight -> a tensor of its shape.
    """
    plain = copy.deepcopy(model)
    for _, module in list(plain.named_modules()):
        original = _original(module)
        if original is not None:
            _unwrap(module, original)
    found: dict[str, Tensor] = score(plain, batches)
    named = {name.replace("parametrizations.weight.original", "weight"): name for name in coefficients_of(model)}
    return {named.get(name, name): one for name, one in found.items()}


@torch.no_grad()
def mask_coefficients(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero the coefficients (or plain weights) that do not stay, in place.

    Raises:
        FlowpruneError: a mask is of no parameter of the model, or of another shape.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise FlowpruneError(f"{name} of shape {list(mask.shape)} is no parameter of this model")
        parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)


def count_kept(model: nn.Module) -> BasisCounts:
    """How many numbers are kept: coefficients and plain weights that are not zero, and the bases."""
    coefficients = sum(int(one.count_nonzero()) for one in coefficients_of(model).values())
    bases = {id(one): one.basis.numel() for one in model.modules() if isinstance(one, FilterBasis)}
    plain = sum(
        int(module.weight.count_nonzero())
        for module in model.modules()
        if isinstance(module, (*KINDS, nn.Linear)) and not parametrize.is_parametrized(module, "weight")
    )
    return BasisCounts(coefficients, sum(bases.values()), plain)


def restored(model: nn.Module) -> nn.Module:
    """A copy with plain weights, for export and for cuts: the function is the same, the zeros of the coefficients are gone."""
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        if _original(module) is not None:
            _unwrap(module, module.weight)  # type: ignore[arg-type]
    return copied


def _unwrap(module: nn.Module, values: Tensor) -> None:
    """Make a plain layer of one in a copy. Torch's own way takes the weight off the class, which the layer copied from shares."""
    weight = nn.Parameter(values.detach().clone())
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]
    module.register_parameter("weight", weight)


def _original(module: nn.Module) -> nn.Parameter | None:
    if not parametrize.is_parametrized(module, "weight"):
        return None
    chain: Any = module.parametrizations["weight"]  # type: ignore[index]
    return chain.original if len(chain) == 1 and isinstance(chain[0], FilterBasis) else None
