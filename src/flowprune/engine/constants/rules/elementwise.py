"""Operators whose every result depends on the entries at its own place: known where all of those are."""

from __future__ import annotations

import torch
from torch import Tensor

from flowprune.engine.constants.call import Call, Operand, values_of
from flowprune.engine.constants.knowledge import Knowledge, is_zero, learned
from flowprune.engine.constants.rules import Learned, is_random, of_what_is_known, rule

_NAMES = """
abs add sub rsub div neg pow sqrt rsqrt exp exp2 expm1 log log2 log10 log1p sin cos tan tanh atan erf erfc sigmoid
logit reciprocal square relu relu6 leaky_relu prelu _prelu_kernel elu celu selu gelu silu mish hardswish hardsigmoid
hardtanh softplus log_sigmoid_forward threshold hardshrink softshrink clamp clamp_min clamp_max maximum minimum fmax
fmin lerp addcmul addcdiv sign floor ceil round trunc frac remainder fmod eq ne lt le gt ge logical_and logical_or
logical_not logical_xor bitwise_and bitwise_or bitwise_not isnan isfinite isinf _to_copy clone contiguous nan_to_num
native_dropout dropout lift_fresh_copy
"""


@rule(*_NAMES.split())
def elementwise(call: Call) -> Learned:
    """Run on all entries, and believe it where every operand is known. Whole numbers only run where all are: a division by a
    zero that nobody knows would raise."""
    outputs = call.operation.outputs
    operands = call.operands()
    if is_random(call.operation) or any(operand.knowledge is None for operand in operands):
        return [None] * len(outputs)
    numbers = [o for o in operands if not (o.dtype.is_floating_point or o.dtype is torch.bool)]
    if any(o.knowledge is not None and not o.knowledge.is_whole() for o in numbers):
        return of_what_is_known(call)
    results = call.run(values_of)
    known = _everywhere(operands)
    first = results[0]
    assert first is not None
    if known is not None:
        known = known.expand(first.shape)
    return [None if r is None or r.shape != first.shape else learned(r, known) for r in results]


def _everywhere(operands: list[Operand]) -> Tensor | None:
    """Where all operands are known; None where that is everywhere."""
    found: Tensor | None = None
    for operand in operands:
        knowledge = operand.knowledge
        if knowledge is not None and knowledge.known is not None:
            found = knowledge.known if found is None else found & knowledge.known
    return found


@rule("rrelu", "rrelu_with_noise")
def randomised_leak(call: Call) -> Learned:
    """In evaluation the slope is the mean of both bounds, and the noise is not looked at."""
    knowledge = call.first().knowledge
    if knowledge is None or is_random(call.operation):
        return [None]
    slope = (call.argument("lower", 0.125) + call.argument("upper", 1 / 3)) / 2
    return [learned(torch.nn.functional.leaky_relu(knowledge.values, slope), knowledge.known)]


@rule("mul")
def product(call: Call) -> Learned:
    """As every elementwise operator; and a known zero makes zero of whatever is finite by construction."""
    factors = call.operands()
    known = elementwise(call)[0] if all(factor.knowledge is not None for factor in factors) else None
    if len(factors) != 2 or any(not factor.dtype.is_floating_point for factor in factors):
        return [known]
    for factor, other in (factors, factors[::-1]):
        if factor.knowledge is None or not call.bounded(other.value):
            continue
        zero = is_zero(factor.knowledge)
        if not bool(zero.any()):
            continue
        shape = torch.broadcast_shapes(factor.shape, other.shape)
        zero = zero.expand(shape)
        if known is None:
            kind = torch.promote_types(factor.dtype, other.dtype)
            known = learned(torch.zeros(shape, dtype=kind, device=call.device), zero)
        else:
            known = learned(torch.where(zero, torch.zeros_like(known.values), known.values), known.mask() | zero)
    return [known]


@rule("where")
def choice(call: Call) -> Learned:
    """Known where the choice and what it takes are; and where both offers are the same number, whichever is taken."""
    operands = call.operands()
    if len(operands) != 3:  # one of the offers is a number: the other and the choice must be known
        return elementwise(call)
    condition, left, right = operands
    shape = torch.broadcast_shapes(condition.shape, left.shape, right.shape)
    kind = torch.promote_types(left.dtype, right.dtype)

    def spread(operand: Operand) -> tuple[Tensor, Tensor]:
        knowledge = operand.knowledge
        if knowledge is None:
            empty = torch.zeros((), dtype=torch.bool, device=call.device).expand(shape)
            return torch.zeros((), dtype=operand.dtype, device=call.device).expand(shape), empty
        return knowledge.values.expand(shape), knowledge.mask().expand(shape)

    (takes_left, decided), (one, one_known), (other, other_known) = map(spread, operands)
    one, other = one.to(kind), other.to(kind)
    either = one_known & other_known & (one == other)
    known = either | (decided & torch.where(takes_left, one_known, other_known))
    values = torch.where(decided & takes_left, one, torch.where(decided, other, one))
    return [learned(values, known)]


@rule("masked_fill")
def filled_under_a_mask(call: Call) -> Learned:
    """Known where the mask is, and it fills or there is something known beneath; and where that is what it fills with."""
    x, mask = call.argument("self"), call.argument("mask")
    value = call.argument("value")
    if isinstance(value, Operand):
        if value.knowledge is None or not value.knowledge.is_whole():
            return [None]
        value = value.knowledge.values
    filling = torch.as_tensor(value, dtype=x.dtype, device=call.device)
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    values = _values_or_zeros(x, call).expand(shape)
    beneath = _mask_or_nothing(x, call).expand(shape)
    fills = _values_or_zeros(mask, call).bool().expand(shape)
    decided = _mask_or_nothing(mask, call).expand(shape)
    known = (beneath & (values == filling)) | (decided & (fills | beneath))
    return [learned(torch.where(fills, filling, values), known)]


def _values_or_zeros(operand: Operand, call: Call) -> Tensor:
    if operand.knowledge is not None:
        return operand.knowledge.values
    return torch.zeros((), dtype=operand.dtype, device=call.device).expand(operand.shape)


def _mask_or_nothing(operand: Operand, call: Call) -> Tensor:
    if operand.knowledge is not None:
        return operand.knowledge.mask()
    return torch.zeros((), dtype=torch.bool, device=call.device).expand(operand.shape)


@rule("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "zero", "fill")
def made_anew(call: Call) -> Learned:
    """What is made depends on the shape of the first operand, not on its values."""
    rest = call.operands()[1:]
    if any(operand.knowledge is None or not operand.knowledge.is_whole() for operand in rest):
        return [None]
    like = call.first()

    def part(operand: Operand) -> Tensor:
        if operand.value == like.value:
            return torch.empty(operand.shape, dtype=operand.dtype, device=call.device)
        return values_of(operand)

    return [Knowledge(result) for result in call.run(part) if result is not None]


@rule("copy")
def copied(call: Call) -> Learned:
    """The source, in the shape and type of what it is copied into."""
    target, source = call.argument("self"), call.argument("src")
    knowledge = source.knowledge
    if knowledge is None:
        return [None]
    values = knowledge.values.to(target.dtype).expand(target.shape)
    return [learned(values.clone(), None if knowledge.known is None else knowledge.known.expand(target.shape))]


@rule("glu")
def gated_linear_unit(call: Call) -> Learned:
    """One half times the sigmoid of the other: both must be known, or the first be zero."""
    knowledge, dimension = call.first().knowledge, call.argument("dim", -1)
    if knowledge is None:
        return [None]
    values, gates = knowledge.values.chunk(2, dimension)
    known, gates_known = knowledge.mask().chunk(2, dimension)
    zero = known & (values == 0)
    result = torch.where(zero, torch.zeros_like(values), values * torch.sigmoid(gates))
    return [learned(result, zero | (known & gates_known))]
