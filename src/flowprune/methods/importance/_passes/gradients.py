"""Gradients of the task loss, taken on a shadow: neither the model's ``.grad`` fields nor anything else of it is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from flowprune.engine.tracing import model_of
from flowprune.engine.tracing.recorder import spelled_out_attention
from flowprune.engine.tracing.shadow import call_model, shadow
from flowprune.errors import FlowpruneError, ModelError, one_line
from flowprune.methods.importance._passes.calibration_data import Loss
from flowprune.methods.importance._passes.full_precision import full_precision


def differentiable_shadow(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode whose parameters share the model's numbers but all take a gradient.

    Buffers are copies, so that a forward which writes to them writes to its own.
    """

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, nn.Parameter):
            takes_gradient = tensor.is_floating_point() or tensor.is_complex()
            return nn.Parameter(tensor.detach(), requires_grad=takes_gradient)
        return tensor.detach().clone()

    return shadow(model_of(model), stand_in).eval()


@contextmanager
def gradients_taken() -> Iterator[None]:
    """Gradients on whatever the caller's mode, attention spelled out, full precision, the random state put back."""
    with torch.random.fork_rng(devices=[]), spelled_out_attention(), full_precision(), torch.enable_grad():
        yield


def loss_of(twin: nn.Module, inputs: Any, targets: Any, loss: Loss) -> torch.Tensor:
    """The scalar loss of one batch, with its graph; see ``loss_value`` for what is raised."""
    return loss_value(call_model(twin, inputs), targets, loss)


def loss_value(output: Any, targets: Any, loss: Loss) -> torch.Tensor:
    """The scalar loss of a batch's output, with its graph.

    Raises:
        FlowpruneError: ``loss`` fails on the model's output or gives no scalar.
        ModelError: the loss is NaN or infinite.
    """
    try:
        value = loss(output, targets)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise FlowpruneError(
            f"the loss cannot be taken of the model's output and the targets ({one_line(error)}); check the labels, or say what "
            "the loss is with loss="
        ) from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise FlowpruneError("loss= must return one number, the mean over the images of the batch")
    if not bool(torch.isfinite(value)):
        raise ModelError("the loss is NaN or infinite on the calibration data; check the weights, inputs and labels")
    return value.reshape(())


def gradients_of(
    loss: torch.Tensor, tensors: dict[str, torch.Tensor], *, create_graph: bool = False
) -> dict[str, torch.Tensor]:
    """Gradient of ``loss`` with respect to each tensor, by name; those the loss does not depend on are left out."""
    if not loss.requires_grad:
        return {}
    found = torch.autograd.grad(loss, list(tensors.values()), create_graph=create_graph, allow_unused=True)
    return {name: gradient for name, gradient in zip(tensors, found, strict=True) if gradient is not None}


def leaves_named(twin: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Those of ``names`` that are parameters of the shadow and take a gradient."""
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    return {name: parameters[name] for name in dict.fromkeys(names) if parameters[name].requires_grad}
