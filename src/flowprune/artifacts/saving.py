"""Save a model: its weights, and how to rebuild what they belong to, in one file without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flowprune import __version__
from flowprune.artifacts.atomic_write import replacing
from flowprune.artifacts.header import Header
from flowprune.engine.steps.lineage import lineage_of
from flowprune.engine.tracing import model_of
from flowprune.engine.tracing.shadow import check_sizes_known
from flowprune.errors import ArtifactError


def save(model: nn.Module, path: str | Path, *, notes: Mapping[str, Any] | None = None) -> None:
    """Write ``model`` to one file: safetensors weights, and a JSON header that says how to rebuild the architecture.

    A file that is there is replaced, as by ``torch.save``; the old one stays whole until the new one is. What the header
    records is the builder's name and options where ``flowprune.models.create`` made the model, and every plan that cut it
    since. Of the tensors, those of ``state_dict`` are written, each shared one once, in their own types. Hooks, the
    training mode and ``requires_grad`` are not part of an artifact.

    Args:
        model: any module, pruned or not; it is not touched.
        path: of the file, usually ending in ``.fp``.
        notes: JSON-able additions for whoever reads the header (``read_header(path).notes``).

    Raises:
        ArtifactError: the model's state holds something else than dense tensors with data, or the notes are no JSON.
        ModelError: the model is a wrapper (compiled, DistributedDataParallel, ...), or a lazy module of it has not run yet.
        OutputError: the file cannot be written.

    Example:
        >>> import torch, flowprune as fp
        >>> model = fp.models.create("resnet8", width=4)
        >>> small = fp.prune(model, torch.zeros(1, 3, 32, 32), importance=fp.importance.L2(), macs=0.5)
        >>> fp.save(small, "small.fp", notes={"top1": 91.5})
    """
    lineage = lineage_of(model_of(model))
    check_sizes_known(model)
    tensors, shared = stored_tensors(model)
    header = Header(
        architecture=type(model).__name__,
        builder=lineage.builder,
        options=dict(lineage.options),
        plans=tuple(dict(plan) for plan in lineage.plans),
        shared=shared,
        notes=dict(notes or {}),
        versions={"flowprune": __version__, "torch": torch.__version__},
    )
    metadata = header.as_metadata(tensors)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def stored_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the model's state, each shared one once, and name -> first name for the others that share it."""
    first_name: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ArtifactError(
                f"cannot save {type(model).__name__}: {name} of its state is a {type(tensor).__name__}, not a tensor; "
                "keep such state out of state_dict"
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            raise ArtifactError(f"cannot save {type(model).__name__}: {name} is no dense tensor with data")
        same_memory = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
        if tensor.numel() and same_memory in first_name:
            shared[name] = first_name[same_memory]
            continue
        first_name[same_memory] = name
        # A copy of its own: safetensors refuses tensors that are views into one another's memory.
        tensors[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return tensors, shared
