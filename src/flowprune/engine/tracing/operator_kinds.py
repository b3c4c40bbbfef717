"""What kind of operator an operation is: a convolution, a product with a weight, a normalisation, an activation, an addition.

Every room that reads a traced pass asks here, and the rules of convolutions, products and batch norms are those of the names here.
"""

from __future__ import annotations

from flowprune.engine.tracing.graph import Graph, Operation


def _named(names: str, *suffixes: str) -> frozenset[str]:
    """``aten.NAME`` of every name, with each of the suffixes."""
    return frozenset(f"aten.{name}{suffix}" for name in names.split() for suffix in suffixes or ("",))


CONVOLUTIONS = ("aten.convolution", "aten._convolution")
PRODUCTS = ("aten.mm", "aten.addmm")
"""What a linear layer runs."""
BATCH_NORMS = (
    "aten.native_batch_norm",
    "aten._native_batch_norm_legit",
    "aten._native_batch_norm_legit_no_training",
    "aten._batch_norm_with_update",
    "aten._batch_norm_no_update",
    "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm",
)
_NORMS_OF_MAPS = frozenset({*BATCH_NORMS, "aten.native_group_norm"})
_ADDITIONS = _named("add", "", "_")
_ARITHMETIC = _named("add sub mul div", "", "_")
_ACTIVATIONS = _named(
    "relu hardtanh leaky_relu _prelu_kernel silu gelu hardswish elu celu mish tanh sigmoid softplus threshold", "", "_"
)
_COPIES = _named("clone _to_copy alias detach lift_fresh copy_ native_dropout bernoulli zeros_like")


def is_convolution(operation: Operation) -> bool:
    """Whether it is a convolution, transposed or not."""
    return operation.name in CONVOLUTIONS


def is_product(operation: Operation) -> bool:
    """Whether it multiplies two matrices, as a linear layer does."""
    return operation.name in PRODUCTS


def is_layer(operation: Operation) -> bool:
    """Whether it is what a convolution or linear layer runs: it weighs the channels of what it reads."""
    return is_convolution(operation) or is_product(operation)


def is_batch_norm(operation: Operation) -> bool:
    """Whether it normalises every channel by itself, over images and positions."""
    return operation.name in BATCH_NORMS


def normalizes_maps(operation: Operation) -> bool:
    """Whether it normalises a feature map channel by channel, or group by group."""
    return operation.name in _NORMS_OF_MAPS


def is_normalization(operation: Operation) -> bool:
    """Whether it normalises anything, by its name, and so has a weight for every channel: a user's own operator, too."""
    return is_batch_norm(operation) or operation.name.endswith("_norm")


def is_activation(operation: Operation) -> bool:
    """Whether it is an activation function."""
    return operation.name in _ACTIVATIONS


def rectifier(operation: Operation) -> str:
    """ "relu" or "relu6": the activations that change nothing when they are carried out twice; "" for any other operator."""
    if operation.name in ("aten.relu", "aten.relu_"):
        return "relu"
    bounds = operation.argument("min_val", -1), operation.argument("max_val", 1)
    return "relu6" if operation.name in ("aten.hardtanh", "aten.hardtanh_") and bounds == (0, 6) else ""


def is_copy(operation: Operation) -> bool:
    """Whether what it returns is what it read, in another place or another type, or nothing of it (dropout)."""
    return operation.name in _COPIES


def is_arithmetic(operation: Operation) -> bool:
    """Whether it adds, subtracts, multiplies or divides."""
    return operation.name in _ARITHMETIC


def is_addition(operation: Operation) -> bool:
    """Whether it adds two tensors."""
    return operation.name in _ADDITIONS and len(operation.reads) == 2


def adds_activations(operation: Operation, graph: Graph) -> bool:
    """Whether it adds two tensors of one shape, neither of them a parameter, as at the end of a residual branch."""
    if not is_addition(operation):
        return False
    left, right = operation.reads
    return (
        graph.values[left].shape == graph.values[right].shape
        and left not in graph.parameters
        and right not in graph.parameters
    )
