"""Whether pruning left the model it was given, and the process, as they were."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def unhandy(model: nn.Module) -> nn.Module:
    """``model`` with what must survive: a frozen parameter, a module in evaluation mode and a hook of its own."""
    next(model.parameters()).requires_grad_(False)
    leaf = next(module for module in model.modules() if not list(module.children()))
    leaf.eval()
    leaf.register_forward_hook(_look_on)
    return model


def _look_on(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook that changes nothing."""


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything about ``model`` and the random generators that pruning must not change; compare by ``==``."""
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    return {
        "tensors": {name: (id(tensor), tensor._version, _digest(tensor)) for name, tensor in tensors.items()},
        "state": {
            name: _digest(tensor) for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)
        },
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "gradients": {name: tensor.grad is None for name, tensor in tensors.items()},
        "training flags": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: [sorted(map(id, getattr(module, table, {}).values())) for table in _HOOKS]
            for name, module in model.named_modules()
        },
        "attributes": {name: _plain(module) for name, module in model.named_modules()},
        "random generators": (_digest(torch.get_rng_state()), random.getstate(), repr(np.random.get_state())),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What of two fingerprints differs, by its name."""
    return [what for what in before if before[what] != after[what]]


def _digest(tensor: torch.Tensor) -> str:
    content = tensor.detach().cpu().contiguous()
    return hashlib.sha256(content.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _plain(module: nn.Module) -> dict[str, str]:
    kinds = (bool, int, float, str, tuple, type(None))
    return {name: repr(value) for name, value in vars(module).items() if isinstance(value, kinds)}
