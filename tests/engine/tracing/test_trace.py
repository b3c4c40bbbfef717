"""A traced pass names what ran, where, on what; and leaves the model alone."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import torch
from silenced_twin import same_state
from torch import Tensor, nn

import flowprune.models as models
from flowprune.engine.tracing import Reference, observe, replay, trace
from flowprune.engine.tracing.expressions import Attribute, attributes_in, is_derived_from_sizes
from flowprune.engine.tracing.integers import Integer


def test_operations_of_a_block_in_order() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 2)
    )
    graph = trace(model, torch.randn(1, 3, 8, 8))
    assert [operation.name for operation in graph.operations] == [
        "aten.convolution", "aten.native_batch_norm", "aten.relu_", "aten.view", "aten.t", "aten.addmm",
    ]  # fmt: skip
    assert [operation.module for operation in graph.operations] == ["0", "1", "2", "3", "4", "4"]
    weight = graph.operations[0].argument("weight")
    assert isinstance(weight, Reference) and graph.parameters[weight.value] == "0.weight"
    assert graph.values[graph.outputs[0]].shape == (1, 2)
    assert [call.path for call in graph.calls] == ["0", "1", "2", "3", "4", ""]


def test_tracing_touches_nothing() -> None:
    model = models.create("resnet20")
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for training in (False, True):
        trace(model, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), training=training)
    assert torch.equal(before, torch.get_rng_state())
    assert same_state(state, model.state_dict()) and model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_code_that_reads_data_is_traced_on_real_tensors() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.layer(x))
            return x if float(x.abs().sum()) >= 0 else -x

    model = Reading()
    state = copy.deepcopy(model.state_dict())
    assert trace(model, torch.randn(3, 4), training=True).tensors == "real"
    assert same_state(state, model.state_dict())


def test_keyword_and_structured_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, left: Tensor, *, right: Tensor) -> dict[str, object]:
            return {"sum": self.layer(left + right), "parts": [left, right]}

    graph = trace(Two(), {"left": torch.randn(1, 4), "right": torch.randn(1, 4)})
    assert len(graph.inputs) == 2 and len(graph.outputs) == 3


def test_a_batch_of_one_is_doubled_where_batch_norm_needs_it() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert trace(model, torch.randn(1, 4), training=True).values[-1].shape[0] in (2, 3)


def test_integers_keep_their_provenance_into_the_operator() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = 3

        def forward(self, x: Tensor) -> Tensor:
            b, c, h, w = x.shape
            return x.reshape(b, self.rows, c // self.rows, h * w)

    (view,) = trace(Viewing(), torch.randn(2, 6, 4, 4)).operations
    batch, rows, rest, positions = view.integers["shape" if "shape" in view.integers else "size"]
    assert batch[0] == "size" and attributes_in(rows) == [Attribute("", "rows")]
    assert attributes_in(rest) == [Attribute("", "rows")] and not is_derived_from_sizes(rest)
    assert is_derived_from_sizes(positions)


def test_integer_arithmetic_is_an_integer_s() -> None:
    seven = Integer(7, ("attribute", "", "n", None))
    assert (seven + 2, 2 + seven, seven - 2, 9 - seven, seven * 3, 3 * seven, seven // 2, 15 // seven) == (
        9,
        9,
        5,
        2,
        21,
        21,
        3,
        2,
    )
    assert (-seven, +seven, seven % 4, 9 % seven, seven >> 1, seven << 1, divmod(seven, 2), round(seven)) == (
        -7, 7, 3, 2, 3, 14, (3, 1), 7,
    )  # fmt: skip
    assert (
        type(-seven) is type(seven % 4) is type(seven >> 1) is type(round(seven)) is type(math.ceil(seven)) is Integer
    )
    assert (seven**2, 2**seven, 14 / seven, math.sqrt(seven + 2), int(seven)) == (49, 128, 2.0, 3.0, 7)
    assert type(int(seven)) is type(seven**2) is int
    assert seven / 2 == 3.5 and seven * 0.5 == 3.5 and seven == 7 and type(seven * 0.5) is float
    assert type(copy.deepcopy(seven)) is Integer


def test_replay_can_replace_what_an_operator_returns() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    images = torch.randn(2, 3)
    zeros = replay(model, images, lambda index, run, arguments, keywords: run().zero_() if index == 1 else run())
    assert torch.equal(zeros, torch.zeros(2, 3))
    seen = observe(model, images, [(2, 0)])
    assert torch.equal(seen[2, 0], model(images))


def test_a_pass_is_freed_when_nobody_holds_it_any_more() -> None:
    """Not by the cyclic collector, which plans pause: a big network's passes would pile up until it is let run."""
    gc.collect()
    gc.disable()
    try:
        graph = weakref.ref(trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8)))
        assert graph() is None
    finally:
        gc.enable()
