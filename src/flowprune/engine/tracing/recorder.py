"""Record one forward pass of a model: on meta tensors where that works, else on fake ones, else on real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from flowprune.engine.tracing import random_numbers
from flowprune.engine.tracing.graph import Graph
from flowprune.engine.tracing.integers import mark_attributes, widths_said
from flowprune.engine.tracing.noticing import noticing
from flowprune.engine.tracing.operator_log import OperatorLog, tensors_in
from flowprune.engine.tracing.python_calls import PythonCalls
from flowprune.engine.tracing.shadow import call_model, first_tensor, model_of, shadow, to_meta
from flowprune.engine.tracing.state import note_changes, state_of
from flowprune.engine.tracing.unlogged import failures_unlogged
from flowprune.errors import FlowpruneError, TraceError


def trace(model: nn.Module, inputs: Any, *, training: bool = False) -> Graph:
    """Record which operators one forward of ``model`` runs.

    Args:
        model: any eager ``nn.Module``; it is not touched (a shadow of it runs).
        inputs: what the forward takes: a tensor, a tuple or list of positional arguments, or a dictionary of keyword arguments.
        training: the mode to trace in. With a batch of one the training pass sees the batch doubled, because batch norm
            over one value cannot run.

    Raises:
        TraceError: if the forward raises on meta, fake and real tensors alike.
        ModelError: if the model is a wrapper or cannot be copied.
    """
    model = model_of(model)
    first_tensor(inputs)
    failure: Exception | None = None
    for attempt in (_on_meta, _on_fake, _on_real):
        try:
            with random_numbers.repeated(), torch.no_grad():
                return attempt(model, inputs, training)
        except FlowpruneError:
            raise
        except InterruptedTraceError as stop:
            failure = stop.cause
        except Exception as error:  # a tensor that cannot be made meta or fake
            failure = error
    raise TraceError(
        f"the forward of {type(model).__name__} raised {type(failure).__name__} on the example inputs: {failure}"
    ) from failure


class InterruptedTraceError(Exception):
    """A pass that broke off; ``graph`` holds what ran until then."""

    def __init__(self, graph: Graph, cause: Exception) -> None:
        super().__init__(
            f"the forward raises {type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
        )
        self.graph = graph
        self.cause = cause


def retrace(model: nn.Module, inputs: Any, like: Graph) -> Graph:
    """Record a pass of a variant of a model on the same kind of tensors, in the same mode, as ``like`` was recorded.

    Its integers are plain ones: nobody asks where they came from.

    Raises:
        InterruptedTraceError: if the forward raises; it carries the part that ran.
    """
    attempt = {"meta": _on_meta, "fake": _on_fake, "real": _on_real}[like.tensors]
    with random_numbers.repeated(), torch.no_grad():
        return attempt(model, inputs, like.training, False)


def _on_meta(model: nn.Module, inputs: Any, training: bool, provenance: bool = True) -> Graph:
    held = _Held(to_meta)
    return _record(
        shadow(model, held), tree_map_only(torch.Tensor, to_meta, inputs), training, "meta", provenance, held.originals
    )


def _on_fake(model: nn.Module, inputs: Any, training: bool, provenance: bool = True) -> Graph:
    with failures_unlogged(), FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def fake(tensor: torch.Tensor) -> torch.Tensor:
            converted = mode.from_tensor(tensor.detach())
            return nn.Parameter(converted, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else converted

        held = _Held(fake)
        given = tree_map_only(torch.Tensor, fake, inputs)
        return _record(shadow(model, held), given, training, "fake", provenance, held.originals)


def _on_real(model: nn.Module, inputs: Any, training: bool, provenance: bool = True) -> Graph:
    # Parameters are only read; buffers (batch-norm statistics) and inputs may be written to, so those are copies.
    def own(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()

    held = _Held(own)
    given = tree_map_only(torch.Tensor, own, inputs)
    return _record(shadow(model, held), given, training, "real", provenance, held.originals)


class _Held:
    """Makes the stand-ins of a model's tensors, and remembers what each stands for."""

    def __init__(self, stand_in: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._stand_in = stand_in
        self.originals: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        made = self._stand_in(tensor)
        self.originals[id(made)] = made, tensor  # the first so that its id stays its own
        return made


def _record(
    model: nn.Module,
    inputs: Any,
    training: bool,
    tensors: str,
    provenance: bool,
    originals: dict[int, tuple[torch.Tensor, torch.Tensor]],
) -> Graph:
    model.train(training)
    if training and first_tensor(inputs).dim() > 0 and first_tensor(inputs).shape[0] == 1:
        inputs = tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == 1 else t, inputs)
    if provenance:
        mark_attributes(model)
    log = OperatorLog(model, inputs, training, originals)
    log.graph.tensors = tensors
    calls = PythonCalls(log.number, log.graph.escaped, provenance)
    log.calls = calls
    before = state_of(model) if provenance else None
    undrawn = random_numbers.state_outside_torch()
    try:
        log.watch_modules(model)
        with spelled_out_attention(), noticing() as noticed, calls, log:
            outputs = call_model(model, inputs)
    except Exception as error:
        raise InterruptedTraceError(log.graph, error) from error
    finally:
        log.graph.draws = random_numbers.state_outside_torch() != undrawn
    log.graph.outputs = tuple(log.number(leaf) for leaf in tensors_in(outputs))
    log.graph.equalities = widths_said(noticed.equal)
    log.graph.limits = list(dict.fromkeys(noticed.limits))
    log.graph.plain = list(dict.fromkeys(noticed.plain))
    if before is not None:
        note_changes(log.graph, before, state_of(model), log.stand_ins)
    return log.graph


@contextmanager
def spelled_out_attention() -> Iterator[None]:
    """Attention as products and a softmax, not as one fused operator that hides its parts (its scale above all)."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
