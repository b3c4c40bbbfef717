"""A model as an ONNX program, for whoever writes it to a file or runs it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from flowprune.engine.measuring.attention_in_onnx import SpelledOutBeyondFourDimensions
from flowprune.engine.tracing import first_tensor

OPSET = 20


def onnx_program(model: nn.Module, inputs: Any, dynamic_batch: bool) -> Any:
    """The model, in the mode it is in, as a ``torch.onnx.ONNXProgram``; whatever the exporter raises is not caught.

    Args:
        model: on any device.
        inputs: example inputs; with ``dynamic_batch`` of two images or more.
        dynamic_batch: leave the batch size open.
    """
    positional = (
        () if isinstance(inputs, Mapping) else tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    )
    keywords = dict(inputs) if isinstance(inputs, Mapping) else None
    shapes: Any = None
    if dynamic_batch:
        size = len(first_tensor(inputs))
        # AUTO, not DYNAMIC: a check with another batch size finds out whether it was kept open, and says so clearly.
        shapes = tree_map_only(
            Tensor,
            lambda tensor: {0: torch.export.Dim.AUTO} if tensor.dim() and len(tensor) == size else None,
            keywords if keywords is not None else positional,
        )
    with quiet(), SpelledOutBeyondFourDimensions():
        program = torch.onnx.export(
            model,
            positional,
            kwargs=keywords,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None  # no file was named
    return program


def session_of(written: Any, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on the processor; whatever ONNX Runtime raises is not caught.

    Args:
        written: the program as bytes, or the path of its file.
        threads: it works with; its own choice if None.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # else it reports its optimisations on standard error
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def feed_of(session: Any, inputs: Any) -> dict[str, Any]:
    """The inputs of a forward, by the names that a session has for them."""
    given = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return {slot.name: leaf.cpu().numpy() for slot, leaf in zip(session.get_inputs(), given, strict=False)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Catch what the exporter prints, logs and warns about; raised errors say what matters."""
    said = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
