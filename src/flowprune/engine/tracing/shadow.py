"""Shadows: structural copies of a model that can be traced, hooked and switched without touching the model itself.

A shadow has module objects of its own; its parameters and buffers are the model's own tensors, or stand-ins without memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten

from flowprune.engine.tracing.scripted import hide_scripted_parts
from flowprune.engine.tracing.structural_copy import UnknownSizesError, structural_copy
from flowprune.errors import ModelError, TraceError


def model_of(model: nn.Module) -> nn.Module:
    """``model`` itself, unless it is a wrapper or holds one: then raise, and say how to unwrap it.

    Raises:
        ModelError: for a compiled model, and for DataParallel, DistributedDataParallel or FSDP anywhere in it.
    """
    if type(model).__name__ == "OptimizedModule":
        raise ModelError("the model is a torch.compile wrapper; pass model._orig_mod and compile the result again")
    for path, module in model.named_modules():
        kind, what, inner = type(module).__name__, path or "the model", f"{path or 'model'}.module"
        if kind in ("DistributedDataParallel", "DataParallel"):
            how = f"put {inner} in its place" if path else f"pass {inner}"
            raise ModelError(f"{what} is wrapped in {kind}; {how} and wrap the result again")
        if "FullyShardedDataParallel" in kind or kind.startswith("FSDP"):
            raise ModelError(f"{what} is sharded by FSDP; prune the unsharded model, then shard the result")
    return model


def check_sizes_known(model: nn.Module) -> None:
    """Raise a ``ModelError`` naming the first lazy module that has not seen an input yet."""
    _check_tensors(model, meta_allowed=True)


def check_weights_there(model: nn.Module) -> None:
    """As ``check_sizes_known``; and for the first parameter or buffer that is on the meta device, where nothing has values."""
    _check_tensors(model, meta_allowed=False)


def _check_tensors(model: nn.Module, meta_allowed: bool) -> None:
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and is_lazy(tensor):
                raise ModelError(
                    f"{path or 'the model'} is a {type(module).__name__} whose sizes are not known before its first input; run the "
                    "model on one (model(inputs)), then pass it again"
                )
            if tensor is not None and tensor.is_meta and not meta_allowed:
                raise ModelError(
                    f"{f'{path}.{name}' if path else name} is on the meta device and holds no numbers; put the model on a real one "
                    "(model.to_empty(device=...)) and load its weights"
                )


def shadow(
    model: nn.Module,
    stand_in: Callable[[torch.Tensor], torch.Tensor],
    originals: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> nn.Module:
    """A structural copy of ``model``, to be run under dispatch modes, in which every tensor it holds is ``stand_in(tensor)``.

    Shared tensors stay shared. Tensors that are plain attributes of a module (caches) are replaced too. Scripted parts are hidden
    behind modules that look the same from outside (``tracing.scripted``). ``originals`` takes up what each stand-in stands for, by
    its id.

    Raises:
        ModelError: if the model cannot be copied, or a lazy module has not run yet.
    """
    copied = copy_with(model, stand_in, originals)
    if any(isinstance(module, torch.jit.ScriptModule) for module in copied.modules()):
        hide_scripted_parts(copied)
    return copied


def copy_with(
    model: nn.Module,
    stand_in: Callable[[torch.Tensor], torch.Tensor],
    originals: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> nn.Module:
    """The same with its scripted parts as they are, copied whole with their own tensors: a model to be handed on.

    Raises:
        ModelError: as ``shadow``.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"the model is scripted or traced as a whole ({type(model).__name__} of torch.jit), so its code cannot be followed; "
            "pass the eager model it was made from, and script or trace the result again"
        )
    try:
        return structural_copy(model, stand_in, originals)
    except Exception as error:
        if isinstance(error, UnknownSizesError):
            check_sizes_known(model)  # says which
        raise ModelError(f"the model {type(model).__name__} cannot be copied (copy.deepcopy says: {error})") from error


def meta_shadow(model: nn.Module) -> nn.Module:
    """A shadow on meta tensors: shapes and types only, no memory for weights."""
    return shadow(model, to_meta)


def to_meta(tensor: torch.Tensor) -> torch.Tensor:
    """The stand-in of ``tensor`` that has its shape, strides and type, and no data."""
    if type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided:
        on_meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    else:
        on_meta = tensor.detach().to("meta")
    return nn.Parameter(on_meta, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else on_meta


def own_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A stand-in with the same numbers in memory of its own."""
    held = tensor.detach().clone()
    return nn.Parameter(held, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else held


def own_buffer(tensor: torch.Tensor) -> torch.Tensor:
    """The same for buffers and inputs, which a forward may write to; a parameter is only read, and stands for itself."""
    return tensor if isinstance(tensor, nn.Parameter) else own_tensor(tensor)


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call ``model`` on example inputs: a dictionary by keyword, a tuple or list by position, anything else as the one argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def first_tensor(inputs: Any) -> torch.Tensor:
    """The first tensor among example inputs.

    Raises:
        TraceError: if there is none.
    """
    for leaf in tree_flatten(inputs)[0]:
        if isinstance(leaf, torch.Tensor):
            return leaf
    raise TraceError(
        "the example inputs hold no tensor; pass what the model's forward takes, for example torch.zeros(1, 3, 32, 32)"
    )


def batch_size(inputs: Any) -> int:
    """How many images example inputs hold: the first size of the first tensor, or the length of a list of images.

    Raises:
        TraceError: if there is no tensor.
    """
    first = first_tensor(inputs)
    arguments = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if isinstance(arguments, (tuple, list)) and arguments and isinstance(arguments[0], (tuple, list)):
        return len(arguments[0])
    return int(first.shape[0]) if first.dim() else 1


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, detached, by every dotted name it goes by (a shared one appears under each)."""
    named: dict[str, torch.Tensor] = dict(model.named_buffers(remove_duplicate=False))
    named.update(model.named_parameters(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in named.items()}
