"""Export to ONNX, and prove in ONNX Runtime that the file computes what the model computes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from flowprune.artifacts.atomic_write import replacing
from flowprune.artifacts.integer_weights import reads_grids, with_integer_weights
from flowprune.artifacts.onnx_session import NOTES_KEY
from flowprune.engine.measuring.batches import model_device
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.measuring.onnx_program import OPSET, feed_of, onnx_program, quiet, session_of
from flowprune.engine.signatures import Inputs
from flowprune.engine.tracing import call_model, first_tensor, model_of
from flowprune.errors import ArtifactError, ModelError, counted, one_line
from flowprune.old_paths import formerly

TOLERANCE = 1e-4
TOLERANCE_ON_GRIDS = 0.05
"""Of models that read activations on grids: a number beside a step may fall on either side of it, and all behind it moves."""


@dataclass(frozen=True)
class OnnxExport:
    """What ``export`` wrote.

    Attributes:
        path: of the file.
        opset: version of the ONNX operators.
        dynamic_batch: whether any batch size runs.
        largest_difference: largest absolute difference between ONNX Runtime's and PyTorch's outputs.
    """

    path: Path
    opset: int
    dynamic_batch: bool
    largest_difference: float


@formerly("x", "inputs")
def export(
    model: nn.Module,
    inputs: Inputs,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    tolerance: float | None = None,
    notes: Mapping[str, Any] | None = None,
) -> OnnxExport:
    """Write ``model`` (in evaluation mode) as one ONNX file, after checking it in ONNX Runtime on the CPU.

    The check runs ``inputs`` and, with ``dynamic_batch``, ``inputs`` repeated to another batch size; each output must be
    within ``tolerance`` times the largest absolute value of PyTorch's (or within ``tolerance``, if that is below 1). A file that is
    at ``path`` stays if anything fails. Weights above 2 GB do not fit into one ONNX file.

    Where layers read activations on a grid (``replacement="pact"``) the file has ``QuantizeLinear`` and ``DequantizeLinear``, of 8
    bits in any case, and weights that ``quantizer="mixed_precision"`` put on grids are int8 with a scale a filter. PACT floors and
    ONNX rounds: 0.5 - 2^-16 steps are taken off before ``QuantizeLinear``, so that only numbers within 2^-16 steps below a level,
    and sums that two programs round otherwise, can come out one level apart.

    Args:
        model: any module; its mode is put back.
        inputs: example inputs: a tensor, a tuple of positional or a dictionary of keyword arguments; the first dimension of each
            tensor as large as that of the first is the batch.
        path: of the file.
        dynamic_batch: leave the batch size open; False fixes it to that of ``inputs``.
        tolerance: see above; if None 1e-4, and 0.05 for a model that reads activations on grids.
        notes: JSON-able additions for whoever reads the file, kept in its metadata under "flowprune".

    Raises:
        ArtifactError: the extra ``flowprune[onnx]`` is missing, the model cannot be exported, or ONNX Runtime disagrees.
        ModelError: the model is a wrapper, or does not run on ``inputs``.
        OutputError: the file cannot be written.

    Example:
        >>> import torch, flowprune as fp
        >>> done = fp.export(torch.nn.Linear(4, 2), torch.zeros(1, 4), "small.onnx")
        >>> done.dynamic_batch, done.largest_difference < 1e-5
        (True, True)
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ArtifactError(f"export needs {error.name}: pip install 'flowprune[onnx]'") from error
    model = model_of(model)
    if tolerance is None:
        tolerance = TOLERANCE_ON_GRIDS if reads_grids(model) else TOLERANCE
    device = model_device(model)
    with evaluating(model):
        inputs = tree_map_only(Tensor, lambda tensor: tensor.detach().to(device), inputs)
        if dynamic_batch and first_tensor(inputs).dim():
            # torch.export takes a dimension of size 1 for a constant.
            inputs = _with_batch(inputs, max(2, len(first_tensor(inputs))))
        _run(model, inputs)
        with replacing(path) as temporary:
            with quiet():
                _write(with_integer_weights(model), inputs, temporary, dynamic_batch, notes)
                session = session_of(temporary)
            worst = _difference(model, session, inputs, tolerance)
            if dynamic_batch and first_tensor(inputs).dim():
                other = _with_batch(inputs, 2 * len(first_tensor(inputs)) + 1)
                worst = max(worst, _difference(model, session, other, tolerance))
    return OnnxExport(Path(path), OPSET, dynamic_batch, worst)


def _write(model: nn.Module, inputs: Any, target: Path, dynamic_batch: bool, notes: Mapping[str, Any] | None) -> None:
    try:
        program = onnx_program(model, inputs, dynamic_batch)
        if notes:
            program.model.metadata_props[NOTES_KEY] = json.dumps(dict(notes))
        program.save(target)
    except Exception as error:  # the exporter raises whatever a model makes it stumble over
        raise ArtifactError(f"{type(model).__name__} cannot be exported to ONNX: {one_line(error, 300)}") from error


def _difference(model: nn.Module, session: Any, inputs: Any, tolerance: float) -> float:
    """Largest absolute difference over all outputs.

    Raises:
        ArtifactError: it is too large, or ONNX Runtime does not run.
    """
    expected = [leaf for leaf in tree_leaves(_run(model, inputs)) if isinstance(leaf, Tensor)]
    try:
        found = session.run(None, feed_of(session, inputs))
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise ArtifactError(
            f"the ONNX file does not run on a batch of {len(first_tensor(inputs))} ({one_line(error, 200)}); "
            "dynamic_batch=False fixes the batch size"
        ) from error
    if len(found) != len(expected):
        raise ArtifactError(
            f"the ONNX file has {counted(len(found), 'output')}, the model {len(expected)}; nothing was written"
        )
    worst = 0.0
    for theirs, ours in zip(found, expected, strict=True):
        reference = ours.detach().double().cpu().numpy()
        if theirs.shape != reference.shape:
            raise ArtifactError(
                f"the ONNX file gives an output of shape {theirs.shape} where the model gives {reference.shape}; "
                "dynamic_batch=False fixes the batch size"
            )
        if not reference.size:
            continue
        difference = float(np.abs(theirs.astype(np.float64) - reference).max())
        if not difference <= tolerance * max(1.0, float(np.abs(reference).max())):
            raise ArtifactError(f"ONNX Runtime differs from PyTorch by {difference:.3g}; nothing was written")
        worst = max(worst, difference)
    return worst


def _run(model: nn.Module, inputs: Any) -> Any:
    try:
        with torch.no_grad():
            return call_model(model, inputs)
    except Exception as error:  # the user's forward
        raise ModelError(
            f"{type(model).__name__} does not run on the example inputs: {one_line(error, 200)}"
        ) from error


def _with_batch(inputs: Any, size: int) -> Any:
    """The inputs repeated to ``size`` images."""
    before = len(first_tensor(inputs))

    def repeated(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != before:
            return tensor
        return tensor[torch.arange(size, device=tensor.device) % before]

    return tree_map_only(Tensor, repeated, inputs)
