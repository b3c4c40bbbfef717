"""What runs a forward: PyTorch as it is, PyTorch compiled, ONNX Runtime. One function a backend, all of them timed alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flowprune.engine.measuring.onnx_program import feed_of, onnx_program, quiet, session_of
from flowprune.engine.tracing import call_model, first_tensor
from flowprune.errors import MissingLibraryError, ModelError, UnknownNameError, one_line

BACKENDS = ("pytorch", "compiled", "onnxruntime")

Run = Callable[[], object]
"""One forward, with everything it needs."""


def runner(backend: str, model: nn.Module, inputs: Any) -> Run:
    """One forward of the model, in evaluation mode, on these inputs, by this backend.

    Args:
        backend: "pytorch", "compiled" (``torch.compile``) or "onnxruntime" (on the processor, with torch's number of threads).
        model: in evaluation mode; it must stay so while the forward is used.
        inputs: what the forward takes, on the device it runs on.

    Raises:
        UnknownNameError: there is no such backend.
        MissingLibraryError: it is not installed.
        ModelError: it cannot run the model.
    """
    if backend == "pytorch":
        return lambda: call_model(model, inputs)
    if backend == "compiled":
        return _compiled(model, inputs)
    if backend == "onnxruntime":
        return _in_onnx_runtime(model, inputs)
    raise UnknownNameError("backend", backend, BACKENDS, name_all=True)


def _compiled(model: nn.Module, inputs: Any) -> Run:
    faster: Any = torch.compile(model)
    try:
        with quiet():
            call_model(faster, inputs)
    except Exception as error:  # a compiler that is missing, or whatever the model makes it stumble over
        raise ModelError(f"{type(model).__name__} cannot be compiled here: {one_line(error, 200)}") from error
    return lambda: call_model(faster, inputs)


def _in_onnx_runtime(model: nn.Module, inputs: Any) -> Run:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(f"backend onnxruntime needs {error.name}: pip install 'flowprune[onnx]'") from error
    if first_tensor(inputs).device.type != "cpu":
        raise ModelError("backend onnxruntime runs on the processor; put the model and its inputs there")
    try:
        written = onnx_program(model, inputs, dynamic_batch=False).model_proto.SerializeToString()
        session = session_of(written, torch.get_num_threads())
    except Exception as error:  # the exporter and the runtime raise whatever a model makes them stumble over
        raise ModelError(f"{type(model).__name__} cannot be run by ONNX Runtime: {one_line(error, 200)}") from error
    feed = feed_of(session, inputs)
    return lambda: session.run(None, feed)
