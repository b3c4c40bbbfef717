"""Save a model: its weights, and how to rebuild what they belong to, in one file without pickle."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from flowprune import __version__
from flowprune.artifacts.atomic_write import replacing
from flowprune.artifacts.carried_steps import check_rebuildable
from flowprune.artifacts.header import Header
from flowprune.engine.steps.lineage import lineage_of
from flowprune.engine.tracing import model_of
from flowprune.engine.tracing.shadow import check_sizes_known
from flowprune.errors import FlowpruneWarning, counted
from flowprune.methods.codecs.stored_model import stored_model


def save(model: nn.Module, path: str | Path, *, notes: Mapping[str, Any] | None = None) -> None:
    """Write ``model`` to one file: safetensors weights, and a JSON header that says how to rebuild the architecture.

    A file that is there is replaced, as by ``torch.save``; the old one stays whole until the new one is. What the header
    records is the builder's name and options where ``flowprune.models.create`` made the model, and every step that changed it
    since. Of the tensors, those of ``state_dict`` are written, each shared one once, in their own types. Hooks, the
    training mode and ``requires_grad`` are not part of an artifact. Weights that ``quantize`` left few values are written as codes
    and tables by its codec, and come back bit for bit.

    Args:
        model: any module, pruned or not; it is not touched.
        path: of the file, usually ending in ``.fp``.
        notes: JSON-able additions for whoever reads the header (``read_header(path).notes``).

    Warns:
        FlowpruneWarning: masked weights are not zero any more; they are saved as they are, without their mask.

    Raises:
        ArtifactError: the model's state holds something else than dense tensors with data, a replacement is not registered, or
            the notes are no JSON.
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
    check_rebuildable(lineage.steps)
    stored = stored_model(model)
    lost = sorted(set(lineage.masks) - set(stored.masks))
    if lost:
        warnings.warn(
            f"saved no more: {counted(len(lost), 'mask')}; {lost[0]} has weights where it was masked; fp.hold keeps zeros in a "
            "training",
            FlowpruneWarning,
            stacklevel=2,
        )
    header = Header(
        architecture=type(model).__name__,
        builder=lineage.builder,
        options=dict(lineage.options),
        steps=lineage.steps,
        shared=stored.shared,
        coded=stored.coded,
        masks=stored.masks,
        notes=dict(notes or {}),
        versions={"flowprune": __version__, "torch": torch.__version__},
    )
    metadata = header.as_metadata(stored.tensors)
    with replacing(path) as temporary:
        save_file(stored.tensors, temporary, metadata=metadata)
