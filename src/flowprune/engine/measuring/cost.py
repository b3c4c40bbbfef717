"""What a model costs: multiply-accumulates and parameters, in all and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from flowprune.engine.signatures import Inputs
from flowprune.engine.tracing import batch_size, call_model, meta_shadow, model_of, shadow
from flowprune.errors import FlowpruneError, ModelError
from flowprune.old_paths import formerly


@dataclass(frozen=True)
class LayerMeasurement:
    """One module that owns parameters or computes products itself (what its submodules do is in their rows).

    Attributes:
        layer: its dotted path; "" for the model itself.
        kind: its class ("Conv2d").
        macs: multiply-accumulates per image.
        params: parameters of its own; one shared between modules counts where it appears first.
        output: shape of its (first) output in its last call, without the batch; None if it never ran.
    """

    layer: str
    kind: str
    macs: int
    params: int
    output: tuple[int, ...] | None


@dataclass(frozen=True)
class Measurement:
    """The cost of a model.

    Attributes:
        macs: multiply-accumulates per image in evaluation mode, of convolutions, linear layers and matrix products.
        params: number of parameters, shared ones once.
        layers: one row per module, in the order of ``named_modules``.
    """

    macs: int
    params: int
    layers: tuple[LayerMeasurement, ...]


@dataclass
class _Row:
    flops: int = 0
    output: tuple[int, ...] | None = None


@formerly("x", "inputs")
def measure(model: nn.Module, inputs: Inputs) -> Measurement:
    """Count multiply-accumulates (MACs) and parameters.

    MACs are half of what ``torch.utils.flop_counter.FlopCounterMode`` counts: convolutions, linear layers and matrix
    products; batch norm, activations and additions are not counted, as in this field's tables (whose "FLOPs" are MACs).

    Args:
        model: any eager model. A shadow of it on meta tensors runs, so that neither memory nor time is spent; where the
            forward needs real numbers, a shadow on the model's own tensors does. The model's mode, hooks, buffers and
            the random state stay.
        inputs: what the forward takes: a tensor, a tuple or list of positional arguments, or a dictionary of keyword
            arguments. The first dimension of the first tensor is the batch (or the length of the list, where
            images come in a list), which is divided out.

    Raises:
        ModelError: the forward raises on ``inputs``, or the model is a wrapper or cannot be copied.

    Example:
        >>> import torch, flowprune as fp
        >>> found = fp.measure(torch.nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 32, 32))
        >>> found.macs, found.params
        (221184, 224)
    """
    model = model_of(model)
    batch = max(1, batch_size(inputs))
    counted = _on_meta(model, inputs)
    if counted is None:
        counted = _on_real(model, inputs)
    total, rows = counted
    seen: set[int] = set()
    layers = []
    for path, module in model.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in seen]
        seen.update(id(parameter) for parameter in own)
        row = rows.get(path, _Row())
        params = sum(parameter.numel() for parameter in own)
        if params or row.flops:
            macs = round(row.flops / 2 / batch)
            layers.append(LayerMeasurement(path, type(module).__name__, macs, params, row.output))
    params = sum(parameter.numel() for parameter in model.parameters())
    return Measurement(round(total / 2 / batch), params, tuple(layers))


def _on_meta(model: nn.Module, inputs: Inputs) -> tuple[int, dict[str, _Row]] | None:
    try:
        without_data = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().to("meta"), inputs)
        return _count(meta_shadow(model), without_data)
    except ModelError:
        raise
    except Exception:  # whatever a forward may raise when it meets tensors without data
        return None


def _on_real(model: nn.Module, inputs: Inputs) -> tuple[int, dict[str, _Row]]:
    def own(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()

    try:
        return _count(shadow(model, own), tree_map_only(torch.Tensor, own, inputs))
    except FlowpruneError:
        raise
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ModelError(
            f"the forward of {type(model).__name__} raised {type(error).__name__} on the example input: {line}; "
            "pass what the forward takes, on the model's device"
        ) from error


def _count(twin: nn.Module, inputs: Any) -> tuple[int, dict[str, _Row]]:
    """Total FLOPs of one forward of a shadow, and what each module adds beyond its submodules."""
    twin.eval()
    counter = FlopCounterMode(display=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused attention kernel has no FLOP formula
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _rows(twin, counter.get_total_flops) as rows, counter:
            call_model(twin, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops(), rows


@contextmanager
def _rows(twin: nn.Module, flops_so_far: Callable[[], int]) -> Iterator[dict[str, _Row]]:
    """Note every module's own FLOPs and output shape while the shadow runs (its hooks go with it)."""
    rows: dict[str, _Row] = {}
    open_calls: list[list[int]] = []  # [flops at entry, flops of submodules]

    def enter(module: nn.Module, arguments: Any) -> None:
        open_calls.append([flops_so_far(), 0])

    def leave(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            started, inside = open_calls.pop()
            spent = flops_so_far() - started
            if open_calls:
                open_calls[-1][1] += spent
            row = rows.setdefault(path, _Row())
            row.flops += spent - inside
            row.output = next((tuple(t.shape[1:]) for t in tree_leaves(output) if isinstance(t, torch.Tensor)), None)

        return hook

    for path, module in twin.named_modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave(path))
    yield rows
