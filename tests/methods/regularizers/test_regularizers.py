"""The registry of training-time penalties, and FFR in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowprune.engine.interfaces import Training
from flowprune.errors import UnknownNameError
from flowprune.methods.regularizers import REGISTRY, Regularizer
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.replacements import replace
from flowprune.models.resnet import CifarResNet

torch.set_num_threads(1)


def test_ffr_is_known_by_name_and_keeps_the_interface():
    assert "ffr" in REGISTRY and REGISTRY["ffr"] is FeatureFlow
    regularizer = REGISTRY["ffr"](CifarResNet(1, width=4), gradient="5%")
    assert isinstance(regularizer, Regularizer)


ACTS_ON = {"mixed_precision": "folded_norms", "squeezing": "widened_convolution"}
"""Regularizers of networks in which modules were replaced before: the first searches bits of the filters that are run."""


def test_every_regularizer_trains_in_one_line_resumes_and_leaves():
    for name in REGISTRY:
        model: nn.Module = CifarResNet(1, width=4).eval()
        if name in ACTS_ON:
            model = replace(model, torch.zeros(1, 3, 8, 8), replacement=ACTS_ON[name])
        model.train()
        options = {"gradient": "5%"} if name == "ffr" else {}
        regularizer = REGISTRY[name](model, inputs=torch.zeros(1, 3, 8, 8), **options)
        regularizer.begin(Training(torch.optim.SGD(model.parameters(), lr=0.1), 1, 60))
        for _ in range(3):
            images, targets = torch.randn(4, 3, 8, 8), torch.arange(4)
            loss = nn.functional.cross_entropy(model(images), targets)
            (loss + regularizer.penalty(loss, batch=(images, targets))).backward()
        regularizer.load_state_dict(regularizer.state_dict())
        regularizer.close()
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'ffr'"):
        REGISTRY["frr"]
