"""What a rule may say while labels flow through a graph, and the walk that asks every operator's rule in turn.

The same rules serve twice. While a dense model is *analysed*, joining labels and freezing them is noted down. While a small model
is *certified*, its parameters carry the dense model's channels, and joining two different channels is the proof of a wrong cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence

from flowprune.engine.coupling.labels import Array, Block, Layout
from flowprune.engine.tracing import Graph, Operation, Reference
from flowprune.engine.tracing.expressions import Expression

Rule = Callable[[Operation, "Propagation"], None]


class Propagation(ABC):
    """Labels on their way through one graph. Rules read ``layout`` and ``shape``, and call the other methods.

    Attributes:
        graph: the pass.
        layouts: value number -> layout; a value not in it carries nothing.
        heads: what attention may lose: "whole" heads, or the same number of channels "inside" each.
        places: names of the index tensors that are numbered anew when the channels they count leave.
    """

    def __init__(self, graph: Graph, heads: str = "whole", places: frozenset[str] = frozenset()) -> None:
        self.graph = graph
        self.heads = heads
        self.places = places
        self.layouts: dict[int, Layout] = {}
        self.operation: Operation | None = None

    # What rules read.

    def layout(self, tensor: Reference | None) -> Layout:
        """The blocks a tensor carries."""
        return () if tensor is None else self.layouts.get(tensor.value, ())

    def shape(self, tensor: Reference) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.graph.values[tensor.value].shape

    def output_shape(self, operation: Operation, position: int = 0) -> tuple[int, ...]:
        """Shape of one of the operation's results."""
        value = operation.outputs[position]
        return () if value is None else self.graph.values[value].shape

    # What rules say.

    def set(self, operation: Operation, layout: Layout, position: int = 0) -> None:
        """The operation's result at ``position`` carries ``layout``."""
        value = operation.outputs[position]
        if value is not None and layout:
            self.layouts[value] = layout

    @abstractmethod
    def join(self, left: Array, right: Array) -> None:
        """Entry by entry, both are one channel; the arrays broadcast against each other."""

    @abstractmethod
    def freeze(self, labels: Array, reason: str) -> None:
        """None of these channels may leave."""

    @abstractmethod
    def balance(self, rows: Array, fixed: bool = False) -> None:
        """[..., n]: every row along the last axis must keep the same number of channels, or go altogether.

        ``fixed``: [rows, n], and none may go: the number of rows is the operator's own (a convolution's groups).
        """

    @abstractmethod
    def share(self, parts: Sequence[Array]) -> None:
        """Every part must lose the same share of its channels."""

    @abstractmethod
    def interleave(self, rows: Array) -> None:
        """[rows, n]: entry j of every row becomes a neighbour of entry j of the others. Their order is only kept if these leave
        together, or whole rows do."""

    @abstractmethod
    def align(self, rows: Array, vector: Array) -> None:
        """[rows, n] meets [n]: entry j of the vector is entry j of every row; but where rows leave as a whole, the vector stays."""

    @abstractmethod
    def count(self, labels: Array, argument: str, position: int, reason: str) -> None:
        """An integer of the running operation is the number of ``labels``: after a cut it must be the number of those that stay.

        Args:
            labels: as many as the integer says.
            argument: the operator's argument that holds the integer.
            position: its place in a list argument, 0 for a bare integer.
            reason: what the operator does by it ("a slice ends at"), to begin the reason why the channels stay where the integer
                cannot follow; what the integer is comes after it.
        """

    @abstractmethod
    def extent(self, block: Block, axis: int, expression: Expression) -> None:
        """The running operation writes the size of one of its result's dimensions: that of ``block`` along ``axis``.

        Args:
            block: what the dimension carries.
            axis: which of the block's.
            expression: where the code took the size from.
        """

    @abstractmethod
    def fresh(self, count: int, slot: int) -> Array:
        """Labels for channels that appear here out of nothing (padding), in one of the operator's slots."""

    @abstractmethod
    def cost(self, constant: int, factors: Sequence[Array]) -> None:
        """The running operator multiplies and accumulates ``constant`` times the product of these dimensions' sizes."""

    # What many rules share.

    def freeze_layout(self, layout: Layout, reason: str) -> None:
        """Freeze all that a tensor carries."""
        for block in layout:
            self.freeze(block.labels, reason)

    def freeze_inputs(self, operation: Operation, reason: str) -> None:
        """Freeze all that the operation's arguments carry; its results carry nothing."""
        for value in operation.reads:
            self.freeze_layout(self.layouts.get(value, ()), reason)

    def collapse(self, block: Block, dimensions: Collection[int], reason: str) -> Block | None:
        """What a block carries where some of its dimensions must stay as they are: then a channel of the others leaves with all it
        has along them (an attention head with its whole width), or not at all.

        Args:
            block: over several dimensions; one dimension alone is frozen, and so is a row's width where pruning goes inside heads.
            dimensions: those of the tensor that keep their size.
            reason: why channels are frozen.
        """
        kept = [axis for axis, dimension in enumerate(block.dimensions) if dimension not in dimensions]
        if len(kept) == len(block.dimensions):
            return block
        if not kept or (self.heads == "inside" and block.inner_dimension in dimensions):
            self.freeze(block.labels, reason)
            return None
        index = tuple(slice(None) if axis in kept else slice(0, 1) for axis in range(block.labels.ndim))
        first = block.labels[index]
        self.join(first, block.labels)
        inner = block.inner % len(block.dimensions)
        labels = first.reshape([first.shape[axis] for axis in kept])
        return Block(tuple(block.dimensions[axis] for axis in kept), labels, kept.index(inner) if inner in kept else -1)

    def join_blocks(self, left: Block | None, right: Block | None, reason: str) -> Block | None:
        """Join two one-dimensional blocks that stand for the same dimension; one side without labels freezes the other."""
        if left is None and right is None:
            return None
        if left is None or right is None:
            alone = left or right
            assert alone is not None
            self.freeze(alone.labels, reason)
            return None
        self.join(left.labels, right.labels)
        return left


def place_of(operation: Operation) -> str:
    """Where in the model an operator runs, in words."""
    return f"{operation.name} in {operation.module or 'the model itself'}"


def propagate(state: Propagation, rule_of: Callable[[Operation], Rule]) -> None:
    """Walk the graph in order and ask each operator's rule.

    A rule that trips over sizes it does not know (a user's own, mostly) must not abort everything: what it should have told apart
    stays.
    """
    for operation in state.graph.operations:
        state.operation = operation
        if any(value in state.layouts for value in operation.reads):
            try:
                rule_of(operation)(operation, state)
            except (ValueError, IndexError, KeyError, TypeError) as error:
                reason = f"the coupling rule of {operation.name} raised {type(error).__name__}: {error}"
                state.freeze_inputs(operation, reason.splitlines()[0])
                for value in operation.outputs:
                    state.layouts.pop(-1 if value is None else value, None)
    state.operation = None
