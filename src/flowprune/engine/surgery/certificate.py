"""The certificate: the small model is traced again and must run exactly what the plan predicts, on the channels it predicts.

The small model's parameters carry the dense model's channels less the removed ones. The same rules propagate them; wherever two
different channels would be joined, a size or an argument differs from the prediction, or a tensor carries other channels than the
dense model's less the removed ones, the cut is refused. It happens on a meta copy, before anything real is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.coupling import Analysis, Coupling
from flowprune.engine.coupling.labels import Array, Block
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule_of
from flowprune.engine.surgery.decided_by_data import first_that_reads, fits, is_number
from flowprune.engine.surgery.prediction import (
    MismatchError,
    PlannedCut,
    PredictedPass,
    altered_arguments,
    same_form,
    same_layout,
)
from flowprune.engine.tracing import Graph, Operation
from flowprune.engine.tracing.data_decides import decides_by_data
from flowprune.engine.tracing.expressions import Expression
from flowprune.engine.tracing.recorder import InterruptedTraceError, retrace


@dataclass(frozen=True)
class Refusal:
    """Why a cut could not be certified.

    Attributes:
        operation: index of the dense pass's operation where the small one went another way.
        training: which of the two passes.
        reason: in words.
        others: further operations that are wrong in the same way, and could be looked at because they change no shape:
            they are given a number that the code computes from a width.
        computed: whether it is of that kind.
    """

    operation: int
    training: bool
    reason: str
    others: tuple[int, ...] = ()
    computed: bool = False


def certify(
    small: nn.Module,
    inputs: Any,
    plan: Plan,
    coupling: Coupling,
    passes: Sequence[Analysis],
    removed: NDArray[np.bool_],
) -> Refusal | None:
    """None if ``small`` is proved to be the planned cut; else the first place where it is not.

    Args:
        small: the cut model on meta tensors.
        inputs: the example inputs of the dense passes.
        plan: what was cut; the small model's parameters carry the channels that its slices leave.
        coupling: the dense model's groups.
        passes: the dense model's propagations, one a mode.
        removed: [labels]: whether each component leaves (by its smallest label).
    """
    planned = PlannedCut(plan, coupling, removed)
    for dense in passes:
        broken: str | None = None
        try:
            graph = retrace(small, inputs, dense.graph)
        except InterruptedTraceError as stop:
            graph, broken = stop.graph, str(stop)
        refusal = _Certification(graph, dense, planned).check()
        if refusal is not None:
            return refusal
        if broken is not None:
            return Refusal(min(len(graph.operations), len(dense.graph.operations) - 1), dense.graph.training, broken)
    return None


class _Certification(Propagation):
    """The small model's propagation: labels are the dense model's components, and joins are claims to be checked."""

    def __init__(self, graph: Graph, dense: Analysis, planned: PlannedCut) -> None:
        notes = planned.coupling.notes
        super().__init__(graph, notes.heads, notes.places)
        self._dense = dense
        self._planned = planned
        self._predicted = PredictedPass(planned, dense)
        self._altered: dict[int, str] = {}
        self._decided = False

    def check(self) -> Refusal | None:
        """Walk both passes side by side."""
        dense, small = self._dense.graph, self.graph
        step = 0
        try:
            self._require(dense.parameters == small.parameters, "the parameters are not the same")
            self._require(dense.inputs == small.inputs, "the inputs are not the same")
            for value, name in dense.parameters.items():
                self.layouts[value] = self._predicted.sliced_layout(value, name)
                predicted = self._predicted.layout(value)
                self._require(
                    same_layout(predicted, self.layouts[value]), f"other slices of {name} leave than predicted"
                )
                self._require(
                    self.graph.values[value].shape == self._predicted.shape(value, predicted),
                    "a parameter has another shape",
                )
            for operation in small.operations:
                step = operation.index
                if self._decided and not self._in_step(operation):
                    return self._check_rest(step)
                self._require(step < len(dense.operations), "the small model runs more operators")
                self._step(dense.operations[step], operation)
            self._require(not self._altered, "")
            # a pass that was interrupted has no outputs; the caller knows
            if small.outputs or not small.operations:
                step = len(dense.operations) - 1
                if self._decided and len(small.operations) < len(dense.operations):
                    return self._check_rest(len(small.operations))
                self._require(len(small.operations) == len(dense.operations), "the small model runs fewer operators")
                self._require(dense.outputs == small.outputs, "the outputs are not the same")
                for value in dense.outputs:
                    before, after = dense.values[value].shape, small.values[value].shape
                    layout = self._predicted.that_may_leave(self._predicted.layout(value))
                    same = before == after or (self._decided and fits(after, before, layout))
                    self._require(same, "an output of the model shrinks")
        except MismatchError as mismatch:
            if not self._altered:
                return Refusal(step, dense.training, str(mismatch))
            first, *others = self._altered
            return Refusal(first, dense.training, self._altered[first], tuple(others), True)
        return None

    def _in_step(self, small: Operation) -> bool:
        """Whether the dense pass runs the same operator on the same values here."""
        operations = self._dense.graph.operations
        if small.index >= len(operations):
            return False
        dense = operations[small.index]
        same_values = dense.outputs == small.outputs and dense.reads == small.reads
        return dense.function is small.function and dense.module == small.module and same_values

    def _check_rest(self, step: int) -> Refusal | None:
        """Where the data made the two passes part, neither may read channels any more that could leave."""
        dense, small = self._dense.graph, self.graph
        for graph, layouts in ((dense, self._dense.layouts), (small, self.layouts)):
            reader = first_that_reads(graph.operations[step:], layouts, self._planned.may_leave)
            if reader is not None:
                reason = f"{reader.name} reads channels after data has decided how to go on"
                return Refusal(min(reader.index, len(dense.operations) - 1), dense.training, reason)
        return None

    def _step(self, dense: Operation, small: Operation) -> None:
        self._require(dense.function is small.function, f"{small.name} runs where {dense.name} ran")
        self._require(
            dense.outputs == small.outputs and dense.module == small.module, "the operators are wired differently"
        )
        self._require(same_form(dense, small), f"{dense.name} is called in another form")
        if self._dense.graph.tensors != "meta":  # where data decides, nothing runs without any
            self._decided |= decides_by_data(dense, self._dense.graph)
        for name, before, after in altered_arguments(dense, small):
            if self._decided and is_number(before) and is_number(after):
                continue
            reason = f"the argument {name} of {dense.name} is {after!r} instead of {before!r}"
            self._require(isinstance(before, float) and isinstance(after, float), reason)
            self._altered[dense.index] = (
                f"{reason}: the code computes it from a width"  # changes no shape: there may be more of the kind, one an attention
            )
        if dense.name == "aten.constant_pad_nd":
            self._check_padding(dense, small)
        self.operation = small
        if any(value in self.layouts for value in small.reads):
            try:
                rule_of(small)(small, self)
            except ValueError as error:  # sizes that do not fit one another
                raise MismatchError(f"{small.name} runs at sizes that do not fit: {error}") from None
        for value in dense.outputs:
            if value is None:
                continue
            predicted, layout = self._predicted.layout(value), self.layouts.get(value, ())
            found, expected = self.graph.values[value].shape, self._predicted.shape(value, predicted)
            fitting, same = found == expected, same_layout(predicted, layout)
            if self._decided and not (fitting and same):
                predicted, layout = self._predicted.that_may_leave(predicted), self._predicted.that_may_leave(layout)
                fitting, same = fits(found, expected, predicted), same_layout(predicted, layout)
            self._require(fitting, f"{dense.name} returns a tensor of shape {found} instead of {expected}")
            self._require(same, f"{dense.name} returns other channels than predicted")
            if predicted or value in self.layouts:
                self.layouts[value] = predicted

    def _check_padding(self, dense: Operation, small: Operation) -> None:
        """Only padding along channels may change; a shifted padding of positions would keep the shape."""
        before, after = dense.argument("pad"), small.argument("pad")
        rank = len(self.shape(small.argument("self")))
        output = dense.outputs[0]
        channels = {d for block in self._dense.layouts.get(output or -1, ()) for d in block.dimensions}
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            self._require(old == new or rank - 1 - place // 2 in channels, "positions are padded differently")

    def _require(self, holds: bool, reason: str) -> None:
        if not holds:
            raise MismatchError(reason)

    # What the rules say of the small model.

    def join(self, left: Array, right: Array) -> None:
        """The claim that these are the same channels."""
        try:
            left, right = np.broadcast_arrays(left, right)
        except ValueError:
            raise MismatchError("channels of different numbers meet") from None
        self._require(np.array_equal(left, right), "different channels meet")

    def freeze(self, labels: Array, reason: str) -> None:
        """What must stay in the small model must have had to stay in the dense one."""
        self._require(bool(self._planned.frozen[labels].all()), f"channels became fixed: {reason}")

    def balance(self, rows: Array, fixed: bool = False) -> None:
        """Equal rows show in the shapes; which of the operator's own rows a channel is in does not, and is compared."""
        if fixed:
            assert self.operation is not None
            dense = self._planned.coupling.notes.fixed[self._dense.graph.training, self.operation.index]
            kept = [self._planned.left(row) for row in dense]
            same = len(kept) == len(rows) and all(map(np.array_equal, kept, rows))
            self._require(same, "channels are in another group")

    def share(self, parts: Sequence[Array]) -> None:
        """Shares show in the shapes."""

    def interleave(self, rows: Array) -> None:
        """Rows stay as wide as they were, or the same entries stay in all of them."""
        whole = bool((rows == rows[:, :1]).all())
        self._require(whole or bool((rows == rows[:1]).all()), "rows that alternate keep different channels")

    def align(self, rows: Array, vector: Array) -> None:
        """Rows stay as wide as they were, and the vector with them, or the same entries stay in all."""
        whole = bool((rows == rows[:, :1]).all()) and bool(self._planned.frozen[vector].all())
        self._require(whole or bool((rows == vector).all()), "channels meet a vector of other channels")

    def count(self, labels: Array, argument: str, position: int, reason: str) -> None:
        """Counts show in the shapes and labels."""

    def extent(self, block: Block, axis: int, expression: Expression) -> None:
        """Sizes show in the shapes."""

    def fresh(self, count: int, slot: int) -> Array:
        """The dense pass's new channels at this place, less the removed ones; where all have left, the small one may not ask."""
        assert self.operation is not None
        dense = self._planned.coupling.notes.fresh.get((self._dense.graph.training, self.operation.index, slot))
        if dense is None:
            raise MismatchError("channels are made where the dense model makes none")
        kept = self._planned.left(dense)
        self._require(len(kept) == count, f"{count} channels are padded instead of {len(kept)}")
        return kept

    def cost(self, constant: int, factors: Sequence[Array]) -> None:
        """Costs are the dense pass's business."""
