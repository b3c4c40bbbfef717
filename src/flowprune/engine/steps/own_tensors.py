"""The tensors that a model's state holds, each of them once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowprune.errors import ArtifactError


def own_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the model's state, each shared one once, and name -> first name for the others that share it."""
    first_name: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ArtifactError(
                f"cannot save {type(model).__name__}: {name} of its state is a {type(tensor).__name__}, not a tensor; "
                "keep such state out of state_dict"
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            raise ArtifactError(f"cannot save {type(model).__name__}: {name} is no dense tensor with data")
        same_memory = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
        if tensor.numel() and same_memory in first_name:
            shared[name] = first_name[same_memory]
            continue
        first_name[same_memory] = name
        # A copy of its own: safetensors refuses tensors that are views into one another's memory.
        tensors[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return tensors, shared
