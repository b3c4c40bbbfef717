"""Run a changed model once, so that what cannot run is said at once and not in somebody's training loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.tracing import call_model
from flowprune.errors import ModelError, one_line


def check_runs(model: nn.Module, inputs: Any) -> None:
    """Call ``model`` on example inputs, in evaluation mode and on its own device; its modes and the random state stay.

    Raises:
        ModelError: its forward raises on them.
    """
    device = model_device(model)
    random_state = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    try:
        with evaluating(model), torch.no_grad(), random_state:
            call_model(model, tree_map_only(Tensor, lambda tensor: tensor.detach().to(device), inputs))
    except Exception as error:  # the user's forward
        raise ModelError(
            f"{type(model).__name__} does not run on the example inputs: {one_line(error, 200)}"
        ) from error
