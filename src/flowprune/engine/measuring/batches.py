"""What a batch of a user's data loader means: the model's input, on the model's device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from flowprune.errors import DataError


def model_device(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def input_of(batch: Any, device: torch.device) -> Any:
    """The model's input in a batch, moved to ``device``.

    Args:
        batch: a tensor; a tuple or list whose first element is the input (what follows, targets, is ignored); or a
            dictionary of keyword inputs.
        device: where the model is.

    Raises:
        DataError: there is no tensor where the input should be.
    """
    found = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(found, torch.Tensor):
        return found.to(device)
    if isinstance(found, Mapping) and any(isinstance(part, torch.Tensor) for part in found.values()):
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), dict(found))
    raise DataError(
        f"a batch is a tensor, an (input, target) pair or a dictionary of tensors, not {type(batch).__name__}"
        + (f" of {type(found).__name__}" if found is not batch else "")
    )
