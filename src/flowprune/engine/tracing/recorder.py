"""Record one forward pass of a model: on meta tensors where that works, else on fake ones, else on real ones.

What a forward leaves otherwise than it found it is noted, too: the next one would read something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map_only

from flowprune.engine.tracing.expressions import widths_said
from flowprune.engine.tracing.graph import Graph
from flowprune.engine.tracing.integers import mark_attributes, noticing
from flowprune.engine.tracing.operator_log import OperatorLog, PythonCalls, tensors_in
from flowprune.engine.tracing.random_numbers import repeated
from flowprune.engine.tracing.shadow import call_model, first_tensor, model_of, own_buffer, shadow, to_meta
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
            with torch.no_grad():
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
    with torch.no_grad():
        return attempt(model, inputs, like.training, False)


def _on_meta(model: nn.Module, inputs: Any, training: bool, provenance: bool = True) -> Graph:
    return _record(model, inputs, to_meta, training, "meta", provenance)


def _on_fake(model: nn.Module, inputs: Any, training: bool, provenance: bool = True) -> Graph:
    with failures_unlogged(), FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def fake(tensor: torch.Tensor) -> torch.Tensor:
            converted = mode.from_tensor(tensor.detach())
            return nn.Parameter(converted, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else converted

        return _record(model, inputs, fake, training, "fake", provenance)


def _on_real(model: nn.Module, inputs: Any, training: bool, provenance: bool = True) -> Graph:
    return _record(model, inputs, own_buffer, training, "real", provenance)


def _record(
    model: nn.Module,
    inputs: Any,
    stand_in: Callable[[torch.Tensor], torch.Tensor],
    training: bool,
    tensors: str,
    provenance: bool,
) -> Graph:
    """Run a shadow of ``model`` in which every tensor is ``stand_in(tensor)``, and write down what runs."""
    originals: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    shown = shadow(model, stand_in, originals).train(training)
    given = tree_map_only(torch.Tensor, stand_in, inputs)
    if training and first_tensor(given).dim() > 0 and first_tensor(given).shape[0] == 1:
        given = tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == 1 else t, given)
    modules = list(shown.named_modules(remove_duplicate=False))
    if provenance:
        mark_attributes(modules)
    log = OperatorLog(modules, given, training, originals)
    graph = log.graph
    graph.tensors = tensors
    before = _state_of(modules) if provenance else None
    try:
        with spelled_out_attention(), noticing() as noticed, repeated() as drawn, PythonCalls(log, provenance), log:
            outputs = call_model(shown, given)
    except Exception as error:
        raise InterruptedTraceError(graph, error) from error
    graph.draws = drawn.any
    graph.outputs = tuple(log.number(leaf) for leaf in tensors_in(outputs))
    if before is not None:
        graph.equalities = widths_said(noticed.equal)
        graph.limits = list(dict.fromkeys(noticed.limits))
        graph.plain = list(dict.fromkeys(noticed.plain))
        _note_changes(graph, before, _state_of(shown.named_modules(remove_duplicate=False)), log.stand_ins)
    return graph


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


@dataclass(frozen=True)
class _State:
    """What the modules of a shadow hold.

    Attributes:
        tensors: dotted name -> parameter or buffer.
        others: id of every tensor that is a plain attribute, bare or in a container.
        numbers: (path, name) -> a number among the plain attributes.
    """

    tensors: dict[str, torch.Tensor]
    others: frozenset[int]
    numbers: dict[tuple[str, str], Any]


def _state_of(modules: Iterable[tuple[str, nn.Module]]) -> _State:
    """Look at all modules, by path; those of ``torch.nn`` hold no plain tensors, and no numbers that change."""
    tensors: dict[str, torch.Tensor] = {}
    others: set[int] = set()
    numbers: dict[tuple[str, str], Any] = {}
    for path, module in modules:
        for table in (module._parameters, module._buffers):
            tensors.update((f"{path}.{name}", held) for name, held in table.items() if held is not None)
        if type(module).__module__.startswith("torch.nn.modules"):
            continue
        for name, held in vars(module).items():
            if isinstance(held, (int, float)):
                if name != "training":  # compared as plain numbers, whatever they remember
                    numbers[path, name] = int.__int__(held) if isinstance(held, int) else held
            elif isinstance(held, torch.Tensor):
                others.add(id(held))
            elif isinstance(held, (list, tuple, dict)) and name[:1] != "_":
                others.update(id(leaf) for leaf in tree_leaves(held) if isinstance(leaf, torch.Tensor))
    return _State(tensors, frozenset(others), numbers)


def _note_changes(graph: Graph, before: _State, after: _State, stand_ins: dict[int, int]) -> None:
    """Write down which tensors and numbers another forward would find otherwise.

    Args:
        graph: the pass that ran in between.
        before, after: of the shadow it ran.
        stand_ins: value number of a constant that a module held -> id of the tensor it held.
    """
    replaced = [name for name, held in before.tensors.items() if after.tensors.get(name) is not held]
    graph.replaced = frozenset(name.removeprefix(".") for name in replaced)
    graph.counts = any(after.numbers.get(place, held) != held for place, held in before.numbers.items())
    for number, held in stand_ins.items():
        if held not in after.others:
            del graph.constants[number]
