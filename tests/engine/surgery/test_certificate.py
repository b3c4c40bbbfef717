"""The certificate refuses every cut that is not the planned one, and a refused cut touches nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from silenced_twin import randomized
from torch import nn
from torture_networks import IMAGE, TORTURE

import flowprune.models as models
from flowprune.engine.allocation import Budget, Plan
from flowprune.engine.coupling import Analysis
from flowprune.engine.planning import CoupledModel, Request, assemble, select
from flowprune.engine.surgery import Refusal, certify, cut_on_meta
from flowprune.methods.importance import L2

SUBJECTS: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: models.create("resnet8"),
    "vgg6": lambda: models.create("vgg6", in_channels=3),
    **{
        name: TORTURE[name]
        for name in (
            "depthwise and pointwise",
            "grouped convolution in a residual",
            "channel shuffle",
            "C2f of YOLOv8",
            "flatten and linear",
        )
    },
}


class Prepared:
    """A planned cut and everything the certificate wants to know."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model = randomized(SUBJECTS[name]()).eval()
        self.images = torch.randn(2, *((3, 32, 32) if name in ("resnet8", "vgg6") else IMAGE))
        self.coupled = CoupledModel.of(self.model, self.images, ())
        request = Request(Budget("channels", share=0.5), L2())
        self.selection = select(self.coupled, request, self.model, self.images, {})
        made = assemble(self.selection, self.coupled, request)
        assert isinstance(made, Plan)
        self.plan = made

    def certify_nothing(self) -> Refusal | None:
        """The cut that removes nothing: every claim of the rules is then one about all channels of the dense model."""
        nothing = dataclasses.replace(self.plan, removed={}, attributes=())
        stays = np.zeros_like(self.selection.removed)
        dense = cut_on_meta(self.model, nothing)
        return certify(dense, self.images, nothing, self.coupled.coupling, self.coupled.passes, stays)

    def certify(self, plan: Plan, change: Callable[[nn.Module], None] | None = None) -> Refusal | None:
        small = cut_on_meta(self.model, plan)
        if change is not None:
            change(small)
        return certify(small, self.images, plan, self.coupled.coupling, self.coupled.passes, self.selection.removed)


@pytest.fixture(scope="module", params=sorted(SUBJECTS))
def prepared(request: pytest.FixtureRequest) -> Prepared:
    return Prepared(request.param)


def test_the_planned_cut_is_certified(prepared: Prepared) -> None:
    assert prepared.certify(prepared.plan) is None


def test_the_analysis_agrees_with_itself(prepared: Prepared) -> None:
    """No rule claims of the whole dense model what the groups deny."""
    assert prepared.certify_nothing() is None


@pytest.mark.parametrize("name", ["resnet8", "flatten and linear"])
def test_shifted_joins_are_refused_whatever_leaves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut may happen to remove the very channels that would show a shift; the whole model shows it always."""
    join = Analysis.join

    def shifted(state: Analysis, left: np.ndarray, right: np.ndarray) -> None:
        norm = state.operation is not None and "batch_norm" in state.operation.name
        join(state, left, np.roll(right, 1) if norm else right)

    monkeypatch.setattr(Analysis, "join", shifted)
    refusal = Prepared(name).certify_nothing()
    assert refusal is not None and "different channels meet" in refusal.reason


def shifted_slices(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Plans that cut one other index of one tensor's one dimension: right in every size, wrong in one channel."""
    for name, dimensions in plan.removed.items():
        for dimension, removed in dimensions.items():
            size = plan.shapes[name][dimension]
            free = [i for i in range(size) if i not in removed]
            changed = tuple(sorted((*removed[1:], free[0])))
            slices = {**plan.removed, name: {**dimensions, dimension: changed}}
            yield f"{name}[{dimension}]", dataclasses.replace(plan, removed=slices)


def test_one_wrong_index_in_any_tensor_is_refused(prepared: Prepared) -> None:
    mutants = list(shifted_slices(prepared.plan))
    assert len(mutants) > 5
    for what, mutant in mutants:
        assert prepared.certify(mutant) is not None, what


def size_attributes(model: nn.Module) -> Iterator[tuple[str, Callable[[nn.Module], None]]]:
    """One attribute that the forward reads, off by a little."""

    def change(path: str, name: str, value: object) -> Callable[[nn.Module], None]:
        return lambda small: setattr(small.get_submodule(path), name, value)

    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield f"{path}.stride", change(path, "stride", (3, 3))
            yield f"{path}.padding", change(path, "padding", (4, 4))
            yield f"{path}.dilation", change(path, "dilation", (2, 2))
            if module.groups > 1:
                yield f"{path}.groups", change(path, "groups", 1)
        if isinstance(module, nn.BatchNorm2d):
            yield f"{path}.eps", change(path, "eps", 1e-2)
            yield f"{path}.momentum", change(path, "momentum", 0.5)
        for name in ("channels_before", "channels_after"):
            if hasattr(module, name):
                yield f"{path}.{name}", change(path, name, getattr(module, name) + 1)


def test_every_wrong_attribute_is_refused(prepared: Prepared) -> None:
    changes = list(size_attributes(prepared.model))
    assert len(changes) > 5
    for what, change in changes:
        assert prepared.certify(prepared.plan, change) is not None, what


def test_wrong_counts_are_refused(prepared: Prepared) -> None:
    """One channel too many or too few in any dimension of any tensor."""
    for name, dimensions in prepared.plan.removed.items():
        for dimension, removed in dimensions.items():
            slices = {**prepared.plan.removed, name: {**dimensions, dimension: removed[1:]}}
            assert prepared.certify(dataclasses.replace(prepared.plan, removed=slices)) is not None, (
                f"{name}[{dimension}]"
            )


def test_a_forward_that_does_something_else_is_refused() -> None:
    prepared = Prepared("vgg6")

    def other_activation(small: nn.Module) -> None:
        path = next(path for path, module in small.named_modules() if isinstance(module, nn.ReLU))
        parent, _, name = path.rpartition(".")
        setattr(small.get_submodule(parent), name, nn.Tanh())

    refusal = prepared.certify(prepared.plan, other_activation)
    assert refusal is not None and "tanh" in refusal.reason


def test_a_smaller_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the analysis forgot that outputs are fixed, so that the plan itself asks for it."""
    freeze = Analysis.freeze_layout
    monkeypatch.setattr(
        Analysis,
        "freeze_layout",
        lambda state, layout, reason: None if "output" in reason else freeze(state, layout, reason),
    )
    prepared = Prepared("vgg6")
    assert 0 in prepared.plan.removed["classifier.linear.weight"]
    refusal = prepared.certify(prepared.plan)
    assert refusal is not None and "output of the model shrinks" in refusal.reason
