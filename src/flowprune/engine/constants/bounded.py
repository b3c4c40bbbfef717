"""Tensors that are finite by construction: only beside them is a product with zero certain to be zero."""

from __future__ import annotations

from flowprune.engine.constants.aliasing import Memory, written_by
from flowprune.engine.tracing import Graph, Operation, Reference

_ALWAYS = frozenset(
    f"aten.{name}"
    for name in (
        *(
            "sigmoid",
            "tanh",
            "_softmax",
            "_safe_softmax",
            "hardsigmoid",
            "hardtanh",
            "relu6",
            "erf",
            "erfc",
            "sin",
            "cos",
        ),
        *("sign", "atan", "nan_to_num", "bernoulli", "rand", "rand_like", "zeros", "ones", "zeros_like"),
        *("ones_like", "new_zeros", "new_ones", "arange", "eye", "zero"),
    )
)
"""Whatever enters (NaN aside, which passes through every activation)."""

_AS_THEIR_OPERANDS = frozenset(
    f"aten.{name}"
    for name in (
        *("add", "sub", "rsub", "mul", "neg", "abs", "square", "mean", "sum", "amax", "amin", "max", "min", "maximum"),
        *(
            "minimum",
            "clamp",
            "clamp_min",
            "clamp_max",
            "relu",
            "gelu",
            "silu",
            "hardswish",
            "leaky_relu",
            "elu",
            "mish",
        ),
        *(
            "where",
            "masked_fill",
            "_to_copy",
            "clone",
            "alias",
            "detach",
            "lift_fresh",
            "lift_fresh_copy",
            "contiguous",
        ),
        *(
            "copy",
            "expand",
            "view",
            "_unsafe_view",
            "reshape",
            "_reshape_alias",
            "view_copy",
            "permute",
            "transpose",
            "t",
        ),
        *(
            "unsqueeze",
            "squeeze",
            "slice",
            "select",
            "split",
            "split_with_sizes",
            "unbind",
            "cat",
            "stack",
            "flip",
            "roll",
        ),
        *(
            "repeat",
            "repeat_interleave",
            "index_select",
            "index",
            "embedding",
            "gather",
            "constant_pad_nd",
            "as_strided",
        ),
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "max_pool2d"),
        *("adaptive_avg_pool1d", "max_pool2d_with_indices", "upsample_nearest1d", "upsample_nearest2d"),
        *("upsample_bilinear2d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "fill", "lerp"),
    )
)
"""Finite where all their operands are."""


def bounded_values(graph: Graph, memory: Memory) -> frozenset[int]:
    """The values of a pass that are finite whatever the inputs are: parameters, whole numbers, bounded activations, what is
    made of them. What somebody writes into later is whatever is written."""
    last_write: dict[int, int] = {}
    for operation in graph.operations:
        for value in written_by(operation):
            last_write[memory.root[value]] = operation.index
    found = {value.number for value in graph.values if not (value.dtype.is_floating_point or value.dtype.is_complex)}
    found |= {number for number in graph.parameters if number not in last_write}
    for operation in graph.operations:
        if _is_bounded(operation, found):
            for output in operation.outputs:
                if output is not None and operation.index >= last_write.get(memory.root[output], -1):
                    found.add(output)
    return frozenset(found)


def _is_bounded(operation: Operation, bounded: set[int]) -> bool:
    name = operation.name.removesuffix("_")
    if name in _ALWAYS:
        return True
    inputs = operation.reads
    if name == "aten.clamp" and operation.argument("min") is not None and operation.argument("max") is not None:
        return all(value in bounded for value in inputs[1:])
    if name == "aten.div":
        divisor = operation.argument("other")
        return not isinstance(divisor, Reference) and bool(divisor) and inputs[0] in bounded
    return name in _AS_THEIR_OPERANDS and bool(inputs) and all(value in bounded for value in inputs)
