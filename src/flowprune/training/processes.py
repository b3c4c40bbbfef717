"""What the processes of one training must have in common."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn


def agree_on_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Every process takes the first one's running statistics, which are those that are saved."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
