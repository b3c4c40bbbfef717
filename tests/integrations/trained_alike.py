"""How two trained models are compared, and what hooks are left on one."""

from __future__ import annotations

import torch
from torch import nn


def assert_equal_weights(one: nn.Module, other: nn.Module, tolerance: float) -> None:
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(
            mine, theirs, rtol=tolerance, atol=tolerance, msg=lambda text, at=name: f"{at}: {text}"
        )


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())
