"""Mend the Python attributes that a forward reads: sizes a module keeps beside its tensors."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from flowprune.engine.allocation import Plan
from flowprune.engine.tracing.expressions import Attribute


def mend_attributes(small: nn.Module, dense: nn.Module, plan: Plan) -> None:
    """Set every size attribute of ``small`` (a sliced copy of ``dense``) to what its tensors now are.

    Modules of torch's own classes are known by their class; attributes of other modules are those that the plan lists, found by
    provenance while the dense model was traced.
    """
    known = dict(dense.named_modules(remove_duplicate=False))
    for path, module in small.named_modules():
        for kind, mend in _MENDERS:
            if isinstance(module, kind):
                mend(module, known[path])
    for change in plan.attributes:
        Attribute(change.module, change.name, change.position).put_into(small, change.after)


def _mend_convolution(small: nn.Module, dense: nn.Module) -> None:
    assert isinstance(small, _ConvNd) and isinstance(dense, _ConvNd)
    first, second = small.weight.shape[:2]
    if isinstance(small, _ConvTransposeNd):
        if dense.groups > 1 and dense.groups == dense.in_channels and dense.out_channels == dense.groups:
            small.groups = first
        small.in_channels, small.out_channels = first, second * small.groups
        return
    if dense.groups > 1 and dense.groups == dense.in_channels:
        small.groups = first // (dense.out_channels // dense.groups)
    small.in_channels, small.out_channels = second * small.groups, first


def _mend_linear(small: nn.Module, dense: nn.Module) -> None:
    assert isinstance(small, nn.Linear)
    small.out_features, small.in_features = small.weight.shape


def _mend_normalization(small: nn.Module, dense: nn.Module) -> None:
    assert isinstance(small, _NormBase)
    tensor = small.weight if small.weight is not None else small.running_mean
    if tensor is not None:
        small.num_features = tensor.shape[0]


def _mend_slopes(small: nn.Module, dense: nn.Module) -> None:
    assert isinstance(small, nn.PReLU)
    small.num_parameters = small.weight.numel()


def _mend_norm_of_width(small: nn.Module, dense: nn.Module) -> None:
    assert isinstance(small, (nn.LayerNorm, nn.RMSNorm))
    if small.weight is not None:
        small.normalized_shape = tuple(small.weight.shape)


def _mend_group_norm(small: nn.Module, dense: nn.Module) -> None:
    assert isinstance(small, nn.GroupNorm)
    if small.weight is not None:
        small.num_channels = small.weight.shape[0]


def _mend_embedding(small: nn.Module, dense: nn.Module) -> None:
    assert isinstance(small, nn.Embedding)
    small.num_embeddings, small.embedding_dim = small.weight.shape


def _mend_attention(small: nn.Module, dense: nn.Module) -> None:
    assert isinstance(small, nn.MultiheadAttention) and isinstance(dense, nn.MultiheadAttention)
    if small.in_proj_weight is None:
        small.kdim, small.vdim = small.k_proj_weight.shape[1], small.v_proj_weight.shape[1]
        width, small.embed_dim = small.q_proj_weight.shape
    else:
        width, small.embed_dim = small.in_proj_weight.shape[0] // 3, small.in_proj_weight.shape[1]
        small.kdim = small.vdim = small.embed_dim
    small.num_heads = width // dense.head_dim


_MENDERS: tuple[tuple[type[nn.Module], Callable[[nn.Module, nn.Module], None]], ...] = (
    (_ConvNd, _mend_convolution),
    (nn.Linear, _mend_linear),
    (_NormBase, _mend_normalization),
    (nn.PReLU, _mend_slopes),
    (nn.LayerNorm, _mend_norm_of_width),
    (nn.RMSNorm, _mend_norm_of_width),
    (nn.GroupNorm, _mend_group_norm),
    (nn.Embedding, _mend_embedding),
    (nn.MultiheadAttention, _mend_attention),
)
