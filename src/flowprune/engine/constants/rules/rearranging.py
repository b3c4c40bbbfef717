"""Operators that put entries elsewhere and change none: what is known goes where its entry goes."""

from __future__ import annotations

import torch
from torch import Tensor

from flowprune.engine.constants.call import Call, Operand, values_of
from flowprune.engine.constants.knowledge import Knowledge, learned, nothing
from flowprune.engine.constants.rules import Learned, of_what_is_known, rule


@rule(
    *("permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "expand_copy", "slice", "select", "split"),
    *("split_with_sizes", "unbind", "alias", "detach", "lift_fresh"),
)
def viewed(call: Call) -> Learned:
    """A view of the values and the same view of the mask: what is written into either is seen in the other."""
    knowledge = call.first().knowledge
    if knowledge is None:
        return [None] * len(call.operation.outputs)
    values = call.run(lambda operand: knowledge.values)
    if knowledge.known is None:
        return [None if part is None else Knowledge(part) for part in values]
    known = knowledge.known
    masks = call.run(lambda operand: known)
    return [None if v is None or m is None else Knowledge(v, m) for v, m in zip(values, masks, strict=True)]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy")
def regrouped(call: Call) -> Learned:
    """In the order of the entries. The walk makes sure that nobody writes into it if this had to be a copy."""
    knowledge, shape = call.first().knowledge, call.operand(_only(call)).shape
    if knowledge is None:
        return [None]
    return [
        Knowledge(knowledge.values.reshape(shape), None if knowledge.known is None else knowledge.known.reshape(shape))
    ]


def _only(call: Call) -> int:
    output = call.operation.outputs[0]
    assert output is not None
    return output


@rule("as_strided")
def laid_out(call: Call) -> Learned:
    """The same shape laid out in another order changes nothing; anything else is not followed."""
    operand = call.first()
    same = tuple(call.argument("size")) == operand.shape and not call.argument("storage_offset")
    contiguous = [int(torch.tensor(operand.shape[d + 1 :]).prod()) for d in range(len(operand.shape))]
    strides = call.argument("stride")
    same = same and all(s == 1 or a == b for s, a, b in zip(operand.shape, strides, contiguous, strict=True))
    return [operand.knowledge if same else None]


_MOVING = """
flip roll repeat pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col reflection_pad1d
reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d tril triu
"""


@rule(*_MOVING.split())
def moved(call: Call) -> Learned:
    """The mask is moved as the values are; what an operator puts beside them is a zero, and known."""
    knowledge = call.first().knowledge
    if knowledge is None:
        return [None]
    values = call.run(lambda operand: knowledge.values)[0]
    assert values is not None
    if knowledge.known is None:
        return [learned(values, None)]
    unknown = (~knowledge.known).to(knowledge.values.dtype)
    spread = call.run(lambda operand: unknown)[0]
    assert spread is not None
    return [learned(values, spread == 0)]


@rule("constant_pad_nd")
def padded(call: Call) -> Learned:
    """What is put around is known, whatever is inside."""
    inside = _something(call.first(), call)
    values = call.run(lambda operand: inside.values)[0]
    mask = torch.constant_pad_nd(inside.mask(), call.argument("pad"), True)
    return [learned(values, mask)] if values is not None else [None]


@rule("cat", "concatenate", "stack")
def joined(call: Call) -> Learned:
    """Side by side; parts of which nothing is known among them."""
    operands = call.operands()
    if all(operand.knowledge is None for operand in operands):
        return [None]
    values = call.run(lambda operand: _something(operand, call).values)[0]
    mask = call.run(lambda operand: _something(operand, call).mask())[0]
    return [None if values is None or mask is None else learned(values, mask)]


def _something(operand: Operand, call: Call) -> Knowledge:
    return operand.knowledge or nothing(operand.shape, operand.dtype, call.device)


@rule("index_select", "index", "repeat_interleave", "gather", "take_along_dim")
def picked(call: Call) -> Learned:
    """Picked by numbers that are all known; by numbers that data decides, nothing is known of what is picked."""
    operands = call.operands()
    knowledge = operands[0].knowledge
    if knowledge is None or any(o.knowledge is None or not o.knowledge.is_whole() for o in operands[1:]):
        return [None] * len(call.operation.outputs)
    if knowledge.known is None:
        return of_what_is_known(call)
    first, known = operands[0].value, knowledge.known

    def mask_of(operand: Operand) -> Tensor:
        return known if operand.value == first else values_of(operand)

    values, mask = call.run(values_of)[0], call.run(mask_of)[0]
    return [None if values is None or mask is None else learned(values, mask)]


@rule("index_copy")
def put_at_places(call: Call) -> Learned:
    """Put into others at places that are all known."""
    x, places, source = call.argument("self"), call.argument("index"), call.argument("source")
    if places.knowledge is None or not places.knowledge.is_whole():
        return [None]
    if x.knowledge is None and source.knowledge is None:
        return [None]
    into, put = _something(x, call), _something(source, call)
    dimension, where = call.argument("dim"), places.knowledge.values
    values = into.values.index_copy(dimension, where, put.values)
    return [learned(values, into.mask().index_copy(dimension, where, put.mask()))]


@rule("empty_like", "empty_strided", "new_empty", "new_empty_strided")
def uninitialised(call: Call) -> Learned:
    """Memory that nobody has written to yet."""
    made = call.operand(_only(call))
    return [nothing(made.shape, made.dtype, call.device)]
