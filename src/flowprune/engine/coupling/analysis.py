"""Analyse a dense model: give every parameter index a label, let the labels flow, and note what the rules say."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from flowprune.engine.coupling.dense_propagation import Analysis
from flowprune.engine.coupling.labels import block_at
from flowprune.engine.coupling.notes import Notebook, Notes, Tie
from flowprune.engine.coupling.other_uses import note_other_uses
from flowprune.engine.coupling.propagation import propagate
from flowprune.engine.coupling.rules import rule_of
from flowprune.engine.tracing import Graph
from flowprune.engine.tracing.expressions import Attribute


def analyse(
    model: nn.Module, graphs: Sequence[Graph], heads: str = "whole", places: frozenset[str] = frozenset()
) -> tuple[Notes, list[Analysis]]:
    """Let labels flow through each traced pass of ``model``, all in one label space; ``heads`` says what attention may lose, and
    ``places`` names the index tensors that surgery numbers anew.

    The outputs are frozen, and so is every parameter dimension that no rule has ever seen used.
    """
    notebook = Notebook(heads, places)
    passes: list[Analysis] = []
    for graph in graphs:
        analysis = Analysis(graph, notebook, model)
        propagate(analysis, rule_of)
        for value in graph.outputs:
            analysis.freeze_layout(analysis.layouts.get(value, ()), "it is an output of the model")
        for value, method in graph.escaped.items():
            analysis.freeze_layout(
                analysis.layouts.get(value, ()), f"leaves torch by Tensor.{method}, so what is done with it is not seen"
            )
        _count_unweighted_norms(analysis, model)
        _count_what_is_compared(analysis)
        note_other_uses(analysis)
        passes.append(analysis)
    _tie_attention(notebook, model, graphs[0])
    used = {
        graph.parameters.get(value) for graph in graphs for operation in graph.operations for value in operation.reads
    }
    for slot in notebook.slot_of.values():
        if slot.name not in used:
            analysis.freeze(slot.labels, "not used in the traced passes")
    return notebook.settled(), passes


def _count_unweighted_norms(analysis: Analysis, model: nn.Module) -> None:
    """The width of a norm without a weight shows in no tensor of its own; it is that of what enters."""
    for call in analysis.graph.calls:
        module = model.get_submodule(call.path)
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is None and call.inputs:
            last = len(analysis.graph.values[call.inputs[0]].shape) - 1
            block = block_at(analysis.layouts.get(call.inputs[0], ()), last)
            if block is not None and block.dimensions == (last,) and len(module.normalized_shape) == 1:
                analysis.demand(Attribute(call.path, "normalized_shape", 0), block.labels)


def _count_what_is_compared(analysis: Analysis) -> None:
    """Where code found a tensor as wide as an attribute says (an assertion, most of all), it must find so again."""
    for attribute, value, dimension in analysis.graph.equalities:
        block = block_at(analysis.layouts.get(value, ()), dimension)
        if block is not None and block.dimensions == (dimension,):
            analysis.demand(attribute, block.labels)


def _tie_attention(notebook: Notebook, model: nn.Module, graph: Graph) -> None:
    """Torch's own ``MultiheadAttention`` takes the width of the stream for that of its heads, in code that hides its integers."""
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            weight = "q_proj_weight" if module.in_proj_weight is None else "in_proj_weight"
            name = graph.aliases.get(f"{path}.{weight}" if path else weight, "")
            made, read = (notebook.slot_of.get((name, dimension)) for dimension in (0, 1))
            if made is not None and read is not None:
                notebook.ties.append(Tie(read.labels, made.labels, f"the attention {path}"))
