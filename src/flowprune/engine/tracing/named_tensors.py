"""A model's tensors by the names that a pass knows them by."""

from __future__ import annotations

import torch
from torch import nn


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, detached, by every dotted name it goes by (a shared one appears under each)."""
    named: dict[str, torch.Tensor] = dict(model.named_buffers(remove_duplicate=False))
    named.update(model.named_parameters(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in named.items()}
