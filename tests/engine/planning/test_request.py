"""A request holds what ``plan`` is asked for, and refuses what cannot be asked."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.engine.allocation import KINDS
from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.planning import CoupledModel, Request
from flowprune.engine.planning.request import AskedOnce, name_of
from flowprune.errors import BudgetError


def test_plan_asks_for_what_a_request_holds_with_the_same_defaults() -> None:
    asked = {
        name: parameter.default
        for name, parameter in inspect.signature(fp.plan).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in (*KINDS, "scope")
    }
    assert asked == {field.name: field.default for field in fields(Request) if field.name != "budget"}


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "exactly one budget"),
        ({"macs": 0.5, "params": 0.5}, "2 were given"),
        ({"macs": 0.5, "scope": "near"}, "scope='near' is not known"),
        ({"macs": 0.5, "branches": "some"}, "branches='some' is not known"),
        ({"macs": 0.5, "branches": True, "heads": "both"}, 'branches with heads="both"'),
        ({"macs": 0.5, "largest_cut": 0}, "largest_cut=0 is not a share"),
        ({"macs": 0.5, "round_to": True}, "round_to=True is not a width"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_there_is_a_model(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BudgetError, match=said):
        Request.of(**options)


def test_a_criterion_is_asked_anew_only_when_the_groups_have_changed() -> None:
    times: list[int] = []

    def counting(model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        times.append(len(groups))
        return [torch.ones(group.channels) for group in groups]

    model, images = fp.models.create("resnet8"), torch.zeros(1, 3, 32, 32)
    whole = CoupledModel.of(model, images).coupling.groups
    part = CoupledModel.of(model, images, freeze={"conv1.weight": 0}).coupling.groups
    criterion = AskedOnce(counting)
    for groups in (whole, CoupledModel.of(model, images).coupling.groups, part, whole):
        assert [len(score) for score in criterion(model, images, groups)] == [group.channels for group in groups]
    assert times == [len(whole), len(part)]
    assert name_of(AskedOnce(fp.importance.L2())) == "L2" and name_of(None) == "filter_scale"
