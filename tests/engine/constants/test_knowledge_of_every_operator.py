"""What a rule says is known is so: with the unknown entries filled in any way, the operator returns what was said.

Each function here runs on a tensor of which some channels are known (and some single entries), and on further inputs of which
nothing is known. It is interpreted, and then really run on three fillings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowprune.engine.constants.interpretation import interpret
from flowprune.engine.constants.knowledge import Knowledge
from flowprune.engine.constants.rules import _RULES
from flowprune.engine.tracing import Operation, trace

IMAGES, CHANNELS, SIZE = 2, 6, 4
KNOWN = {0: 0.7, 1: 0.0, 2: -0.4}
"""Channel -> the number it is everywhere; of channel 3 one position is known."""


class Function(nn.Module):
    """``x`` passes an operator of its own, at which it is said to be known, then the function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(7)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.kernel = nn.Parameter(drawn(CHANNELS, 1, 3, 3))
        self.grouped = nn.Parameter(drawn(4, 3, 3, 3))
        self.full = nn.Parameter(drawn(5, CHANNELS, 1, 1))
        self.scale = nn.Parameter(drawn(CHANNELS))
        self.matrix = nn.Parameter(drawn(SIZE, 3))
        self.register_buffer("mean", drawn(CHANNELS))
        self.register_buffer("variance", drawn(CHANNELS).square() + 0.5)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 5, 4]))

    def forward(self, x: Tensor, other: Tensor, numbers: Tensor) -> Any:
        return self.function(self, x.clone(), other, numbers)


def written_slice(m: Any, x: Tensor, o: Tensor, n: Tensor) -> Tensor:
    made = torch.zeros(IMAGES, CHANNELS + 2, SIZE, SIZE)
    made[:, 1:-1] = x
    return made


def written_over(m: Any, x: Tensor, o: Tensor, n: Tensor) -> Tensor:
    part = x[:, 1:3]
    part.mul_(o[:, 1:3])
    return x


def written_through_a_view_of_it(m: Any, x: Tensor, o: Tensor, n: Tensor) -> Tensor:
    flat = x.view(IMAGES, -1)
    flat.add_(o.reshape(IMAGES, -1))
    return x + 0


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: (lambda f: lambda m, x, o, n: f(x))(getattr(torch, name))
        for name in (
            *("abs", "neg", "exp", "exp2", "expm1", "sin", "cos", "tan", "tanh", "atan", "erf", "erfc", "sigmoid"),
            *("reciprocal", "square", "relu", "sign", "floor", "ceil", "round", "trunc", "frac", "isnan", "isfinite"),
            *("isinf", "logical_not", "nan_to_num", "clone", "celu", "selu"),
        )
    },
    **{
        name: (lambda f: lambda m, x, o, n: f(x.abs() + 0.3))(getattr(torch, name))
        for name in ("sqrt", "rsqrt", "log", "log2", "log10", "log1p")
    },
    **{
        name: (lambda f: lambda m, x, o, n: f(x))(getattr(F, name))
        for name in (
            *("relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "softplus"),
            *("softsign", "logsigmoid", "hardshrink", "softshrink", "rrelu"),
        )
    },
    **{
        name: (
            lambda f: lambda m, x, o, n: (f(x, o), f(x, m.scale.view(1, -1, 1, 1)), f(m.scale.view(1, -1, 1, 1), x))
        )(getattr(torch, name))
        for name in (
            *("add", "sub", "mul", "div", "maximum", "minimum", "fmax", "fmin", "eq", "ne", "lt", "le", "gt", "ge"),
            *("remainder", "fmod", "logical_and", "logical_or", "logical_xor"),
        )
    },
    "rsub": lambda m, x, o, n: torch.rsub(x, 2.0),
    "logit": lambda m, x, o, n: torch.logit(x.sigmoid()),
    "pow": lambda m, x, o, n: x**2,
    "prelu": lambda m, x, o, n: F.prelu(x, m.scale),
    "threshold": lambda m, x, o, n: F.threshold(x, 0.1, 3.0),
    "clamp": lambda m, x, o, n: (x.clamp(0, 1), x.clamp(min=o), x.clamp_min(0.2), x.clamp_max(0.2), x.clamp_min_(0.1)),
    "lerp": lambda m, x, o, n: torch.lerp(x, o, 0.3),
    "addcmul": lambda m, x, o, n: (torch.addcmul(x, x, o), torch.addcmul(x, x, x), torch.addcdiv(x, x, x + 2)),
    "bitwise": lambda m, x, o, n: ((x > 0) & (x < 1), (x > 0) | (o > 0), ~(x > 0), (n & 3), n // 2, n % 3),
    "cast": lambda m, x, o, n: (x.double(), x.to(torch.int64), x.bool(), (o > 0).float()),
    "where": lambda m, x, o, n: (
        torch.where(o > 0, x, torch.zeros_like(x)),
        torch.where(x > 0, x, o),
        torch.where(x > 0, o, x),
        torch.where(o > 0, x, x.clone()),
        torch.where(x > 0, 1.0, x),
        torch.where(n.view(-1, 1, 1, 1) > 2, x, x + 1),
    ),
    "masked_fill": lambda m, x, o, n: (
        x.masked_fill(o > 0, 0.0),
        x.masked_fill(x > 0, 0.5),
        o.masked_fill(x == 0, 2.0),
        x.masked_fill(o > 0, m.scale[0]),
        x.masked_fill_(o > 0, 0.7),
    ),
    "gates": lambda m, x, o, n: (
        x * (o > 0).float(),
        x * o.sigmoid(),
        x * o,
        x * torch.nan_to_num(o),
        x * F.relu6(o + 3) / 6,
        x * o.clamp(0, 1),
        x * o.argmax(1, keepdim=True).float(),
        x * F.one_hot(o.argmax(1), CHANNELS).permute(0, 3, 1, 2).to(x.dtype),
        x * F.embedding(n, m.scale.view(1, -1).repeat(9, 1))[:, :, None, None],
    ),
    "made anew": lambda m, x, o, n: (
        torch.zeros_like(o) + x,
        o.new_ones(1, CHANNELS, 1, 1) * x,
        torch.full_like(o, 2.0),
        o.new_zeros(3),
        o.new_full((2,), 3.0),
        torch.ones_like(o),
        o.clone().fill_(2.0),
        o.clone().zero_(),
        torch.arange(CHANNELS).view(1, -1, 1, 1) * x,
    ),
    "copy": lambda m, x, o, n: (o.clone().copy_(x), torch.empty_like(o).copy_(x), o.new_empty(x.shape).copy_(x)),
    "out": lambda m, x, o, n: torch.add(x, x, out=torch.empty(x.shape)),
    "glu": lambda m, x, o, n: (F.glu(x, 1), F.glu(torch.cat([x, o], 1), 1), F.glu(x, 3)),
    "written slice": written_slice,
    "written over": written_over,
    "written through a view": written_through_a_view_of_it,
    "inplace": lambda m, x, o, n: (F.relu_(x), x.add_(1), x.mul_(o.sigmoid()), x.sub_(o), x.add_(x), x.zero_(), x + 1),
    "views": lambda m, x, o, n: (
        x.permute(1, 0, 2, 3),
        x.transpose(1, 2),
        x.unsqueeze(1),
        x[:, :, :1].squeeze(2),
        x[:, None].expand(-1, 3, -1, -1, -1),
        x[:, 1:4],
        x[:, 2],
        x.chunk(3, 1),
        x.split([1, 2, 3], 1),
        x.unbind(1),
        x.detach(),
        x.flatten(1),
        x.reshape(IMAGES, 3, -1),
        x.transpose(1, 2).reshape(IMAGES, -1),
        x.clone().unsqueeze_(0),
        x.clone().transpose_(1, 2),
        m.matrix.t(),
    ),
    "moved": lambda m, x, o, n: (
        x.flip(2),
        x.roll(1, 1),
        x.repeat(1, 2, 1, 1),
        F.pixel_shuffle(torch.cat([x[:, :2], o[:, :2]], 1), 2),
        F.pixel_unshuffle(x, 2),
        F.channel_shuffle(x, 3),
        F.unfold(x, 3, padding=1),
        F.pad(x, (1, 1, 1, 1), mode="reflect"),
        F.pad(x, (1, 1, 1, 1), mode="replicate"),
        F.pad(x.mean(3), (1, 1), mode="reflect"),
        x.tril(),
        x.triu(),
    ),
    "pad": lambda m, x, o, n: (F.pad(x, (0, 0, 0, 0, 1, 1)), F.pad(x, (1, 1), value=2.0), F.pad(o, (0, 0, 0, 0, 1, 1))),
    "joined": lambda m, x, o, n: (torch.cat([x, o], 1), torch.cat([o, x.new_zeros(x.shape)], 1), torch.stack([x, o])),
    "picked": lambda m, x, o, n: (
        x.index_select(1, m.order),
        x[:, m.order],
        x[n.clamp(0, 1)],
        x.repeat_interleave(2, 1),
        x.gather(1, torch.zeros_like(o, dtype=torch.long)),
        x.gather(1, n.clamp(0, 5).view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE)),
        m.scale[n],
        m.scale[m.order],
        F.embedding(m.order, m.matrix.t().repeat(3, 1)),
        o.index_copy(1, m.order[:3], x[:, :3]),
        x.index_copy(1, m.order[:3], o[:, :3]),
        x.take_along_dim(m.order.view(1, -1, 1, 1), 1),
    ),
    "pools": lambda m, x, o, n: (
        F.max_pool2d(x, 2),
        F.max_pool2d(x, 3, 1, 1),
        F.avg_pool2d(x, 3, 1, 1),
        F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        F.adaptive_avg_pool2d(x, 1),
        F.adaptive_avg_pool2d(x, 3),
        F.adaptive_max_pool2d(x, 2),
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, scale_factor=2, mode="nearest-exact"),
        F.interpolate(x, scale_factor=2, mode="bilinear"),
        F.interpolate(x, scale_factor=2, mode="bicubic"),
        F.interpolate(x, size=3, mode="bilinear", antialias=True),
        F.interpolate(x, size=3, mode="bicubic", antialias=True),
    ),
    "pools of 1 dimension": lambda m, x, o, n: [
        f(x.flatten(2))
        for f in (
            lambda s: F.max_pool1d(s, 2),
            lambda s: F.avg_pool1d(s, 3, 1, 1),
            lambda s: F.adaptive_avg_pool1d(s, 3),
            lambda s: F.adaptive_max_pool1d(s, 3),
            lambda s: F.interpolate(s, scale_factor=2),
            lambda s: F.interpolate(s, scale_factor=2, mode="linear"),
            lambda s: F.interpolate(s, scale_factor=2, mode="nearest-exact"),
        )
    ],
    "pools of 3 dimensions": lambda m, x, o, n: [
        f(x.unsqueeze(2).expand(-1, -1, 2, -1, -1))
        for f in (
            lambda s: F.max_pool3d(s, 2),
            lambda s: F.avg_pool3d(s, 2),
            lambda s: F.adaptive_avg_pool3d(s, 2),
            lambda s: F.adaptive_max_pool3d(s, 2),
            lambda s: F.interpolate(s, scale_factor=2),
            lambda s: F.interpolate(s, scale_factor=2, mode="trilinear"),
            lambda s: F.interpolate(s, scale_factor=2, mode="nearest-exact"),
            lambda s: F.pad(s, (1, 1, 1, 1, 1, 1), mode="replicate"),
            lambda s: F.pad(s, (1, 1, 1, 1, 1, 1), mode="reflect"),
        )
    ],
    "reduced": lambda m, x, o, n: (
        [
            reduced
            for f in (torch.mean, torch.sum, torch.amax, torch.amin, torch.var, torch.std, torch.logsumexp)
            for reduced in (f(x, (2, 3)), f(x, (2, 3), keepdim=True), f(x, (1,)))
        ]
        + [
            x.mean(),
            x.max(),
            x.min(),
            x.sum(),
            x.max(2),
            x.min(2, keepdim=True)[0],
            x.prod(2),
            torch.var_mean(x, (2, 3)),
            torch.std_mean(x, (2, 3)),
            torch.linalg.vector_norm(x, dim=(2, 3)),
            x.norm(dim=2),
            (x > 0).any(2),
            (x > 0).all(2),
        ]
    ),
    "normalised": lambda m, x, o, n: (
        x.softmax(3),
        x.softmax(1),
        x.log_softmax(3),
        F.layer_norm(x, (SIZE, SIZE)),
        F.layer_norm(x, (SIZE,), m.matrix[:, 0], m.matrix[:, 1]),
        F.group_norm(x, 2, m.scale, m.scale),
        F.group_norm(x, 6),
        F.instance_norm(x, weight=m.scale, bias=m.scale),
        F.batch_norm(x, m.mean, m.variance, m.scale, m.scale),
        F.batch_norm(x, None, None, m.scale, m.scale, training=True),
        F.batch_norm(o, m.mean, m.variance, m.scale, m.scale),
    ),
    "convolved": lambda m, x, o, n: (
        F.conv2d(x, m.kernel, m.scale, padding=1, groups=CHANNELS),
        F.conv2d(x, m.grouped, padding=1, groups=2),
        F.conv2d(x, m.full),
        F.conv_transpose2d(x, m.kernel, groups=CHANNELS),
        F.conv2d(x, o[:1, :, :1, :1]),
    ),
    "products": lambda m, x, o, n: (
        x.flatten(0, 2) @ m.matrix,
        torch.addmm(m.matrix[0], x.flatten(0, 2), m.matrix),
        x.flatten(0, 1) @ o.flatten(0, 1),
        x.flatten(0, 1) @ x.flatten(0, 1),
        torch.baddbmm(x.flatten(0, 1), x.flatten(0, 1), x.flatten(0, 1)),
        m.matrix.t() @ m.matrix,
    ),
    "random": lambda m, x, o, n: (x * torch.rand_like(x), torch.bernoulli(x.sigmoid()), F.dropout(x), torch.randn(3)),
    "without a rule": lambda m, x, o, n: (x.cumsum(3), x.sort(3)[0], x.topk(2, 3)[0], m.matrix.cumsum(0), x.histc()),
    "complex": lambda m, x, o, n: (torch.fft.fft2(x).real, torch.view_as_real(torch.complex(x, o))),
}


def interpreted(module: Function, x: Tensor, mask: Tensor, *rest: Tensor) -> tuple[list[Knowledge | None], set[str]]:
    """What is known of each tensor that the function returns, and the operators that ran."""
    graph = trace(module.eval(), (x, *rest))
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    first = next(operation.index for operation in graph.operations if operation.name == "aten.clone")

    def told(operation: Operation, known: Knowledge | None) -> Knowledge | None:
        return Knowledge(torch.where(mask, x, 0.0), mask) if operation.index == first else known

    found = interpret(graph, tensors, (x, *rest), lambda operation, known, finite: None, told)
    return [found.get(value) for value in graph.outputs], {operation.name for operation in graph.operations}


def tensors_of(result: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def given() -> tuple[Tensor, Tensor]:
    """x and what is known of it."""
    x = torch.randn(IMAGES, CHANNELS, SIZE, SIZE)
    mask = torch.zeros_like(x, dtype=torch.bool)
    for channel, value in KNOWN.items():
        x[:, channel], mask[:, channel] = value, True
    mask[:, 3, 0, 0] = True
    return x, mask


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_known_is_so_whatever_the_rest_is(name: str) -> None:
    torch.manual_seed(0)
    module = Function(FUNCTIONS[name])
    x, mask = given()
    found, _ = interpreted(module, x, mask, torch.randn_like(x), torch.tensor([1, 4]))
    for filling in range(3):
        torch.manual_seed(filling + 1)
        other = torch.randn_like(x) * (1 if filling else 1e4)
        filled = torch.where(mask, x, torch.randn_like(x) * 3)
        with torch.no_grad():
            returned = tensors_of(module(filled, other, torch.tensor([filling, 2 * filling])))
        assert len(returned) == len(found)
        for tensor, knowledge in zip(returned, found, strict=True):
            if knowledge is not None:
                known = knowledge.mask()
                assert torch.allclose(tensor[known].double(), knowledge.values[known].double(), atol=1e-5), name


CONSTANT = 3 / CHANNELS
PASSED_ON: dict[str, list[tuple[int, float]]] = {
    "relu": [(0, CONSTANT)],
    "rrelu": [(0, CONSTANT)],
    "add": [(1, CONSTANT)],
    "mul": [(1, CONSTANT)],
    "gates": [(0, 1 / CHANNELS), (1, 1 / CHANNELS), (3, 1 / CHANNELS), (8, 1 / CHANNELS)],
    "where": [(0, 1 / CHANNELS), (3, CONSTANT)],
    "masked_fill": [(0, 1 / CHANNELS)],
    "made anew": [(0, CONSTANT), (1, CONSTANT), (6, 1.0), (8, CONSTANT)],
    "copy": [(1, CONSTANT), (2, CONSTANT)],
    "written slice": [(0, 5 / 8)],
    "views": [(0, CONSTANT), (10, 1.0), (11, 1.0), (23, CONSTANT), (24, CONSTANT), (25, 1.0)],
    "moved": [(0, CONSTANT), (1, CONSTANT), (2, CONSTANT), (6, CONSTANT)],
    "joined": [(0, CONSTANT / 2), (1, 0.5)],
    "picked": [(0, CONSTANT), (1, CONSTANT), (7, 1.0), (9, 2 / CHANNELS)],
    "pools": [(place, CONSTANT) for place in range(13)],
    "pools of 1 dimension": [(place, CONSTANT) for place in range(7)],
    "pools of 3 dimensions": [(place, CONSTANT) for place in range(9)],
    "reduced": [(0, CONSTANT), (1, CONSTANT), (3, CONSTANT), (4, CONSTANT)],
    "normalised": [(0, CONSTANT), (3, CONSTANT), (6, CONSTANT), (8, CONSTANT)],
    "convolved": [(0, CONSTANT), (1, CONSTANT), (3, CONSTANT)],
    "products": [(0, CONSTANT), (1, CONSTANT), (3, CONSTANT), (5, 1.0)],
}
"""(which tensor returned, the least share of it that is known): a rule that only ever said nothing would pass the test above."""


@pytest.mark.parametrize("name", PASSED_ON)
def test_what_can_be_known_is_passed_on(name: str) -> None:
    torch.manual_seed(0)
    x, mask = given()
    found, _ = interpreted(Function(FUNCTIONS[name]), x, mask, torch.randn_like(x), torch.tensor([1, 4]))
    for place, share in PASSED_ON[name]:
        knowledge = found[place]
        assert knowledge is not None, place
        assert float(knowledge.mask().double().mean()) >= share - 1e-9, place


def test_every_rule_was_asked() -> None:
    """Those of operators that are made of others before a trace sees them aside, and those that other devices call."""
    x, mask = given()
    seen: set[str] = set()
    for function in FUNCTIONS.values():
        seen |= interpreted(Function(function), x, mask, torch.randn_like(x), torch.tensor([1, 2]))[1]
    seen |= {name.removesuffix("_") for name in seen}
    elsewhere = {f"aten.{name}" for name in _ELSEWHERE}
    for name in _RULES:
        qualified = f"aten::{name.removeprefix('aten.')}"
        overloads = getattr(torch.ops.aten, name.removeprefix("aten.")).overloads()
        full = [qualified if overload == "default" else f"{qualified}.{overload}" for overload in overloads]
        composite = any(torch._C._dispatch_has_kernel_for_dispatch_key(n, k) for n in full for k in COMPOSITE)
        assert name in seen or name in elsewhere or composite, name


_ELSEWHERE = (
    *("cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("_batch_norm_no_update", "lift_fresh", "_reshape_alias", "as_strided", "native_channel_shuffle"),
)
"""What other devices call, and other versions of torch, and adaptive pools in another layout."""

COMPOSITE = ("CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
