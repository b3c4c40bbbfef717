"""Torchvision's and timm's networks, attention among them, equal their silenced twins."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin

import flowprune.models as models
from flowprune.methods.importance import L2, Random
from flowprune.pruning import plan, prune

NETWORKS = {
    "torchvision:resnet18": 64,
    "torchvision:mobilenet_v3_large": 64,
    "torchvision:shufflenet_v2_x1_0": 64,
    "torchvision:squeezenet1_0": 64,
    "torchvision:convnext_tiny": 64,
    "torchvision:efficientnet_b0": 64,
    "timm:test_vit": 160,
    "timm:test_resnet": 96,
    "timm:test_convnext": 96,
    "timm:test_efficientnet": 96,
    "timm:test_byobnet": 96,
    "timm:deit_tiny_patch16_224": 224,
    "timm:poolformerv2_s12": 64,
    "timm:swin_tiny_patch4_window7_224": 224,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_its_silenced_twin(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm", reason="the extra `zoo` is not installed")
    torch.manual_seed(0)
    model = randomized(models.create(name, classes=7)).double().eval()
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # layer scales, position embeddings and heads start near zero: nothing may hide there
            if float(parameter.abs().max()) < 1e-2:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    images = torch.randn(2, 3, NETWORKS[name], NETWORKS[name], dtype=torch.float64)
    for importance, budget in ((L2(), {"channels": 0.5}), (Random(seed=1), {"params": 0.6})):
        made = plan(model, images[:1], importance=importance, **budget)
        small = prune(model, made).eval()
        with torch.no_grad():
            dense_output, twin_output, output = (
                network(images) for network in (model, silenced_twin(model, made), small)
            )
        scale = max(1.0, float(twin_output.abs().max()))
        assert largest_difference(output, twin_output) < 1e-10 * scale
        assert largest_difference(dense_output, twin_output) > 1e-6 * scale
        assert made.params[1] <= 0.7 * made.params[0]


def test_a_standardized_weight_keeps_its_inputs() -> None:
    """Weight standardisation scales a filter by all its weights: fewer inputs would scale the others."""
    pytest.importorskip("timm", reason="the extra `zoo` is not installed")
    torch.manual_seed(0)
    model = models.create("timm:test_nfnet", classes=7).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if float(parameter.abs().max()) < 1e-2:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    made = plan(model, images[:1], importance=Random(seed=1), channels=0.5)
    small = prune(model, made).eval()
    with torch.no_grad():
        dense_output, twin_output, output = (network(images) for network in (model, silenced_twin(model, made), small))
    assert largest_difference(output, twin_output) < 1e-10
    assert largest_difference(dense_output, twin_output) > 1e-6
