"""Run a changed model once, so that what cannot run is said at once and not in somebody's training loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from flowprune.engine.tracing import call_model
from flowprune.errors import ModelError, one_line


def check_runs(model: nn.Module, inputs: Any) -> None:
    """Call ``model`` on example inputs, in evaluation mode and on its own device; its modes and the random state stay.

    Raises:
        ModelError: its forward raises on them.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            call_model(model.eval(), tree_map_only(Tensor, lambda tensor: tensor.detach().to(device), inputs))
    except Exception as error:  # the user's forward
        raise ModelError(
            f"{type(model).__name__} does not run on the example inputs: {one_line(error, 200)}"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
