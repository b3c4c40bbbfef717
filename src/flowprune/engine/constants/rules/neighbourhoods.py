"""Operators that mix entries: known where all that are mixed are known.

Pools, interpolations and convolutions are judged by whole planes (all positions of a channel of an image): a channel that is
constant is known at all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from flowprune.engine.constants.call import Call, Operand, values_of
from flowprune.engine.constants.knowledge import Knowledge, learned
from flowprune.engine.constants.rules import Learned, is_random, of_what_is_known, rule

_OVER_POSITIONS = """
max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d _upsample_nearest_exact1d
max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d
_upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
max_pool3d max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d
_upsample_nearest_exact3d upsample_trilinear3d
"""


@rule(*_OVER_POSITIONS.split())
def over_positions(call: Call) -> Learned:
    """Pools and interpolations of ``[images, channels, ...]`` over as many dimensions as the operator's name says."""
    dimensions = int(re.findall(r"(\d)d", call.operation.name)[0])
    unknown: list[Knowledge | None] = [None] * len(call.operation.outputs)
    knowledge = call.first().knowledge
    if knowledge is None or knowledge.known is None:
        return of_what_is_known(call)
    planes = knowledge.known.flatten(-dimensions).all(dim=-1)
    if not bool(planes.any()) or is_random(call.operation):
        return unknown
    values = call.run(values_of)[0]
    assert values is not None
    mask = planes.reshape(*planes.shape, *[1] * dimensions).expand(values.shape)
    return [learned(values, mask), *unknown[1:]]


@rule(
    *("mean", "sum", "prod", "amax", "amin", "max", "min", "logsumexp", "var", "std", "var_mean", "std_mean"),
    *("linalg_vector_norm", "norm", "any", "all"),
)
def reduced(call: Call) -> Learned:
    """Known where all that is reduced is known."""
    knowledge = call.first().knowledge
    if knowledge is None or knowledge.known is None or len(call.operands()) > 1:
        return of_what_is_known(call)
    dims = _dimensions(call, len(call.first().shape))
    unknown = (
        (~knowledge.known).any(dim=dims, keepdim=bool(call.argument("keepdim", False))) if dims else ~knowledge.known
    )
    if bool(unknown.all()):
        return [None] * len(call.operation.outputs)
    results = call.run(values_of)
    return [learned(r, ~unknown) if r is not None and r.shape == unknown.shape else None for r in results]


def _dimensions(call: Call, rank: int) -> list[int]:
    dims = call.argument("dim")
    if isinstance(dims, int):
        return [dims % rank] if rank else []
    return [d % rank for d in dims] if dims else list(range(rank))


@rule("_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: Call) -> Learned:
    """Each entry depends on all it is normalised with."""
    return _within(call, [call.argument("dim")])


@rule("native_layer_norm")
def layer_norm(call: Call) -> Learned:
    """Each entry depends on all it is normalised with."""
    return _within(call, list(range(-len(call.argument("normalized_shape")), 0)))


def _within(call: Call, dims: Sequence[int]) -> Learned:
    operands = call.operands()
    knowledge = operands[0].knowledge
    unknown: list[Knowledge | None] = [None] * len(call.operation.outputs)
    if knowledge is None or knowledge.known is None or not _are_whole(operands[1:]):
        return of_what_is_known(call)
    known = knowledge.known.all(dim=tuple(dims), keepdim=True)
    if not bool(known.any()):
        return unknown
    values = call.run(values_of)[0]
    assert values is not None
    return [learned(values, known.expand(values.shape)), *unknown[1:]]


def _are_whole(operands: Sequence[Operand]) -> bool:
    return all(operand.knowledge is not None and operand.knowledge.is_whole() for operand in operands)


@rule("native_group_norm")
def group_norm(call: Call) -> Learned:
    """Each entry depends on its group of channels."""
    operands = call.operands()
    knowledge = operands[0].knowledge
    if knowledge is None or knowledge.known is None or not _are_whole(operands[1:]):
        return of_what_is_known(call)
    groups = call.argument("group")
    images = knowledge.known.shape[0]
    known = knowledge.known.reshape(images, groups, -1).all(dim=-1, keepdim=True)
    if not bool(known.any()):
        return [None] * len(call.operation.outputs)
    values = call.run(values_of)[0]
    assert values is not None
    mask = known.expand(images, groups, values[0].numel() // groups).reshape(values.shape)
    return [learned(values, mask), None, None]


@rule(
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_batch_norm_no_update"),
    *("cudnn_batch_norm", "miopen_batch_norm"),
)
def batch_norm(call: Call) -> Learned:
    """By running statistics each entry is by itself; by those of the batch it depends on all of its channel."""
    operands = call.operands()
    knowledge = operands[0].knowledge
    unknown: list[Knowledge | None] = [None] * len(call.operation.outputs)
    if knowledge is None or not _are_whole(operands[1:]):
        return unknown
    by_batch = bool(call.argument("training", False))
    # An operator that takes the statistics of the batch writes them down, too, and those are the model's own tensors.
    names = ("running_mean", "running_var")
    without = {name: None for name in names if by_batch and call.argument(name) is not None}
    values = call.run(values_of, **without)[0]
    assert values is not None
    known = knowledge.known
    if by_batch and known is not None:
        others = tuple(d for d in range(known.dim()) if d != 1)
        known = known.all(dim=others, keepdim=True).expand(values.shape)
    return [learned(values, known), *unknown[1:]]


@rule("convolution", "_convolution")
def convolution(call: Call) -> Learned:
    """Known where all channels of a group are, as for the lone channel of a depthwise convolution."""
    operands = call.operands()
    knowledge = operands[0].knowledge
    if knowledge is None or not _are_whole(operands[1:]):
        return [None]
    if knowledge.known is None:
        return of_what_is_known(call)
    planes = knowledge.known.flatten(2).all(dim=2)
    groups = call.argument("groups", 1)
    known = planes.reshape(planes.shape[0], groups, -1).all(dim=2)
    if not bool(known.any()):
        return [None]
    values = call.run(values_of)[0]
    assert values is not None
    spread = known[:, :, None].expand(-1, -1, values.shape[1] // groups).reshape(values.shape[:2])
    return [learned(values, spread.reshape(*spread.shape, *[1] * (values.dim() - 2)).expand(values.shape))]


@rule("mm", "bmm", "addmm", "baddbmm")
def matrix_product(call: Call) -> Learned:
    """Known where a whole row meets a whole column (and what is added to them is known)."""
    operands = call.operands()
    if any(operand.knowledge is None for operand in operands):
        return [None]
    if all(operand.knowledge is not None and operand.knowledge.known is None for operand in operands):
        return of_what_is_known(call)
    left, right = (operand.knowledge for operand in operands[-2:])
    assert left is not None and right is not None
    rows, columns = left.mask().all(dim=-1, keepdim=True), right.mask().all(dim=-2, keepdim=True)
    known: Tensor = rows & columns
    if len(operands) == 3:
        added = operands[0].knowledge
        assert added is not None
        known = known & added.mask()
    if not bool(known.any()):
        return [None]
    values = call.run(values_of)[0]
    assert values is not None
    return [learned(values, known.expand(values.shape))]
