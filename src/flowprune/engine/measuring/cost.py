"""What a model costs: multiply-accumulates, parameters and bytes, and what of them is zero; in all and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from flowprune.engine.measuring.zero_products import ZeroProducts
from flowprune.engine.signatures import Inputs
from flowprune.engine.tracing import batch_size, call_model, meta_shadow, model_of, shadow
from flowprune.engine.tracing.shadow import own_buffer
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
        effective_macs: as of ``Measurement``; of a replacement that says so itself, for all that is in it.
        nonzero: those of its parameters that are not zero.
    """

    layer: str
    kind: str
    macs: int
    params: int
    output: tuple[int, ...] | None
    effective_macs: int
    nonzero: int


@dataclass(frozen=True)
class Measurement:
    """The cost of a model.

    Attributes:
        macs: multiply-accumulates per image in evaluation mode, of convolutions, linear layers and matrix products.
        params: number of parameters, shared ones once.
        layers: one row per module, in the order of ``named_modules``.
        effective_macs: of the macs, those in which no weight that is zero takes part. Weights that the forward computes from others
            count as not zero; a replacement says itself what it comes to (``effective_macs()``).
        nonzero: how many parameters are not zero, shared ones once.
        bytes: what the parameters and buffers take as they are, shared ones once; buffers that are not saved do not count.
        stored_bytes: what ``fp.save`` stores of them, by the codec of those that are quantized; ``flowprune.measure`` says it.
    """

    macs: int
    params: int
    layers: tuple[LayerMeasurement, ...]
    effective_macs: int
    nonzero: int
    bytes: int
    stored_bytes: int | None = None


@dataclass
class _Row:
    flops: int = 0
    skipped: int = 0
    calls: int = 0
    output: tuple[int, ...] | None = None
    said: int | None = None
    """The effective MACs of an image, where the module says them itself."""


Counted = tuple[int, int, dict[str, _Row]]
"""The FLOPs of a forward, those with zeros among them, and what each module adds to both beyond its submodules."""


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
    flops, skipped, rows = counted
    seen: set[int] = set()
    layers = []
    for path, module in model.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in seen]
        seen.update(id(parameter) for parameter in own)
        row = rows.get(path, _Row())
        params = sum(parameter.numel() for parameter in own)
        if params or row.flops or row.said:
            macs = round(row.flops / 2 / batch)
            effective = row.said if row.said is not None else round((row.flops - row.skipped) / 2 / batch)
            nonzero = sum(_nonzero(parameter) for parameter in own)
            layers.append(LayerMeasurement(path, type(module).__name__, macs, params, row.output, effective, nonzero))
    effective_flops = flops - skipped
    for row in rows.values():
        if row.said is not None:
            effective_flops += 2 * batch * row.said - (row.flops - row.skipped)
    return Measurement(
        round(flops / 2 / batch),
        sum(parameter.numel() for parameter in model.parameters()),
        tuple(layers),
        round(effective_flops / 2 / batch),
        sum(_nonzero(parameter) for parameter in model.parameters()),
        sum(tensor.nbytes for tensor in _saved(model)),
    )


def _nonzero(tensor: torch.Tensor) -> int:
    """Of a tensor without data, all."""
    return tensor.numel() if tensor.is_meta else int(torch.count_nonzero(tensor.detach()))


def _saved(model: nn.Module) -> list[torch.Tensor]:
    """The parameters, and the buffers that a state dictionary holds; each once."""
    found: dict[int, torch.Tensor] = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[id(buffer)] = buffer
    return list(found.values())


def _on_meta(model: nn.Module, inputs: Inputs) -> Counted | None:
    try:
        without_data = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().to("meta"), inputs)
        return _count(model, meta_shadow(model), without_data)
    except ModelError:
        raise
    except Exception:  # whatever a forward may raise when it meets tensors without data
        return None


def _on_real(model: nn.Module, inputs: Inputs) -> Counted:
    try:
        return _count(model, shadow(model, own_buffer), tree_map_only(torch.Tensor, own_buffer, inputs))
    except FlowpruneError:
        raise
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ModelError(
            f"the forward of {type(model).__name__} raised {type(error).__name__} on the example input: {line}; "
            "pass what the forward takes, on the model's device"
        ) from error


def _count(model: nn.Module, twin: nn.Module, inputs: Any) -> Counted:
    """The FLOPs of one forward of a shadow."""
    twin.eval()
    counter, zeros = FlopCounterMode(display=False), ZeroProducts(model, twin)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused attention kernel has no FLOP formula

    def so_far() -> tuple[int, int]:
        return counter.get_total_flops(), zeros.flops

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _rows(twin, so_far) as rows, zeros, counter:
            call_model(twin, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    for path, module in twin.named_modules():
        says = getattr(module, "effective_macs", None)
        if callable(says) and path in rows:
            rows[path].said = says() * rows[path].calls
            for inner, row in rows.items():
                if inner.startswith(f"{path}.") or (not path and inner):
                    row.said = 0
    return (*so_far(), rows)


@contextmanager
def _rows(twin: nn.Module, so_far: Callable[[], tuple[int, int]]) -> Iterator[dict[str, _Row]]:
    """Note every module's own FLOPs, those with zeros among them, and its output's shape while the shadow runs (its hooks go with
    it)."""
    rows: dict[str, _Row] = {}
    open_calls: list[list[int]] = []  # [flops at entry, with zeros, flops of submodules, with zeros]

    def enter(module: nn.Module, arguments: Any) -> None:
        open_calls.append([*so_far(), 0, 0])

    def leave(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            started, started_zeros, inside, inside_zeros = open_calls.pop()
            flops, zeros = so_far()
            spent, skipped = flops - started, zeros - started_zeros
            if open_calls:
                open_calls[-1][2] += spent
                open_calls[-1][3] += skipped
            row = rows.setdefault(path, _Row())
            row.flops += spent - inside
            row.skipped += skipped - inside_zeros
            row.calls += 1
            row.output = next((tuple(t.shape[1:]) for t in tree_leaves(output) if isinstance(t, torch.Tensor)), None)

        return hook

    for path, module in twin.named_modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave(path))
    yield rows
